package units

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"uplane/test/lab"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCheckUnit(t *testing.T) {
	for name, want := range map[string]string{
		"game": "game.service", "game.service": "game.service", "game@1": "game@1.service", "game@.service": "game@.service",
		"org.example.Game": "org.example.Game.service", `a\x2db`: `a\x2db.service`, "a.service.service": "a.service.service",
	} {
		if got, err := CheckUnit(name); got != want || err != nil {
			t.Errorf("%q: have %q, %v", name, got, err)
		}
	}
	for _, name := range []string{
		"", ".", "..", "../game", "/etc/passwd", "a/b.service", "-a", ".hidden", "a b", "a\n", "a;b", "a$b", "a@b@c", "@a", "ä",
		"game.socket", "steam.target", "x.timer", "uplaned", "NetworkManager.service", "dbus", "systemd-resolved", strings.Repeat("a", 250),
	} {
		if got, err := CheckUnit(name); err == nil {
			t.Errorf("%q: taken as %q", name, got)
		}
	}
}

func FuzzCheckUnit(f *testing.F) {
	f.Add("game.service")
	f.Add("../x")
	f.Fuzz(func(t *testing.T, name string) {
		full, err := CheckUnit(name)
		if err != nil {
			return
		}
		if path := dropInPath("/d", full); filepath.Clean(path) != path || filepath.Dir(filepath.Dir(path)) != "/d" || strings.ContainsAny(full, " \n\t\"'%$") {
			t.Errorf("%q leads to %q", name, path)
		}
		if again, err := CheckUnit(full); again != full || err != nil {
			t.Errorf("%q is taken as %q, and that as %q, %v", name, full, again, err)
		}
	})
}

func TestTargetNames(t *testing.T) {
	for _, lane := range []string{"steam", "my-lane", "a_b", "0"} {
		if got, ok := laneOf(Target(lane)); got != lane || !ok {
			t.Errorf("%s: have %q, %t", lane, got, ok)
		}
	}
	for _, unit := range []string{"uplane-lane@.target", "uplane-lane@a.service", "uplane-lane@A.target", "other@a.target", "uplane-lane@a"} {
		if lane, ok := laneOf(unit); ok {
			t.Errorf("%s is that of lane %q", unit, lane)
		}
	}
}

func TestAdoptAndRelease(t *testing.T) {
	dir := t.TempDir()
	const unit = "game.service"
	path, undo, err := Adopt(dir, unit, "steam")
	must(t, err)
	if text, _ := os.ReadFile(path); path != dir+"/game.service.d/50-uplane.conf" || string(text) != DropIn(unit, "steam") {
		t.Errorf("%s:\n%s", path, text)
	}
	must(t, undo())
	if _, err := os.Stat(dir + "/game.service.d"); err == nil {
		t.Error("not undone")
	}
	_, _, err = Adopt(dir, unit, "steam")
	must(t, err)
	// Enabled, then moved to another lane: that one starts it, and the first no longer does.
	wants := dir + "/uplane-lane@steam.target.wants"
	must(t, os.Mkdir(wants, 0o755))
	must(t, os.Symlink("../game.service", wants+"/game.service"))
	moved := dir + "/uplane-lane@work.target.wants"
	_, undo, err = Adopt(dir, unit, "work")
	must(t, err)
	if _, err := os.Lstat(wants); err == nil || !isLink(moved+"/game.service") {
		t.Error("steam still wants it, or work does not")
	}
	must(t, undo())
	if text, _ := os.ReadFile(path); string(text) != DropIn(unit, "steam") || !isLink(wants+"/game.service") {
		t.Errorf("not back in steam:\n%s", text)
	}
	_, _, err = Adopt(dir, unit, "work")
	must(t, err)
	// What others put beside it stays.
	must(t, os.WriteFile(dir+"/game.service.d/override.conf", nil, 0o644))
	must(t, Release(dir, unit))
	if _, err := os.Stat(path); err == nil {
		t.Error("not released")
	}
	if _, err := os.Stat(dir + "/game.service.d/override.conf"); err != nil {
		t.Error(err)
	}
	if err := Release(dir, unit); !errors.Is(err, ErrNotAdopted) {
		t.Errorf("released twice: %v", err)
	}
	for name, put := range map[string]func() error{
		"file": func() error { return os.WriteFile(path, []byte("[Service]\nNice=5\n"), 0o644) },
		"link": func() error { return os.Symlink("override.conf", path) },
	} {
		must(t, put())
		if _, _, err := Adopt(dir, unit, "steam"); err == nil || !strings.Contains(err.Error(), "not ours") {
			t.Errorf("a foreign %s: %v", name, err)
		}
		must(t, os.Remove(path))
	}
	if _, _, err := Adopt(dir, unit, "../x"); err == nil {
		t.Error("took a lane that none can be")
	}
}

// TestVerify has systemd read what we ship and write.
func TestVerify(t *testing.T) {
	lab.RequireProgram(t, "systemd-analyze")
	dir := t.TempDir()
	template, err := os.ReadFile("../../packaging/systemd/uplane-lane@.target")
	must(t, err)
	must(t, os.WriteFile(dir+"/uplane-lane@.target", template, 0o644))
	must(t, os.WriteFile(dir+"/game.service", []byte("[Service]\nExecStart=/bin/true\n"), 0o644))
	_, _, err = Adopt(dir, "game.service", "steam")
	must(t, err)
	cmd := exec.Command("systemd-analyze", "verify", "--man=no", dir+"/game.service", dir+"/uplane-lane@steam.target")
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), dir) {
		t.Errorf("%v: %s", err, out)
	}
	// That it reads the drop-in at all:
	must(t, os.WriteFile(dir+"/game.service.d/60-bad.conf", []byte("[Service]\nNetworkNamespacePath=nowhere\n"), 0o644))
	cmd = exec.Command(cmd.Args[0], cmd.Args[1:]...)
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
	if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), "60-bad.conf") {
		t.Errorf("nothing against a bad drop-in: %s", out)
	}
}
