package state

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"uplane/policy"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// exampleState and exampleRun have every field set.
func exampleState() State {
	return State{Lanes: map[string]Lane{
		"steam": {
			Allocation: policy.Allocation{Subnet: netip.MustParsePrefix("10.0.1.0/24"), Table: 100, Bridge: "ul-steam", Veth: "ulv-steam"},
			Definition: &policy.Lane{
				Name:    "steam",
				Uplink:  []policy.Selector{{Kind: policy.BySSID, Value: `Home "2"`}, {Kind: policy.ByType, Value: "gsm"}},
				Subnet:  netip.MustParsePrefix("10.0.1.0/24"),
				Table:   100,
				Mark:    100,
				Bridge:  "br0",
				DNS:     []netip.Addr{netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr("2620:fe::fe")},
				Allow:   []netip.Prefix{netip.MustParsePrefix("192.168.50.0/24")},
				IPv6:    policy.IPv6Off,
				Enabled: true,
			},
		},
		"new": {},
	}}
}

func exampleRun() Run {
	return Run{
		Lanes: map[string]LaneRun{
			"work": {Want: WantDown},
			"steam": {Want: WantUp, Uplink: &policy.Uplink{
				Interface: "wlp6s0", Type: "wifi", Connection: "homewifi", UUID: "0-1", SSID: "Home", Phase: policy.PhaseActive,
				Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.50.4/24")},
				Routes:    []policy.UplinkRoute{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.50.1"), Metric: 600}, {Dst: netip.MustParsePrefix("192.168.50.0/24")}},
				DNS:       []netip.Addr{netip.MustParseAddr("192.168.50.1")},
				Search:    []string{"lan"},
			}},
		},
		Sysctl:      map[string]int{"net/ipv4/conf/eth0.5/forwarding": 0, "net/ipv6/conf/wlp6s0/disable_ipv6": 1, "net/ipv4/conf/wlp6s0/arp_ignore": 8, "net/bridge/conf/br0/stp_state": 1},
		Tables:      []string{"filter", "nat POSTROUTING"},
		Directories: []string{"/etc/netns/steam", "/run/netns"},
	}
}

func TestRoundTrip(t *testing.T) {
	top := t.TempDir()
	stateDir, runDir := top+"/lib/uplane", top+"/run/uplane"
	states, err := OpenState(stateDir)
	must(t, err)
	runs, err := OpenRun(runDir)
	must(t, err)
	if got := states.Get(); got.Lanes != nil {
		t.Errorf("a new store has %+v", got)
	}
	if _, err := os.Stat(stateDir); err == nil {
		t.Error("the folder is made before there is something to store")
	}
	must(t, states.Set(exampleState()))
	must(t, runs.Set(exampleRun()))

	for path, mode := range map[string]os.FileMode{
		stateDir: 0o700 | os.ModeDir, stateDir + "/state.json": 0o600,
		runDir: 0o755 | os.ModeDir, runDir + "/run.json": 0o600,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: have %v, %v, want %v", path, info.Mode(), err, mode)
		}
	}
	states, err = OpenState(stateDir)
	must(t, err)
	runs, err = OpenRun(runDir)
	must(t, err)
	if got, want := states.Get(), exampleState(); !reflect.DeepEqual(got, want) {
		t.Errorf("have %+v\nwant %+v", got, want)
	}
	if got, want := runs.Get(), exampleRun(); !reflect.DeepEqual(got, want) {
		t.Errorf("have %+v\nwant %+v", got, want)
	}
}

// What Get returned belongs to the caller.
func TestGetCopies(t *testing.T) {
	s, err := OpenRun(t.TempDir())
	must(t, err)
	v := exampleRun()
	must(t, s.Set(v))
	delete(v.Lanes, "work")
	got := s.Get()
	got.Tables[0] = "ip mangle"
	if want := exampleRun(); !reflect.DeepEqual(s.Get(), want) {
		t.Errorf("have %+v\nwant %+v", s.Get(), want)
	}
}

func TestNoWriteWithoutChange(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenState(dir)
	must(t, err)
	must(t, s.Set(exampleState()))
	inode := func() uint64 {
		info, err := os.Stat(dir + "/state.json")
		must(t, err)
		return info.Sys().(*syscall.Stat_t).Ino
	}
	// An open file keeps its inode from being given to the next one.
	f, err := os.Open(dir + "/state.json")
	must(t, err)
	defer f.Close()
	before := inode()
	must(t, s.Set(exampleState()))
	s, err = OpenState(dir)
	must(t, err)
	must(t, s.Set(s.Get()))
	if inode() != before {
		t.Error("written though nothing changed")
	}
	must(t, s.Set(State{}))
	if inode() == before {
		t.Error("not written though it changed")
	}
}

// Nothing that is wrong with a file keeps the daemon from starting, or its old
// content from a person's eyes.
func TestBadFile(t *testing.T) {
	good, err := encode(exampleState())
	must(t, err)
	replace := func(from, to string) string {
		out := strings.Replace(string(good), from, to, 1)
		if out == string(good) {
			t.Fatalf("%q is not in it", from)
		}
		return out
	}
	tests := []struct{ name, content, want string }{
		{"empty", "", "unexpected end of JSON input"},
		{"cut", string(good[:len(good)/2]), "unexpected end of JSON input"},
		{"zeros", strings.Repeat("\x00", 300), "invalid character"},
		{"longer", string(good) + "{}", "invalid character '{' after top-level value"},
		{"null", "null", "version 0 is not 1"},
		{"newer", replace(`"version": 1`, `"version": 2`), "version 2 is not 1"},
		{"unknown field", replace(`"allocation"`, `"allocated"`), "unknown field"},
		{"wrong type", replace(`"Table": 100`, `"Table": "100"`), "cannot unmarshal string"},
		{"huge number", replace(`"Table": 100`, `"Table": 4294967296`), "cannot unmarshal number"},
		{"lane name", replace(`"new"`, `"../new"`), "invalid lane name"},
		{"subnet", replace(`"10.0.1.0/24"`, `"0.0.0.0/0"`), "allocation: invalid subnet 0.0.0.0/0"},
		{"table", replace(`"Table": 100`, `"Table": 254`), "allocation: invalid table 254"},
		{"bridge", replace(`"ul-steam"`, `"a;reboot"`), "allocation: invalid interface name"},
		{"all", replace(`"ulv-steam"`, `"all"`), "it means all of them"},
		{"other lane", replace(`"Name": "steam"`, `"Name": "work"`), "definition: it is that of lane \"work\""},
		{"definition", replace(`"Kind": "ssid"`, `"Kind": "sid"`), "definition: uplink: invalid uplink"},
		{"large", string(good) + strings.Repeat(" ", maxFile), "larger than 4096 KiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "state.json")
			must(t, os.WriteFile(path, []byte(tt.content), 0o600))
			s, err := OpenState(dir)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path+".bad") {
				t.Errorf("have %v, want %s", err, tt.want)
			}
			if kept, err := os.ReadFile(path + ".bad"); err != nil || string(kept) != tt.content {
				t.Errorf("the bad file is not kept: %v", err)
			}
			if s.Get().Lanes != nil {
				t.Error("a value came from a bad file")
			}
			must(t, s.Set(exampleState()))
			s, err = OpenState(dir)
			must(t, err)
			if !reflect.DeepEqual(s.Get(), exampleState()) {
				t.Error("the store does not work after a bad file")
			}
		})
	}
}

func TestNotOurFile(t *testing.T) {
	tests := map[string]func(path string) error{
		"a link to somewhere": func(path string) error {
			data, _ := encode(exampleRun())
			target := filepath.Dir(path) + "/target"
			if err := os.WriteFile(target, data, 0o600); err != nil {
				return err
			}
			return os.Symlink(target, path)
		},
		"a folder": func(path string) error { return os.Mkdir(path, 0o755) },
		"a fifo":   func(path string) error { return syscall.Mkfifo(path, 0o600) },
	}
	if os.Geteuid() == 0 {
		tests["another's file"] = func(path string) error {
			data, _ := encode(exampleRun())
			if err := os.WriteFile(path, data, 0o600); err != nil {
				return err
			}
			return os.Chown(path, 1234, 1234)
		}
	}
	for name, put := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, put(dir+"/run.json"))
			s, err := OpenRun(dir)
			if err == nil || s.Get().Lanes != nil {
				t.Errorf("have %v, %+v", err, s.Get())
			}
			must(t, s.Set(exampleRun()))
		})
	}
}

// A daemon killed while it writes leaves a part of a temporary file. The old
// content counts, and the rest is swept up once nobody can be writing it.
func TestCrashWhileWriting(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenState(dir)
	must(t, err)
	must(t, s.Set(exampleState()))
	stale, fresh := dir+"/.state.json.1.tmp", dir+"/.state.json.2.tmp"
	other := dir + "/.run.json.1.tmp"
	for _, f := range []string{stale, fresh, other} {
		must(t, os.WriteFile(f, []byte(`{"version": 1, "da`), 0o600))
	}
	long := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(stale, long, long))
	must(t, os.Chtimes(other, long, long))
	s, err = OpenState(dir)
	must(t, err)
	if !reflect.DeepEqual(s.Get(), exampleState()) {
		t.Errorf("have %+v", s.Get())
	}
	for f, stays := range map[string]bool{stale: false, fresh: true, other: true} {
		if _, err := os.Stat(f); (err == nil) != stays {
			t.Errorf("%s: %v", f, err)
		}
	}
}

// A value that the next start would not believe is not written, and a failed
// write leaves the old value, on the disk and in memory.
func TestSetRefuses(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenRun(dir)
	must(t, err)
	must(t, s.Set(exampleRun()))
	bad := map[string]Run{
		"invalid lane name":                  {Lanes: map[string]LaneRun{"A": {}}},
		"invalid want":                       {Lanes: map[string]LaneRun{"a": {Want: "sideways"}}},
		"uplink: invalid interface":          {Lanes: map[string]LaneRun{"a": {Uplink: &policy.Uplink{Interface: "a b"}}}},
		"none of ours":                       {Sysctl: map[string]int{"net/ipv4/ip_forward": 1}},
		"the kernel keeps it for itself":     {Sysctl: map[string]int{"net/bridge/conf/../stp_state": 1}},
		"it means all of them":               {Sysctl: map[string]int{"net/ipv4/conf/all/forwarding": 1}},
		"invalid interface name \"..\"":      {Sysctl: map[string]int{"net/ipv4/conf/../forwarding": 1}},
		"net/ipv4/conf/a/../../forwarding":   {Sysctl: map[string]int{"net/ipv4/conf/a/../../forwarding": 1}},
		"net/ipv4/conf/a/forwarding=-1":      {Sysctl: map[string]int{"net/ipv4/conf/a/forwarding": -1}},
		"net/ipv4/conf/a/forwarding=256":     {Sysctl: map[string]int{"net/ipv4/conf/a/forwarding": 256}},
		"invalid nftables table":             {Tables: []string{"filter; flush ruleset"}},
		"invalid directory \"/etc/../home\"": {Directories: []string{"/etc/../home"}},
		"invalid directory \"/etc\"":         {Directories: []string{"/etc"}},
		"invalid directory \"run/netns\"":    {Directories: []string{"run/netns"}},
	}
	for want, v := range bad {
		if err := s.Set(v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("have %v, want %s", err, want)
		}
	}
	must(t, os.RemoveAll(dir))
	must(t, os.WriteFile(dir, nil, 0o600))
	if err := s.Set(Run{}); err == nil {
		t.Error("written where there is no folder")
	}
	if !reflect.DeepEqual(s.Get(), exampleRun()) {
		t.Errorf("have %+v", s.Get())
	}
}

func TestConcurrentUse(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenRun(dir)
	must(t, err)
	var wg sync.WaitGroup
	for _, want := range []Want{WantUp, WantDown, ""} {
		wg.Go(func() {
			for range 20 {
				if err := s.Set(Run{Lanes: map[string]LaneRun{"a": {Want: want}}}); err != nil {
					t.Error(err)
				}
				if len(s.Get().Lanes) != 1 {
					t.Error("half a value")
				}
			}
		})
	}
	wg.Wait()
	again, err := OpenRun(dir)
	must(t, err)
	if !reflect.DeepEqual(again.Get(), s.Get()) {
		t.Error("memory and disk differ")
	}
}

// Any bytes: no panic; what is taken is sound and comes back as it went.
func FuzzDecode(f *testing.F) {
	states, err := encode(exampleState())
	must(f, err)
	runs, err := encode(exampleRun())
	must(f, err)
	f.Add(states)
	f.Add(runs)
	f.Add([]byte(`{"version":1,"data":{"lanes":{"a":{}}}}`))
	f.Add([]byte(`{"version":1,"data":{"sysctl":{"net/ipv4/conf/a/forwarding":1},"tables":["ip nat"]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		roundTrip[State](t, data)
		roundTrip[Run](t, data)
	})
}

func roundTrip[T document](t *testing.T, data []byte) {
	v, err := decode[T](data)
	if err != nil {
		return
	}
	text, err := encode(v)
	if err != nil {
		t.Fatal(err)
	}
	again, err := decode[T](text)
	if err != nil {
		t.Fatal(err)
	}
	text2, err := encode(again)
	if err != nil || string(text2) != string(text) {
		t.Fatalf("%v\nhave %s\nwant %s", err, text2, text)
	}
}
