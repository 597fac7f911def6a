package desktop

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestLauncher makes launchers of the entries in testdata. UPDATE_GOLDEN=1 writes them anew; read what changed.
func TestLauncher(t *testing.T) {
	files, err := filepath.Glob("testdata/*.desktop")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		e, err := Read(file)
		if err != nil {
			t.Fatal(file, err)
		}
		got, err := e.Launcher("/usr/share/a $1/100%.desktop", "wifi", "/usr/bin/uplane")
		if err != nil {
			t.Fatal(file, err)
		}
		golden := strings.TrimSuffix(file, suffix) + ".golden"
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(golden); err != nil || string(want) != string(got) {
			t.Errorf("%s differs (UPDATE_GOLDEN=1 writes it anew):\n%s%v", golden, got, err)
		}
		launcher, err := Parse(got)
		if err != nil || launcher.Lane() != "wifi" || !launcher.Shown() || launcher.Name() != e.Name()+" (by wifi)" {
			t.Errorf("%s: %+v %v", file, launcher, err)
		}
		if _, err := launcher.Launcher(file, "wifi", "uplane"); !errors.Is(err, ErrOurs) {
			t.Errorf("a launcher of a launcher: %v", err)
		}
		if said := validate(t, got); len(said) > 0 && !strings.HasSuffix(file, "odd.desktop") {
			t.Errorf("%s is not valid: %v", golden, said)
		}
	}
}

// validate returns what desktop-file-validate has against an entry.
func validate(t testing.TB, entry []byte) (said []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.desktop")
	if err := os.WriteFile(path, entry, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("desktop-file-validate", path).Output()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatalf("%v: run \"make setup\"", err)
	}
	for line := range strings.Lines(string(out)) {
		said = append(said, strings.TrimSpace(strings.ReplaceAll(line, path, "")))
	}
	return said
}

func TestRefused(t *testing.T) {
	const start = "[Desktop Entry]\n"
	for text, want := range map[string]string{
		"":                             "has no group",
		"\n# only this\n":              "has no group",
		"Name=x\n" + start:             "line 1 is no desktop entry's",
		"[Other]\n" + start:            "line 1: the first group",
		"\ufeff" + start:               "line 1 is no desktop entry's",
		start + "[Desktop Action x\n":  "line 2 is no group's header",
		start + "[[x]]\n":              "line 2 is no group's header",
		start + "words\n":              "line 2 is no desktop entry's",
		start + "=x\n":                 "line 2 is no desktop entry's",
		strings.Repeat("#\n", MaxSize): "larger than 1024 KiB",

		start + "Name=x\nExec=x\n":                                                          "its Type is",
		start + "Type=Link\nName=x\nURL=http://x\n":                                         "its Type is",
		start + "Type=Application\nExec=x\n":                                                "no Name",
		start + "Type=Application\nName[de]=x\nExec=x\n":                                    "no Name",
		start + "Type=Application\nName=x\n":                                                "no Exec",
		start + "Type=Application\nName=x\nExec=\n":                                         "empty",
		start + "Type=Application\nName=x\nExec=\\s\n":                                      "empty",
		start + "Type=Application\nName=x\nExec=x \"y\n":                                    "quote",
		start + "Type=Application\nName=x\nExec=x\nHidden=true\n":                           ErrHidden.Error(),
		start + "Type=Application\nName=x\nDBusActivatable=true\n":                          ErrDBusOnly.Error(),
		start + "Type=Application\nName=x\nExec=snap run x\n":                               ErrSnap.Error(),
		start + "Type=Application\nName=x\nExec=/usr/bin/snap run x\n":                      ErrSnap.Error(),
		start + "Type=Application\nName=x\nExec=env A=b D=e /snap/bin/x %U\n":               ErrSnap.Error(),
		start + "Type=Application\nName=x\nExec=x\nX-SnapInstanceName=x\n":                  ErrSnap.Error(),
		start + "Type=Application\nName=x\nActions=a;\nExec=x\n[Desktop Action a]\nExec=\n": "[Desktop Action a] Exec=: it is empty",
	} {
		e, err := Parse([]byte(text))
		if err == nil {
			_, err = e.Launcher("/x", "wifi", "uplane")
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q: %v, not %q", text, err, want)
		}
	}
}

// TestQuote: what quote writes is one word of the same text, whatever it is.
func TestQuote(t *testing.T) {
	for text, want := range map[string]string{
		"/usr/bin/uplane": "/usr/bin/uplane", "": `""`, "a b": `"a b"`, `a"b$c\d` + "`": "\"a\\\"b\\$c\\\\d\\`\"", "100%": "100%%", "ä;": `"ä;"`,
	} {
		got := quote(text)
		back, err := words(got)
		if got != want || err != nil || len(back) != 1 || back[0].text != strings.ReplaceAll(text, "%", "%%") {
			t.Errorf("%q becomes %s, and that %q (%v)", text, got, back, err)
		}
	}
}

func newFolders(t *testing.T) Folders {
	t.Helper()
	dir := t.TempDir()
	f, err := UserFolders(func(name string) string {
		return map[string]string{"HOME": dir + "/home", "XDG_DATA_DIRS": "relative:" + dir + "/local::" + dir + "/usr"}[name]
	})
	if want := (Folders{dir + "/home/.local/share/applications", dir + "/local/applications", dir + "/usr/applications"}); err != nil || !slices.Equal(f, want) {
		t.Fatal(f, err)
	}
	return f
}

func install(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const plain = "[Desktop Entry]\nType=Application\nName=Plain\nExec=plain\n"

func TestUserFolders(t *testing.T) {
	f, err := UserFolders(func(name string) string { return map[string]string{"XDG_DATA_HOME": "/data", "HOME": "/home/a"}[name] })
	if want := (Folders{"/data/applications", "/usr/local/share/applications", "/usr/share/applications"}); err != nil || !slices.Equal(f, want) {
		t.Error(f, err)
	}
	if f, err := UserFolders(func(name string) string { return map[string]string{"XDG_DATA_HOME": "data"}[name] }); err == nil {
		t.Error("without a home:", f)
	}
}

func TestFind(t *testing.T) {
	f := newFolders(t)
	for _, path := range []string{
		f[0] + "/mine.desktop", f[1] + "/mine.desktop", f[1] + "/kde/foo.desktop", f[2] + "/kde-foo.desktop", f[2] + "/a/b-c/d.desktop", f[2] + "/org.x-y.desktop",
	} {
		install(t, path, plain)
	}
	install(t, f[2]+"/hidden.desktop", plain+"NoDisplay=true\n")
	install(t, f[2]+"/broken.desktop", "x")
	install(t, f[2]+"/link.desktop", "[Desktop Entry]\nType=Link\nName=x\n")
	if err := os.Mkdir(f[2]+"/folder.desktop", 0o755); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{
		"mine": f[0] + "/mine.desktop", "mine.desktop": f[0] + "/mine.desktop", "kde-foo": f[1] + "/kde/foo.desktop", "a-b-c-d.desktop": f[2] + "/a/b-c/d.desktop",
		"org.x-y": f[2] + "/org.x-y.desktop", "hidden": f[2] + "/hidden.desktop",
		"foo": "", "folder": "", "": "", "-": "", "..-applications-mine": "", "a-b": "",
	} {
		got, err := f.Find(id)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %s (%v), not %s", id, got, err, want)
		}
		if want != "" && f.ID(got) != strings.TrimSuffix(id, suffix) {
			t.Errorf("the ID of %s is %s", got, f.ID(got))
		}
	}
	if got := f.ID("/elsewhere/x/My Game.desktop"); got != "My Game" {
		t.Errorf("an ID from elsewhere: %q", got)
	}
	var ids []string
	for _, p := range f.Programs() {
		ids = append(ids, p.ID)
	}
	if want := []string{"a-b-c-d", "kde-foo", "mine", "org.x-y"}; !slices.Equal(ids, want) {
		t.Errorf("programs: %v, not %v", ids, want)
	}
}

// TestFolder adds, lists and removes launchers, among files that are not ours.
func TestFolder(t *testing.T) {
	f := newFolders(t)
	if all, err := f.Launchers(); err != nil || len(all) > 0 {
		t.Fatal(all, err)
	}
	entry := func(lane string) []byte {
		e, err := Parse([]byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		out, err := e.Launcher("/x", lane, "uplane")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	l, same, err := f.Add("wifi", "b-c", entry("wifi"))
	if want := (Launcher{"wifi", "b-c", "Plain (by wifi)", f[0] + "/uplane-wifi-b-c.desktop"}); err != nil || same || l != want {
		t.Fatal(l, same, err)
	}
	if info, err := os.Stat(l.File); err != nil || info.Mode() != 0o644 {
		t.Fatal(info, err)
	}
	if _, same, err := f.Add("wifi", "b-c", entry("wifi")); err != nil || !same {
		t.Error("again:", same, err)
	}
	if _, same, err := f.Add("wifi", "b-c", append(entry("wifi"), '#')); err != nil || same {
		t.Error("changed:", same, err)
	}

	// The same name, and another lane.
	if _, _, err := f.Add("wifi-b", "c", entry("wifi-b")); err == nil || !strings.Contains(err.Error(), "of lane wifi") {
		t.Errorf("over another lane's: %v", err)
	}
	if _, err := f.Remove("wifi-b", "c"); err == nil {
		t.Error("another lane's is removed")
	}
	// A file of the user's, and one that links elsewhere.
	for _, app := range []string{"mine", "broken"} {
		install(t, f[0]+"/uplane-wifi-"+app+".desktop", map[string]string{"mine": plain, "broken": "x"}[app])
	}
	if err := os.Symlink("/nonexistent", f[0]+"/uplane-wifi-link.desktop"); err != nil {
		t.Fatal(err)
	}
	for _, app := range []string{"mine", "broken", "link"} {
		if _, _, err := f.Add("wifi", app, entry("wifi")); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("over somebody's: %v", err)
		}
		if _, err := f.Remove("wifi", app); err == nil {
			t.Error("somebody's is removed")
		}
	}
	install(t, f[0]+"/wifi.desktop", string(entry("wifi"))) // renamed, so it is the user's
	if _, _, err := f.Add("a", "z", entry("a")); err != nil {
		t.Fatal(err)
	}
	all, err := f.Launchers()
	if err != nil || len(all) != 2 || all[0].App != "z" || all[1].Lane != "wifi" || all[1].App != "b-c" {
		t.Error(all, err)
	}
	if _, err := f.Remove("wifi", "b-c"); err != nil {
		t.Error(err)
	}
	if _, err := f.Remove("wifi", "b-c"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if all, err := f.Launchers(); err != nil || len(all) != 1 {
		t.Error(all, err)
	}
	if left, _ := filepath.Glob(f[0] + "/.*"); len(left) > 0 {
		t.Error("left behind:", left)
	}
}

// FuzzLauncher looks for entries whose launcher is none: every line that runs something must run it in the lane.
func FuzzLauncher(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.desktop")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(plain + "Exec=a\\"))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := Parse(text)
		if err != nil {
			return
		}
		out, err := e.Launcher("/a b/%.desktop", "wifi", "/usr/bin/uplane")
		if err != nil {
			return
		}
		l, err := Parse(out)
		if err != nil && len(text) < MaxSize/8 {
			t.Fatalf("%q becomes %q: %v", text, out, err)
		}
		if err != nil {
			return
		}
		if name := e.Name() + " (by wifi)"; l.Lane() != "wifi" || !l.Shown() || l.Name() != name {
			t.Errorf("lane %q, shown %t, name %q", l.Lane(), l.Shown(), l.Name())
		}
		for _, line := range l.lines {
			key, _, _ := strings.Cut(line.key, "[")
			if slices.Contains(dropped, key) && line.text != "DBusActivatable=false" {
				t.Errorf("%q stays", line.text)
			}
			if key != "Exec" {
				continue
			}
			command, err := words(unescape(line.value))
			if err != nil || len(command) < 6 {
				t.Fatalf("%q: %v", line.text, err)
			}
			for i, want := range []string{"/usr/bin/uplane", "run", "--notify", "--strict", "wifi", "--"} {
				if command[i].text != want {
					t.Errorf("%q", line.text)
				}
			}
		}
	})
}
