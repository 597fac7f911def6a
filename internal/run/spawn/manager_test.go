package spawn

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLimits(t *testing.T) {
	text, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		t.Fatal(err)
	}
	if got := parseLimits(text); len(got) != len(limitNames) {
		t.Errorf("of\n%s\nread %v", text, got)
	}
	got := parseLimits([]byte("Limit                     Soft Limit           Hard Limit           Units     \n" +
		"Max open files            1024                 unlimited            files     \nMax nonsense              x\n"))
	if len(got) != 1 || got[0] != (limit{"NOFILE", 1024, math.MaxUint64}) {
		t.Errorf("read %v", got)
	}
}

// TestProperties keeps what would break programs that work outside of lanes, and would not be noticed at once.
func TestProperties(t *testing.T) {
	m := &Manager{Uplane: "/usr/bin/uplane"}
	all := m.properties("my-lane", Caller{UID: 1000, Groups: []uint32{1000, 44, 7}}, execContext{gid: 44, groups: []uint32{1000, 44}, nice: 5, bounding: 0x3fff, loginUID: 1001, limits: []limit{{"CORE", 0, 7}}}, "/tmp/uplane-run-1/socket")
	have := map[string]string{}
	for _, p := range all {
		if _, twice := have[p.Name]; twice {
			t.Errorf("%s is there twice", p.Name)
		}
		have[p.Name] = p.Value.String()
	}
	for _, never := range []string{"PrivateTmp", "PrivateUsers", "RestrictNamespaces", "PrivateDevices", "ProtectSystem", "ProtectHome", "SystemCallFilter"} {
		if _, ok := have[never]; ok {
			t.Errorf("it has %s", never)
		}
	}
	for name, want := range map[string]string{
		"Description": `"uplane run in lane my-lane, for user 1000"`,
		"ExecStart":   `[("/usr/bin/uplane", ["/usr/bin/uplane", "inside", "/tmp/uplane-run-1/socket", "1001"], false,)]`,
		"User":        `"1000"`, "Group": `"44"`, "SupplementaryGroups": `["1000", "44"]`, "Slice": `"user-1000.slice"`, "NetworkNamespacePath": `"/run/netns/my-lane"`,
		"NoNewPrivileges": "false", "CapabilityBoundingSet": "16383", "Nice": "5", "LimitCORE": "7", "LimitCORESoft": "0", "ExitType": `"cgroup"`,
		"Type":                `"notify"`,
		"TemporaryFileSystem": `[("/run/nscd", "ro",), ("/run/systemd/resolve", "ro",), ("/run/avahi-daemon", "ro",)]`,
		"BindReadOnlyPaths":   `[("/etc/netns/my-lane/resolv.conf", "/etc/resolv.conf", false, 0,), ("/etc/netns/my-lane/nsswitch.conf", "/etc/nsswitch.conf", false, 0,)]`,
	} {
		if !strings.HasSuffix(have[name], want) {
			t.Errorf("%s is %s, not %s", name, have[name], want)
		}
	}
	a, b := unitName("my-lane", 1000), unitName("my-lane", 1000)
	if uid, lane := unitOf(a); uid != "1000" || lane != "my-lane" {
		t.Errorf("%s is of user %s in lane %s", a, uid, lane)
	}
	for _, odd := range []string{"", "uplane-run-", "uplane-run-1000.service", "uplane-run-1000-x.service", "sshd.service", "a-1000-b-c.service"} {
		if _, lane := unitOf(odd); lane != "" {
			t.Errorf("%q is in lane %q", odd, lane)
		}
	}
	if a == b || !strings.HasPrefix(a, "uplane-run-1000-my-lane-") {
		t.Errorf("units are named %s and %s", a, b)
	}
}

// hostilePaths would say something in a unit's file, or mean different things to different readers.
var hostilePaths = []string{
	"", "/", "socket", "./socket", "//tmp/socket", "/tmp/../etc", "/tmp/", "/tmp/./s", "/tmp/a\nExecStart=/bin/sh", "/tmp/a\rb", "/tmp/a\x00b", "/tmp/a\x1bb",
	"/tmp/a b", "/tmp/%h", "/tmp/$HOME", "/tmp/${HOME}", "/tmp/\"a", "/tmp/'a", "/tmp/a\\nb", "/tmp/a;b", "/tmp/#a", "/tmp/\u2028", "/tmp/\u00a0", "/tmp/\xff",
	"/tmp/" + strings.Repeat("x", maxSocket),
}

// TestSocket: whatever else a caller sends, nothing is started, and nothing looked at.
func TestSocket(t *testing.T) {
	for _, path := range []string{"/run/user/1000/uplane-run-123/socket", "/tmp/uplane-run-1/socket", "/a"} {
		if err := CheckSocket(path); err != nil {
			t.Error(err)
		}
	}
	m := &Manager{Uplane: "/usr/bin/uplane", Address: "unix:path=/nonexistent"}
	me := Caller{UID: uint32(os.Getuid()), PID: uint32(os.Getpid()), Groups: []uint32{uint32(os.Getgid())}}
	for _, path := range hostilePaths {
		if _, err := m.Run(context.Background(), "steam", me, path); !errors.Is(err, ErrSocket) {
			t.Errorf("%q: %v", path, err)
		}
	}
	m.Uplane = "/opt/my uplane\n/bin/uplane"
	if _, err := m.Run(context.Background(), "steam", me, "/tmp/socket"); err == nil || !strings.Contains(err.Error(), "is installed") {
		t.Errorf("uplane in an odd folder: %v", err)
	}
}

// FuzzSocket: of what is let through, nothing in a unit's file is anything but itself.
func FuzzSocket(f *testing.F) {
	for _, path := range hostilePaths {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if CheckSocket(path) != nil {
			return
		}
		bad := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("%$\"'\\;#`{}()*?~&|<>=", r) }
		if strings.ContainsFunc(path, bad) || !strings.HasPrefix(path, "/") || path != filepath.Clean(path) || len(path) > maxSocket {
			t.Errorf("%q", path)
		}
	})
}

func TestBeside(t *testing.T) {
	for uplaned, want := range map[string]string{
		"/usr/sbin/uplaned": "/usr/bin/uplane", "/usr/bin/uplaned": "/usr/bin/uplane", "/usr/local/sbin/uplaned": "/usr/local/bin/uplane",
		"/home/a/uplane/bin/uplaned": "/home/a/uplane/bin/uplane",
	} {
		if got := Beside(uplaned); got != want {
			t.Errorf("of %s: %s, not %s", uplaned, got, want)
		}
	}
}

// TestLook refuses a process that is another user's, or has gone.
func TestLook(t *testing.T) {
	me := Caller{UID: uint32(os.Getuid()), PID: uint32(os.Getpid()), Groups: []uint32{uint32(os.Getgid())}}
	like, err := me.inspect()
	if err != nil || len(like.limits) != len(limitNames) {
		t.Errorf("this process: %+v, %v", like, err)
	}
	if _, err := (Caller{UID: me.UID + 1, PID: me.PID}).inspect(); err == nil || !strings.Contains(err.Error(), "which asked as user") {
		t.Errorf("another user's process: %v", err)
	}
	if _, err := (Caller{UID: me.UID, PID: 1 << 30}).inspect(); err == nil {
		t.Error("a process that is not there")
	}
}

// TestIdentify: nothing that a set-user-ID or set-group-ID program has goes on to what it asks for.
func TestIdentify(t *testing.T) {
	c := Caller{UID: 1000, PID: 7, Groups: []uint32{1000, 44, 42}}
	status := func(uids, gids, groups string) []byte {
		return []byte("Name:\tx\nUid:\t" + uids + "\nGid:\t" + gids + "\nGroups:\t" + groups + " \n")
	}
	const user, group = "1000\t1000\t1000\t1000", "1000\t1000\t1000\t1000"
	for _, tt := range []struct {
		status []byte
		want   []uint32
	}{
		{status(user, group, "44 1000"), []uint32{1000, 44}}, // 42 was set-group-ID's
		{status(user, group, "44 99"), []uint32{1000, 44}},   // 99 it had not when it connected
		{status(user, "44\t44\t44\t44", ""), []uint32{44}},
	} {
		if gid, got, err := c.identify(tt.status); err != nil || !slices.Equal(got, tt.want) || !slices.Contains(got, gid) {
			t.Errorf("%q: %v, %v", tt.status, got, err)
		}
	}
	for _, bad := range [][]byte{
		status("1000\t0\t0\t0", group, ""), status("1000\t1000\t0\t1000", group, ""), status("1000", group, ""), status(user, "", ""), nil, status(user, "99\t99\t99\t99", "44"),
		status(user, "1000\t42\t42\t42", "44"), status(user, "1000\t1000\t42\t1000", "44"), status(user, "1000\t1000\t1000\t42", "44"),
	} {
		if _, got, err := c.identify(bad); err == nil {
			t.Errorf("%q: groups %v", bad, got)
		}
	}
}

func TestFree(t *testing.T) {
	for profile, want := range map[string]bool{
		"unconfined\n": true, "chrome (unconfined)\n": true, "vi (complain)\x00": true,
		"": false, "firefox (enforce)\n": false, "a (kill)": false, "a//&b (mixed)": false, "(unconfined)": false, "a (unconfined) (enforce)": false,
	} {
		if unconfined(profile) != want {
			t.Errorf("%q: %v", profile, !want)
		}
	}
}
