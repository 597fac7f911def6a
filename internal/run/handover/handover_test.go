package handover

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"uplane/internal/run/nsexec"
)

// running is what tests have for a machine.
func running(processes ...Process) []Process {
	return append(processes,
		Process{PID: 10, Name: "bash"}, Process{PID: 11, Name: "python3", Args: []string{"python3", "/opt/applet.py"}, Windows: true},
		Process{PID: 12, Name: "gnome-shell", Windows: true}, Process{PID: 13, Name: "curl"})
}

// outside, inside and other have a program with windows where they say.
func outside(pid int, name string) Process { return Process{PID: pid, Name: name, Windows: true} }
func inside(pid int, name string) Process {
	return Process{PID: pid, Name: name, Windows: true, Lane: "steam"}
}
func other(pid int, name string) Process {
	return Process{PID: pid, Name: name, Windows: true, Lane: "work"}
}

func text(f *nsexec.Failure) string {
	if f == nil {
		return ""
	}
	return fmt.Sprintf("%v; %s", f, f.Next)
}

func TestBefore(t *testing.T) {
	const apart, folder = "close that one first, or: ", "mkdir -p ~/.uplane/steam/"
	for _, tt := range []struct {
		command string
		running []Process
		said    string // without --strict
		strict  string
	}{
		{"curl https://example.org", nil, "", ""},
		{"curl https://example.org", []Process{outside(1, "curl")}, "", ""}, // nobody knows it for that
		{"firefox x", nil, "", ""},
		{"firefox x", []Process{outside(1, "firefox")}, "", "firefox may hand over to process 1 (firefox), which runs outside of lane steam; " +
			apart + folder + "firefox; uplane run steam -- firefox --new-instance --profile ~/.uplane/steam/firefox"},
		{"firefox x", []Process{outside(7, "firefox"), outside(5, "firefox-esr"), inside(3, "firefox")}, "", "process 5 (firefox-esr)"},
		{"/usr/bin/firefox x", []Process{inside(1, "firefox")}, "", ""},
		{"firefox x", []Process{other(1, "firefox")}, "", "which runs in lane work, not in steam"},
		{"firefox --new-instance x", []Process{outside(1, "firefox")}, "", ""},
		{"firefox x --new-instance", []Process{outside(1, "firefox")}, "", ""},
		{"firefox --new-instances x", []Process{outside(1, "firefox")}, "", "process 1"},
		{"firefox x", []Process{outside(1, "thunderbird"), outside(2, "librewolf")}, "", ""},
		{"google-chrome x", []Process{outside(1, "chromium")}, "", ""},
		{"firefox --version", []Process{outside(1, "firefox")}, "", ""},
		{"google-chrome x", []Process{outside(1, "chrome")}, "", apart + folder + `google-chrome; uplane run steam -- google-chrome --user-data-dir="$HOME/.uplane/steam/google-chrome"`},
		{"chromium --user-data-dir=x", []Process{outside(1, "chromium")}, "", ""},
		{"chromium-browser x", []Process{outside(1, "chromium")}, "", "process 1"},
		{"libreoffice x.odt", []Process{outside(1, "soffice.bin")}, "", `-env:UserInstallation="file://$HOME/.uplane/steam/libreoffice"`},
		{"steam", []Process{outside(1, "steam")}, "", "process 1 (steam), which runs outside of lane steam; close that one first"},

		{"tmux attach", []Process{{PID: 1, Name: "tmux: server"}}, "tmux leaves its work to process 1 (tmux: server)", apart + "uplane run steam -- tmux -L steam"},
		{"tmux capture-pane -S -100", []Process{{PID: 1, Name: "tmux: server"}}, "process 1", "process 1"},
		{"tmux -Lx new", []Process{{PID: 1, Name: "tmux: server"}}, "", ""},
		{"tmux -L x", []Process{{PID: 1, Name: "tmux: server"}}, "", ""},
		{"tmux", []Process{{PID: 1, Name: "tmux: server", Lane: "steam"}}, "", ""},
		{"emacsclient -c", []Process{outside(1, "emacs-gtk")}, "process 1", "process 1"},
		{"gnome-terminal", nil, "gnome-terminal-server", "gnome-terminal-server"},
		{"systemd-run --user x", nil, "systemd-run has its work done by systemd, outside of lane steam", "by systemd"},
		{"systemd-run --user --scope x", nil, "", ""},
		{"xdg-open http://x", nil, "", "xdg-open may hand over to any program, also outside of lane steam; uplane run steam -- PROGRAM"},
		{"gio open http://x", nil, "", "gio may hand over"},
		{"gio info x", []Process{outside(1, "gio")}, "", ""},

		{"flatpak run --branch=1 org.example.Ask/x86_64/1 x", []Process{{PID: 1, Name: "org.example.Ask", App: "org.example.Ask"}}, "", "flatpak may hand over to process 1 (org.example.Ask)"},
		{"flatpak run org.example.Ask", []Process{{PID: 1, Name: "org.example.Ask", App: "org.example.Ask", Lane: "steam"}}, "", ""},
		{"flatpak run", nil, "", ""},
		{"flatpak list", nil, "", ""},
		{"flatpak", nil, "", ""},
	} {
		p := New("steam", strings.Fields(tt.command), "")
		for strict, want := range map[bool]string{false: tt.said, true: tt.strict} {
			got := ""
			if p.needsCheck(strict) {
				got = text(p.checkBefore(running(tt.running...)))
			}
			if want == "" && got != "" || !strings.Contains(got, want) {
				t.Errorf("%s, strict %t, with %v: %q, not %q", tt.command, strict, tt.running, got, want)
			}
		}
	}
}

func TestAfter(t *testing.T) {
	for _, tt := range []struct {
		command, name string // it ended as
		running       []Process
		said          string
	}{
		{"curl x", "curl", nil, ""},
		{"firefox x", "firefox", []Process{outside(1, "firefox")}, "firefox seems to have handed over to process 1 (firefox), which runs outside of lane steam: " +
			"what it opens there does not leave by this lane; close that one first, or: "},
		{"firefox x", "firefox", []Process{inside(1, "firefox")}, ""},
		{"firefox --new-instance x", "firefox", []Process{outside(1, "firefox")}, ""},
		{"firefox --help", "firefox", []Process{outside(1, "firefox")}, ""},
		{"tmux x", "tmux: client", []Process{{PID: 1, Name: "tmux: server"}}, ""}, // it was told before
		{"systemd-run x", "systemd-run", nil, ""},
		// A link, or a script, that became a well-known program.
		{"x-www-browser x", "firefox-esr", []Process{outside(1, "firefox-esr")}, "x-www-browser --new-instance --profile"},
		{"x-www-browser --new-instance x", "firefox-esr", []Process{outside(1, "firefox-esr")}, ""},
		// Nobody knows it, so it must have windows.
		{"unheard x", "unheard", []Process{outside(1, "unheard")}, "unheard seems to have handed over to process 1 (unheard), which runs outside of lane steam"},
		{"unheard x", "unheard", []Process{{PID: 1, Name: "unheard"}}, ""},
		{"unheard x", "unheard-program", []Process{outside(1, "unheard-program")}, "process 1"},
		{"unheard x", "", []Process{outside(1, "")}, ""},
		{"bash -c x", "bash", []Process{outside(1, "bash")}, ""},
		{"python3 -c x", "python3", nil, ""},
		{"python3 other.py", "python3", nil, ""},
		{"python3 -u applet.py", "python3", nil, "process 11"},
		// What opens others may have opened any that has windows.
		{"xdg-open x", "xdg-open", []Process{outside(1, "chrome")}, "xdg-open seems to have handed over to process 1 (chrome)"},
		{"xdg-open x", "xdg-open", []Process{{PID: 1, Name: "code"}}, ""},
		{"xdg-open x", "xdg-open", []Process{{PID: 1, Name: "tmux: server"}}, ""},

		{"flatpak run a.b.C", "bwrap", []Process{{PID: 1, Name: "a.b.C", App: "a.b.C"}}, "flatpak seems to have handed over to process 1 (a.b.C)"},
		{"flatpak run a.b.C", "bwrap", []Process{{PID: 1, Name: "a.b.D", App: "a.b.D"}}, ""},
	} {
		p := New("steam", strings.Fields(tt.command), "")
		p.identifyAs(tt.name)
		got := ""
		if p.handsOver() {
			got = text(p.checkAfter(tt.name, running(tt.running...)))
		}
		if tt.said == "" && got != "" || !strings.Contains(got, tt.said) {
			t.Errorf("%s, which ends as %s, with %v: %q, not %q", tt.command, tt.name, tt.running, got, tt.said)
		}
	}
}

// TestLinks: a program is known by what it is a link to, and a Flatpak by its script.
func TestLinks(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"firefox-esr", "flatpak/exports/bin/org.example.Ask"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("firefox-esr", filepath.Join(dir, "www")); err != nil {
		t.Fatal(err)
	}
	if p := New("steam", []string{"www"}, filepath.Join(dir, "www")); p.family == nil || p.family.commands[0] != "firefox" {
		t.Errorf("a link to firefox-esr is %+v", p)
	}
	path := filepath.Join(dir, "flatpak/exports/bin/org.example.Ask")
	if p := New("steam", []string{path, "x"}, path); p.app != "org.example.Ask" {
		t.Errorf("Flatpak's script is %+v", p)
	}
}

// TestFamilies: nobody is in two of them, and all say what is needed.
func TestFamilies(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range families {
		for _, c := range f.commands {
			if seen[c] {
				t.Errorf("%s is there twice", c)
			}
			seen[c] = true
		}
		if f.try != "" && !slices.ContainsFunc(f.newInstance, func(option string) bool { return strings.HasPrefix(f.try, option) }) {
			t.Errorf("%v: %s is none of %v", f.commands, f.try, f.newInstance)
		}
	}
}

// TestLook has a process of this user's for a program.
func TestLook(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "a-program-of-a-long-name")
	if err := os.Symlink(sleep, link); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(link, "1000")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	all := list().look([]string{"a-program-of-a-long-name"})
	if len(all) != 1 || all[0].PID != c.Process.Pid || all[0].Name != "a-program-of-a-" || all[0].Lane != "" || all[0].Windows || !slices.Equal(all[0].Args, c.Args) {
		t.Errorf("have %+v, not process %d", all, c.Process.Pid)
	}
	if all := list().look([]string{"no-program-of-the-name", ""}); len(all) != 0 {
		t.Errorf("have %+v", all)
	}
	runtime := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", runtime)
	dir := filepath.Join(runtime, ".flatpak", "1234")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"info": "[Application]\nname=a.b.C\n\n[Instance]\n", "pid": fmt.Sprint(c.Process.Pid)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if all := lookFlatpak("a.b.C"); len(all) != 1 || all[0].App != "a.b.C" || all[0].PID != c.Process.Pid {
		t.Errorf("have %+v", all)
	}
	if all := lookFlatpak("a.b"); len(all) != 0 {
		t.Errorf("have %+v", all)
	}
}

// BenchmarkList is what is done while every program starts.
func BenchmarkList(b *testing.B) {
	for b.Loop() {
		list()
	}
}
