package flatpak

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSandbox(t *testing.T) {
	helper := t.TempDir()
	for _, name := range []string{"hosts", "resolv.conf", "localtime"} {
		if err := os.WriteFile(filepath.Join(helper, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := []string{"--ro-bind", "/a", "/b", "--ro-bind", helper, "/run/host/monitor", "--symlink", "/run/host/monitor/resolv.conf", "/etc/resolv.conf"}
	want := []string{
		"--ro-bind", "/a", "/b",
		"--tmpfs", "/run/host/monitor",
		"--ro-bind-try", helper + "/hosts", "/run/host/monitor/hosts",
		"--ro-bind-try", helper + "/localtime", "/run/host/monitor/localtime",
		"--ro-bind", "/etc/resolv.conf", "/run/host/monitor/resolv.conf",
		"--symlink", "/run/host/monitor/resolv.conf", "/etc/resolv.conf",
	}
	if got := sandbox(before); !slices.Equal(got, want) {
		t.Errorf("have %q", got)
	}
	for _, same := range [][]string{
		{"--ro-bind", "/etc/resolv.conf", "/etc/resolv.conf"}, {"--dir", "/run/host/monitor"}, {"/run/host/monitor"}, {""},
	} {
		if got := sandbox(same); !slices.Equal(got, same) {
			t.Errorf("%q becomes %q", same, got)
		}
	}
}

func TestProxy(t *testing.T) {
	for args, want := range map[string]string{
		"unix:path=/bus /proxy --filter --own=org.example.Ask --own=org.example.Ask.*": "unix:path=/bus /proxy --filter --own=org.example.Ask --own=org.example.Ask.*",
		"--call=org.freedesktop.portal.*=*": "--call=org.freedesktop.portal.Desktop=* --call=org.freedesktop.portal.Documents=* --call=org.freedesktop.portal.Fcitx=* " +
			"--call=org.freedesktop.portal.IBus=* --call=org.freedesktop.portal.Tracker=*",
		"--broadcast=org.freedesktop.portal.*=@/org/freedesktop/portal/*": "--broadcast=org.freedesktop.portal.*=@/org/freedesktop/portal/*",
		"--talk=org.freedesktop.Flatpak --talk=org.a":                     "--talk=org.a",
		"--talk=org.freedesktop.Flatpak.*":                                "",
		"--talk=org.freedesktop.* --talk=org.freedesktop.Notifications":   "--talk=org.freedesktop.Notifications",
		"--own=org.*": "",
		"--call=org.freedesktop.portal.Flatpak=*":       "",
		"--call=org.freedesktop.systemd1=org.x.*@/*":    "",
		"--talk=org.freedesktop.Flatpaks --see=org.a.*": "--talk=org.freedesktop.Flatpaks --see=org.a.*",
	} {
		if got := strings.Join(proxy(strings.Fields(args)), " "); got != want {
			t.Errorf("%s becomes %q", args, got)
		}
	}
}

// TestEdit: a descriptor keeps its number, and is read from the beginning.
func TestEdit(t *testing.T) {
	fd, err := unix.MemfdCreate("test", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte("a\x00\x00b c\x00")); err != nil {
		t.Fatal(err)
	}
	if err := edit(fmt.Sprint(fd), func(args []string) []string { return append(args, fmt.Sprint(len(args))) }); err != nil {
		t.Fatal(err)
	}
	var buf [64]byte
	n, err := unix.Read(fd, buf[:])
	if got := string(buf[:max(n, 0)]); err != nil || got != "a\x00\x00b c\x003\x00" {
		t.Errorf("have %q, %v", got, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
		t.Errorf("bwrap would not have it: %v", err)
	}
	for _, wrong := range []string{"", "x", "-1", "100000"} {
		if edit(wrong, func(args []string) []string { return args }) == nil {
			t.Errorf("%q is a descriptor", wrong)
		}
	}
}

// TestEnviron: only where there is a Flatpak.
func TestEnviron(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if got := Environ([]string{"A=1"}); !slices.Equal(got, []string{"A=1"}) {
		t.Errorf("without: %q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "flatpak"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if got := Environ([]string{"A=1", "FLATPAK_BWRAP=/other"}); !slices.Equal(got, []string{"A=1", "FLATPAK_BWRAP=" + self}) {
		t.Errorf("with: %q", got)
	}
}

// FuzzArguments: whatever Flatpak says, what is said to the proxy does not lead out, and says nothing new.
func FuzzArguments(f *testing.F) {
	for _, seed := range []string{"--call=org.freedesktop.portal.*=*\x00--talk=org.freedesktop.Flatpak\x00", "", "\x00", "--own=org.*", "--bind\x00/x\x00/run/host/monitor\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		args := split(text)
		if got := split(join(args)); !slices.Equal(got, args) {
			t.Errorf("%q becomes %q", args, got)
		}
		sandbox(args)
		for _, a := range proxy(args) {
			narrowed := slices.ContainsFunc(portals, func(p string) bool { return strings.HasPrefix(a, "--call="+p+"=") })
			if !slices.Contains(args, a) && !narrowed {
				t.Errorf("%q has %q of its own", args, a)
			}
			for _, name := range []string{"=org.freedesktop.Flatpak", "=org.freedesktop.portal.Flatpak"} {
				for _, option := range []string{"--talk", "--own", "--call"} {
					if a == option+name || strings.HasPrefix(a, option+name+"=") {
						t.Errorf("%q lets %q through", args, a)
					}
				}
			}
		}
	})
}
