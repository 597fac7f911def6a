package state

import (
	"fmt"
	"maps"
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

var (
	prefix = netip.MustParsePrefix
	addr   = netip.MustParseAddr
	noon   = time.Date(2026, 1, 2, 12, 0, 0, 123456789, time.UTC)
)

// example has every field of policy.Memory set that is kept, in one lane or another.
func example() (policy.Memory, Undo) {
	return policy.Memory{
			Lanes: map[string]policy.LaneMemory{
				"steam": {
					Allocation: policy.Allocation{Subnet: prefix("10.0.1.0/24"), Table: 100, Bridge: "ul-steam", Veth: "ulv-steam"},
					Definition: &policy.Lane{
						Name:   "steam",
						Uplink: []policy.Selector{{Kind: policy.BySSID, Value: `Home "2"`}, {Kind: policy.ByType, Value: "gsm"}},
						Subnet: prefix("10.0.1.0/24"), Table: 100, Mark: 0x64, MarkMask: 0xff, Bridge: "br0",
						DNS: []netip.Addr{addr("9.9.9.9"), addr("2620:fe::fe")}, Allow: []netip.Prefix{prefix("192.168.50.0/24")}, AllowHost: true,
						IPv6: policy.IPv6Off, Enabled: true, External: true, Gateway: addr("10.0.1.1"),
					},
					Want: policy.WantUp, Profile: true, Files: true, State: policy.Degraded, Since: noon,
					Uplink: &policy.Uplink{
						Interface: "wlp6s0", Type: "wifi", Connection: "homewifi", UUID: "0-1", SSID: "Home", Phase: policy.PhaseActive,
						Addresses: []netip.Prefix{prefix("192.168.50.4/24")},
						Routes:    []policy.UplinkRoute{{Dst: prefix("0.0.0.0/0"), Via: addr("192.168.50.1"), Metric: 600}, {Dst: prefix("192.168.50.0/24")}},
						DNS:       []netip.Addr{addr("192.168.50.1")}, Search: []string{"lan"},
						Private: true, Limited: true, Lanes: []string{"steam"},
					},
				},
				"work": {
					Allocation: policy.Allocation{Table: 101},
					Definition: &policy.Lane{Name: "work", Uplink: []policy.Selector{{Kind: policy.ByInterface, Value: "eth1"}}, NoBridge: true, IPv6: policy.IPv6Auto},
				},
				"new": {State: policy.Waiting, Since: noon},
			},
			Sysctls: map[string]string{
				"net/ipv4/conf/eth0.5/forwarding": "0", "net/ipv6/conf/wlp6s0/disable_ipv6": "1", "net/ipv4/conf/wlp6s0/arp_ignore": "8",
				"net/bridge/conf/br0/stp_state": "1", "net/ipv4/conf/wlp6s0/src_valid_mark": "0",
			},
			Forwarded: true,
			Draining:  map[netip.Prefix]policy.Drain{prefix("10.0.7.0/24"): {Since: noon}},
			Answers:   map[netip.Addr]string{addr("192.168.50.4"): "wlp6s0"},
		}, Undo{
			Tables:      []string{"filter", "nat POSTROUTING"},
			Directories: []string{"/etc/netns/steam", "/run/netns"},
		}
}

// open opens the store that a test has in dir, with the state and the runtime folder below it.
func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir+"/lib", dir+"/run")
	must(t, err)
	return s
}

func saved(t testing.TB, m policy.Memory, u Undo) string {
	t.Helper()
	dir := t.TempDir()
	must(t, open(t, dir).Save(m, u))
	return dir
}

func requireMemory(t testing.TB, s *Store, m policy.Memory, u Undo) {
	t.Helper()
	if got := s.Memory(); !reflect.DeepEqual(got, m) {
		t.Errorf("have %+v\nwant %+v", got, m)
	}
	if got := s.Undo(); !reflect.DeepEqual(got, u) {
		t.Errorf("have %+v\nwant %+v", got, u)
	}
}

// contents returns all files below dir by their path there.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var data []byte
			data, err = os.ReadFile(path)
			out[strings.TrimPrefix(path, dir+"/")] = string(data)
		}
		return err
	}))
	return out
}

// Every field that policy remembers is kept: one that is new there has to be here.
func TestExampleIsComplete(t *testing.T) {
	m, u := example()
	l := m.Lanes["steam"]
	d := *l.Definition
	d.NoBridge = true // not together with a name
	for _, v := range []any{m, u, l, l.Allocation, d, *l.Uplink, l.Uplink.Routes[0], m.Draining[prefix("10.0.7.0/24")]} {
		v := reflect.ValueOf(v)
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if v.Field(i).IsZero() && name != "Answered" && name != "Fights" && name != "Converged" && name != "built" {
				t.Errorf("%v.%s is not in the example", v.Type(), name)
			}
		}
	}
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if m := s.Memory(); m.Lanes == nil || m.Sysctls == nil || m.Draining == nil || m.Answers == nil || len(m.Lanes) > 0 {
		t.Errorf("a new store has %+v", m)
	}
	must(t, s.Save(policy.Memory{}, Undo{}))
	if got := contents(t, dir); len(got) > 0 {
		t.Errorf("written though there is nothing to remember: %v", got)
	}
	m, u := example()
	must(t, s.Save(m, u))
	requireMemory(t, s, m, u)
	requireMemory(t, open(t, dir), m, u)
	for path, mode := range map[string]os.FileMode{
		"lib": 0o700 | os.ModeDir, "lib/state.json": 0o600, "lib/state.v2.json": 0o600,
		"run": 0o755 | os.ModeDir, "run/run.json": 0o600, "run/run.v2.json": 0o600,
	} {
		if info, err := os.Stat(dir + "/" + path); err != nil || info.Mode() != mode {
			t.Errorf("%s: have %v, %v, want %v", path, info.Mode(), err, mode)
		}
	}
	// And back to nothing.
	must(t, s.Save(policy.Memory{}, Undo{}))
	if m := open(t, dir).Memory(); len(m.Lanes)+len(m.Sysctls)+len(m.Draining)+len(m.Answers) > 0 || m.Forwarded {
		t.Errorf("have %+v", m)
	}
}

// What Memory returned belongs to the caller.
func TestMemoryIsACopy(t *testing.T) {
	m, u := example()
	s := open(t, saved(t, m, u))
	got := s.Memory()
	delete(got.Lanes, "work")
	got.Lanes["steam"].Definition.Uplink[0].Value = "x"
	s.Undo().Tables[0] = "x"
	requireMemory(t, s, m, u)
}

// The first release's own files, written by it: they are read, and say the same when they are
// written again, to the byte.
func TestFilesOfFirstRelease(t *testing.T) {
	dir := t.TempDir()
	copyFile(t, "testdata/v1/state.json", dir+"/lib/state.json")
	copyFile(t, "testdata/v1/run.json", dir+"/run/run.json")
	before := contents(t, dir)
	must(t, oldTakes([]byte(before["lib/state.json"]), []byte(before["run/run.json"])))

	s := open(t, dir)
	m := s.Memory()
	for what, ok := range map[string]bool{
		"definition": m.Lanes["steam"].Definition.Uplink[0] == policy.Selector{Kind: policy.BySSID, Value: `Home "2" <&>`} && m.Lanes["steam"].Definition.Mark == 100,
		"profile":    m.Lanes["tv"].Definition.External && m.Lanes["tv"].Profile && m.Lanes["tv"].Definition.Gateway == addr("192.168.77.1"),
		"want":       m.Lanes["steam"].Want == policy.WantUp && m.Lanes["work"].Want == policy.WantDown,
		"uplink":     m.Lanes["steam"].Uplink.Routes[0].Via == addr("192.168.50.1") && m.Lanes["full"].Uplink.Phase == policy.PhaseChanging,
		"allocation": m.Lanes["full"].Allocation == policy.Allocation{Table: 103, Bridge: "ul-full", Veth: "ulv-full"},
		"sysctl":     m.Sysctls["net/ipv4/conf/wlp6s0/arp_ignore"] == "8" && len(m.Sysctls) == 5,
		"undo":       reflect.DeepEqual(s.Undo(), Undo{[]string{"filter", "nat POSTROUTING"}, []string{"/etc/netns", "/etc/netns/steam", "/run/netns"}}),
	} {
		if !ok {
			t.Errorf("%s: have %+v", what, m)
		}
	}
	must(t, s.Save(m, s.Undo()))
	if after := contents(t, dir); !maps.Equal(after, before) {
		t.Errorf("have %s", after)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	must(t, err)
	must(t, os.MkdirAll(filepath.Dir(to), 0o755))
	must(t, os.WriteFile(to, data, 0o600))
}

// What we write the first release takes, and leaves the rest alone; after a time with it,
// what it has written counts.
func TestDowngradeAndUpgrade(t *testing.T) {
	m, u := example()
	dir := saved(t, m, u)
	files := contents(t, dir)
	must(t, oldTakes([]byte(files["lib/state.json"]), []byte(files["run/run.json"])))

	// It drops a lane, changes another, and switches its forwarding back.
	edit := func(file string, pairs ...string) {
		out := strings.NewReplacer(pairs...).Replace(files[file])
		if out == files[file] {
			t.Fatalf("%q is not in %s", pairs, files[file])
		}
		must(t, os.WriteFile(dir+"/"+file, []byte(out), 0o600))
	}
	edit("lib/state.json", `"Mark": 100`, `"Mark": 7`)
	edit("run/run.json", `"new"`, `"other"`, `"want": "up"`, `"want": "down"`, `"net/ipv4/conf/eth0.5/forwarding": 0,`, "")
	s := open(t, dir)
	want, _ := example()
	steam := want.Lanes["steam"]
	steam.Want, steam.Definition.Mark, steam.Definition.MarkMask, steam.Definition.AllowHost = policy.WantDown, 7, 0, false
	want.Lanes["steam"] = steam
	delete(want.Lanes, "new")
	want.Lanes["other"] = policy.LaneMemory{}
	delete(want.Sysctls, "net/ipv4/conf/eth0.5/forwarding")
	requireMemory(t, s, want, u)
}

// Each file can be used without the others.
func TestMissingFiles(t *testing.T) {
	for file, lose := range map[string]func(m *policy.Memory, u *Undo){
		"lib/state.json": func(m *policy.Memory, u *Undo) {
			for name, l := range m.Lanes {
				l.Allocation, l.Definition = policy.Allocation{}, nil
				m.Lanes[name] = l
			}
			delete(m.Lanes, "work")
		},
		"lib/state.v2.json": func(m *policy.Memory, u *Undo) {
			d := m.Lanes["steam"].Definition
			d.MarkMask, d.AllowHost = 0, false
		},
		"run/run.json": func(m *policy.Memory, u *Undo) {
			for name, l := range m.Lanes {
				m.Lanes[name] = policy.LaneMemory{Allocation: l.Allocation, Definition: l.Definition}
			}
			delete(m.Lanes, "new")
			m.Sysctls, *u = map[string]string{"net/ipv4/conf/wlp6s0/src_valid_mark": "0"}, Undo{}
		},
		"run/run.v2.json": func(m *policy.Memory, u *Undo) {
			for name, l := range m.Lanes {
				l.State, l.Since, l.Files = "", time.Time{}, false
				m.Lanes[name] = l
			}
			delete(m.Sysctls, "net/ipv4/conf/wlp6s0/src_valid_mark")
			m.Draining, m.Answers, m.Forwarded = map[netip.Prefix]policy.Drain{}, map[netip.Addr]string{}, false
		},
	} {
		t.Run(file, func(t *testing.T) {
			m, u := example()
			dir := saved(t, m, u)
			must(t, os.Remove(dir+"/"+file))
			lose(&m, &u)
			requireMemory(t, open(t, dir), m, u)
		})
	}
}

// A definition that the first release would refuse, with its whole file, is in version 2 alone.
func TestDefinitionThatIsNew(t *testing.T) {
	m, _ := example()
	old := newLaneV2(m.Lanes["steam"].Definition)
	for name, change := range map[string]func(l *laneV2){
		"selector": func(l *laneV2) { l.Uplink[0].Kind = "vpn" },
		"network":  func(l *laneV2) { l.Allow = []netip.Prefix{prefix("fd00::/64")} },
		"ipv6":     func(l *laneV2) { l.IPv6 = "on" },
	} {
		l := newLaneV2(m.Lanes["steam"].Definition)
		if l.v1() == nil {
			t.Fatal("nothing of it is in version 1")
		}
		change(l)
		if l.v1() != nil {
			t.Errorf("%s: it is in version 1", name)
		}
		// An older daemon of version 2, which does not know the value either, has what version 1 has.
		if got, errs := definition("steam", nil, l); got != nil || len(errs) != 1 {
			t.Errorf("%s: have %+v, %v", name, got, errs)
		}
		if got, errs := definition("steam", old.v1(), l); got == nil || got.AllowHost || errs != nil {
			t.Errorf("%s: have %+v, %v", name, got, errs)
		}
	}
}

// What was a lane's by older rules is no reason to lose all others.
func TestRulesThatChanged(t *testing.T) {
	m, u := example()
	dir := saved(t, m, u)
	files := contents(t, dir)
	for _, pair := range [][2]string{{`"Table": 100`, `"Table": 117117`}, {`"Mark": 100`, `"Mark": 268435556`}} {
		must(t, os.WriteFile(dir+"/lib/state.json", []byte(strings.ReplaceAll(files["lib/state.json"], pair[0], pair[1])), 0o600))
		s, err := Open(dir+"/lib", dir+"/run")
		if err == nil || !strings.Contains(err.Error(), "lane steam: definition: ") {
			t.Errorf("have %v", err)
		}
		got := s.Memory()
		if got.Lanes["steam"].Definition != nil || got.Lanes["steam"].Veth == "" || got.Lanes["work"].Definition == nil {
			t.Errorf("have %+v", got)
		}
		must(t, s.Save(got, s.Undo()))
		requireMemory(t, open(t, dir), got, u)
	}
}

// A newer daemon has written fields and values that this one does not know.
func TestFileOfNewerRelease(t *testing.T) {
	m, u := example()
	dir := saved(t, m, u)
	path := dir + "/run/run.v2.json"
	data, err := os.ReadFile(path)
	must(t, err)
	text := strings.NewReplacer(
		`"state": "degraded"`, `"state": "sleeping", "health": {"score": 1}`,
		`"forwarded"`, `"met": true, "forwarded"`,
		`"net/ipv4/conf/wlp6s0/src_valid_mark"`, `"net/ipv6/conf/wlp6s0/force_forwarding": 0, "net/ipv4/conf/all/src_valid_mark": 0, "net/ipv4/conf/wlp6s0/src_valid_mark"`,
	).Replace(string(data))
	must(t, os.WriteFile(path, []byte(text), 0o600))
	s, err := Open(dir+"/lib", dir+"/run")
	for _, want := range []string{`lane steam: invalid state "sleeping"`, "force_forwarding", "conf/all/"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("have %v\nwant %s", err, want)
		}
	}
	steam := m.Lanes["steam"]
	steam.State, steam.Since, steam.Files = "", time.Time{}, false
	m.Lanes["steam"] = steam
	requireMemory(t, s, m, u)
}

func TestNoWriteWithoutChange(t *testing.T) {
	m, u := example()
	dir := saved(t, m, u)
	// An open file keeps its inode from being given to the next one.
	inodes := func() map[string]uint64 {
		out := map[string]uint64{}
		for file := range contents(t, dir) {
			f, err := os.Open(dir + "/" + file)
			must(t, err)
			t.Cleanup(func() { f.Close() })
			info, err := f.Stat()
			must(t, err)
			out[file] = info.Sys().(*syscall.Stat_t).Ino
		}
		return out
	}
	before := inodes()
	s := open(t, dir)
	must(t, s.Save(s.Memory(), s.Undo()))
	must(t, s.Save(m, u))
	if after := inodes(); !maps.Equal(after, before) {
		t.Errorf("written though nothing changed: %v, %v", before, after)
	}
	work := m.Lanes["work"]
	work.State = policy.Waiting
	m.Lanes["work"] = work
	must(t, s.Save(m, u))
	after := inodes()
	for file, changed := range map[string]bool{"lib/state.json": false, "lib/state.v2.json": false, "run/run.json": true, "run/run.v2.json": true} {
		if (after[file] != before[file]) != changed {
			t.Errorf("%s: written is %v", file, !changed)
		}
	}
}

// Nothing that is wrong with a file keeps the daemon from starting, or its old
// content from a person's eyes.
func TestBadFile(t *testing.T) {
	tests := []struct{ file, name, from, to, want string }{
		{"lib/state.json", "empty", "*", "", "unexpected end of JSON input"},
		{"lib/state.json", "zeros", "*", strings.Repeat("\x00", 300), "invalid character"},
		{"lib/state.json", "longer", "}\n}\n", "}\n}\n{}", "invalid character '{' after top-level value"},
		{"lib/state.json", "null", "*", "null", "version 0 is not 1"},
		{"lib/state.json", "newer", `"version": 1`, `"version": 2`, "version 2 is not 1"},
		{"lib/state.json", "unknown field", `"allocation"`, `"allocated"`, "unknown field"},
		{"lib/state.json", "wrong type", `"Table": 100`, `"Table": "100"`, "cannot unmarshal string"},
		{"lib/state.json", "huge number", `"Table": 100`, `"Table": 4294967296`, "cannot unmarshal number"},
		{"lib/state.json", "lane name", `"work"`, `"../work"`, "invalid lane name"},
		{"lib/state.json", "subnet", `"10.0.1.0/24"`, `"0.0.0.0/0"`, "allocation: invalid subnet 0.0.0.0/0"},
		{"lib/state.json", "table", `"Table": 100`, `"Table": 254`, "allocation: invalid table 254"},
		{"lib/state.json", "bridge", `"ul-steam"`, `"a;reboot"`, "allocation: invalid interface name"},
		{"lib/state.json", "all", `"ulv-steam"`, `"all"`, `invalid interface name "all"`},
		{"lib/state.json", "other lane", `"Name": "steam"`, `"Name": "work"`, "definition: it is that of lane \"work\""},
		{"lib/state.json", "large", "}\n}\n", "}\n}\n" + strings.Repeat(" ", maxFile), "larger than 4096 KiB"},
		{"run/run.json", "want", `"want": "up"`, `"want": "sideways"`, "invalid want"},
		{"run/run.json", "uplink", `"Interface": "wlp6s0"`, `"Interface": "a b"`, "uplink: invalid interface name"},
		{"run/run.json", "phase", `"Phase": 2`, `"Phase": 3`, "uplink: invalid phase 3"},
		{"run/run.json", "address", `"192.168.50.4/24"`, `""`, "uplink: invalid address"},
		{"run/run.json", "route", `"Dst": "0.0.0.0/0"`, `"Dst": ""`, "uplink: invalid route"},
		{"run/run.json", "newer sysctl", "arp_ignore", "src_valid_mark", "none of ours"},
		{"run/run.json", "host-wide sysctl", "conf/wlp6s0/arp_ignore", "conf/all/arp_ignore", `invalid interface name "all"`},
		{"run/run.json", "sysctl outside", "conf/wlp6s0/arp_ignore", "conf/../arp_ignore", `invalid interface name ".."`},
		{"run/run.json", "sysctl's value", `arp_ignore": 8`, `arp_ignore": 256`, "use 0 to 255"},
		{"run/run.json", "firewall table", `"filter"`, `"filter; flush ruleset"`, "invalid firewall table"},
		{"run/run.json", "directory", `"/run/netns"`, `"/run/../home"`, "invalid directory"},
		{"run/run.json", "parent", `"/run/netns"`, `"/run"`, "invalid directory"},
		{"run/run.v2.json", "empty", "*", "", "unexpected end of JSON input"},
		{"run/run.v2.json", "old", `"version": 2`, `"version": 1`, "version 1 is not 2"},
		{"run/run.v2.json", "newer", `"version": 2`, `"version": 3`, "version 3 is not 2"},
		{"run/run.v2.json", "time", "2026-01-02", "2026-13-02", "parsing time"},
		{"run/run.v2.json", "subnet", `"10.0.7.0/24"`, `"10.0.7.0"`, "no '/'"},
		{"lib/state.v2.json", "wrong type", `"MarkMask": 255`, `"MarkMask": "255"`, "cannot unmarshal string"},
		{"lib/state.v2.json", "longer", "}\n}\n", "}\n}\n{}", "after top-level value"},
	}
	for _, tt := range tests {
		t.Run(tt.file+" "+tt.name, func(t *testing.T) {
			m, u := example()
			dir := saved(t, m, u)
			path := dir + "/" + tt.file
			good, err := os.ReadFile(path)
			must(t, err)
			bad := strings.Replace(string(good), tt.from, tt.to, 1)
			if tt.from == "*" {
				bad = tt.to
			} else if bad == string(good) {
				t.Fatalf("%q is not in %s", tt.from, good)
			}
			must(t, os.WriteFile(path, []byte(bad), 0o600))
			s, err := Open(dir+"/lib", dir+"/run")
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path+".bad") {
				t.Errorf("have %v, want %s", err, tt.want)
			}
			if kept, err := os.ReadFile(path + ".bad"); err != nil || string(kept) != bad {
				t.Errorf("the bad file is not kept: %v", err)
			}
			if got, is := s.Memory(), m; reflect.DeepEqual(got, is) {
				t.Error("a value came from a bad file")
			}
			must(t, s.Save(m, u))
			requireMemory(t, open(t, dir), m, u)
		})
	}
}

// A value of version 2 that may not be acted on is passed over, and nothing else.
func TestBadValue(t *testing.T) {
	tests := []struct {
		from, to, want string
		lose           func(m *policy.Memory)
	}{
		{`"10.0.7.0/24"`, `"0.0.0.0/0"`, "draining: invalid subnet", func(m *policy.Memory) { clear(m.Draining) }},
		{`"10.0.7.0/24": {
				"since": "2026`, `"10.0.7.0/24": {
				"since": "0000`, "draining 10.0.7.0/24: invalid year 0", func(m *policy.Memory) { clear(m.Draining) }},
		{`"192.168.50.4"`, `"::1"`, "invalid answering address", func(m *policy.Memory) { clear(m.Answers) }},
		{`": "wlp6s0"`, `": "all"`, "answering address 192.168.50.4: invalid interface", func(m *policy.Memory) { clear(m.Answers) }},
		{`src_valid_mark": 0`, `src_valid_mark": -1`, "use 0 to 255", func(m *policy.Memory) { delete(m.Sysctls, "net/ipv4/conf/wlp6s0/src_valid_mark") }},
		{`"net/ipv4/conf/wlp6s0/src_valid_mark": 0`, `"net/ipv4/conf/eth0.5/forwarding": 1`, "", func(m *policy.Memory) { delete(m.Sysctls, "net/ipv4/conf/wlp6s0/src_valid_mark") }},
	}
	for _, tt := range tests {
		m, u := example()
		dir := saved(t, m, u)
		path := dir + "/run/run.v2.json"
		good, err := os.ReadFile(path)
		must(t, err)
		bad := strings.Replace(string(good), tt.from, tt.to, 1)
		if bad == string(good) {
			t.Fatalf("%q is not in %s", tt.from, good)
		}
		must(t, os.WriteFile(path, []byte(bad), 0o600))
		s, err := Open(dir+"/lib", dir+"/run")
		if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("have %v, want %s", err, tt.want)
		}
		tt.lose(&m)
		requireMemory(t, s, m, u)
	}
}

func TestNotOurFile(t *testing.T) {
	tests := map[string]func(path string) error{
		"a link to somewhere": func(path string) error {
			if err := os.Rename(path, path+".target"); err != nil {
				return err
			}
			return os.Symlink(path+".target", path)
		},
		"a folder": func(path string) error { os.Remove(path); return os.Mkdir(path, 0o755) },
		"a fifo":   func(path string) error { os.Remove(path); return syscall.Mkfifo(path, 0o600) },
	}
	if os.Geteuid() == 0 {
		tests["another's file"] = func(path string) error { return os.Chown(path, 1234, 1234) }
	}
	for name, put := range tests {
		for _, file := range []string{"lib/state.json", "lib/state.v2.json", "run/run.json", "run/run.v2.json"} {
			t.Run(name+" "+file, func(t *testing.T) {
				m, u := example()
				dir := saved(t, m, u)
				must(t, put(dir+"/"+file))
				s, err := Open(dir+"/lib", dir+"/run")
				if err == nil || reflect.DeepEqual(s.Memory(), m) {
					t.Errorf("have %v, %+v", err, s.Memory())
				}
				must(t, s.Save(m, u))
				requireMemory(t, open(t, dir), m, u)
			})
		}
	}
}

// A daemon killed while it writes leaves a part of a temporary file. The old
// content counts, and the rest is swept up once nobody can be writing it.
func TestCrashWhileWriting(t *testing.T) {
	m, u := example()
	dir := saved(t, m, u)
	stale, fresh := dir+"/lib/.state.json.1.tmp", dir+"/lib/.state.json.2.tmp"
	other := dir + "/lib/.run.json.1.tmp"
	for _, f := range []string{stale, fresh, other} {
		must(t, os.WriteFile(f, []byte(`{"version": 1, "da`), 0o600))
	}
	long := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(stale, long, long))
	must(t, os.Chtimes(other, long, long))
	requireMemory(t, open(t, dir), m, u)
	for f, stays := range map[string]bool{stale: false, fresh: true, other: true} {
		if _, err := os.Stat(f); (err == nil) != stays {
			t.Errorf("%s: %v", f, err)
		}
	}
}

// What the next start would not believe is not written; all else is, and each time anew
// the error says what is missing.
func TestSaveRefuses(t *testing.T) {
	lane := func(l policy.LaneMemory) func(m *policy.Memory, u *Undo) {
		return func(m *policy.Memory, u *Undo) { m.Lanes["bad"] = l }
	}
	sysctl := func(key, value string) func(m *policy.Memory, u *Undo) {
		return func(m *policy.Memory, u *Undo) { m.Sysctls[key] = value }
	}
	table := func(name string) func(m *policy.Memory, u *Undo) {
		return func(m *policy.Memory, u *Undo) { u.Tables = append(u.Tables, name) }
	}
	directory := func(name string) func(m *policy.Memory, u *Undo) {
		return func(m *policy.Memory, u *Undo) { u.Directories = append(u.Directories, name) }
	}
	invalid := netip.PrefixFrom(addr("10.0.1.0"), -1)
	for want, change := range map[string]func(m *policy.Memory, u *Undo){
		"invalid lane name":                            func(m *policy.Memory, u *Undo) { m.Lanes["A"] = policy.LaneMemory{Want: policy.WantUp} },
		"lane bad: allocation: invalid subnet":         lane(policy.LaneMemory{Allocation: policy.Allocation{Subnet: invalid}}),
		"lane bad: allocation: invalid table 254":      lane(policy.LaneMemory{Allocation: policy.Allocation{Table: 254}}),
		"lane bad: definition: it is that of lane":     lane(policy.LaneMemory{Definition: m0().Lanes["work"].Definition}),
		"lane bad: definition: uplink: missing":        lane(policy.LaneMemory{Definition: &policy.Lane{Name: "bad"}}),
		"lane bad: definition: subnet":                 lane(policy.LaneMemory{Definition: &policy.Lane{Name: "bad", Subnet: invalid, Uplink: m0().Lanes["work"].Definition.Uplink, IPv6: policy.IPv6Off}}),
		"lane bad: invalid want":                       lane(policy.LaneMemory{Want: "sideways"}),
		"lane bad: uplink: invalid interface":          lane(policy.LaneMemory{Uplink: &policy.Uplink{Interface: "a b"}}),
		"lane bad: uplink: invalid address":            lane(policy.LaneMemory{Uplink: &policy.Uplink{Interface: "a", Addresses: []netip.Prefix{invalid}}}),
		"lane bad: invalid state":                      lane(policy.LaneMemory{State: "sleeping"}),
		"lane bad: since: invalid year":                lane(policy.LaneMemory{Since: time.Unix(1<<50, 0)}),
		"none of ours":                                 sysctl("net/ipv4/ip_forward", "1"),
		"the kernel keeps it for itself":               sysctl("net/bridge/conf/../stp_state", "1"),
		"net/ipv4/conf/all/forwarding":                 sysctl("net/ipv4/conf/all/forwarding", "1"),
		"net/ipv4/conf/a/../../forwarding":             sysctl("net/ipv4/conf/a/../../forwarding", "1"),
		"net/ipv4/conf/a/forwarding=-1":                sysctl("net/ipv4/conf/a/forwarding", "-1"),
		`net/ipv4/conf/a/src_valid_mark="x": it is no`: sysctl("net/ipv4/conf/a/src_valid_mark", "x"),
		"invalid firewall table":                       table("filter; flush ruleset"),
		"invalid directory \"/etc/../home\"":           directory("/etc/../home"),
		"invalid directory \"/etc\"":                   directory("/etc"),
		"invalid directory \"run/netns\"":              directory("run/netns"),
		"draining: invalid subnet":                     func(m *policy.Memory, u *Undo) { m.Draining[prefix("0.0.0.0/0")] = policy.Drain{} },
		"draining 10.0.9.0/24: invalid year": func(m *policy.Memory, u *Undo) {
			m.Draining[prefix("10.0.9.0/24")] = policy.Drain{Since: time.Unix(1<<50, 0)}
		},
		"answering address 10.1.1.1: invalid interface":  func(m *policy.Memory, u *Undo) { m.Answers[addr("10.1.1.1")] = "" },
		"remember: invalid answering address invalid IP": func(m *policy.Memory, u *Undo) { m.Answers[netip.Addr{}] = "eth0" },
	} {
		dir := t.TempDir()
		s := open(t, dir)
		m, u := example()
		change(&m, &u)
		for range 2 {
			if err := s.Save(m, u); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("have %v, want %s", err, want)
			}
		}
		m, u = example()
		requireMemory(t, open(t, dir), m, u)
	}
}

func m0() policy.Memory {
	m, _ := example()
	return m
}

// A file that can't be written is no reason not to write the others, and the next time it is tried again.
func TestSaveFails(t *testing.T) {
	m, u := example()
	dir := t.TempDir()
	s := open(t, dir)
	must(t, os.MkdirAll(dir+"/run/run.json/full", 0o755)) // no rename replaces a folder
	if err := s.Save(m, u); err == nil || !strings.Contains(err.Error(), "write "+dir+"/run/run.json") {
		t.Errorf("have %v", err)
	}
	if got := contents(t, dir); len(got) != 3 {
		t.Errorf("have %d files", len(got))
	}
	must(t, os.RemoveAll(dir+"/run/run.json"))
	must(t, s.Save(m, u))
	requireMemory(t, open(t, dir), m, u)
}

// A file that would be too large to be read again is not written.
func TestSaveTooMuch(t *testing.T) {
	m, u := example()
	dir := saved(t, m, u)
	s := open(t, dir)
	if err := s.files[runFile1].write(content{[][]byte{make([]byte, maxFile)}, []byte("{}")}); err == nil || !strings.Contains(err.Error(), "more than can be read again") {
		t.Errorf("have %v", err)
	}
	requireMemory(t, open(t, dir), m, u)
}

func TestConcurrentUse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	var wg sync.WaitGroup
	for _, want := range []policy.Want{policy.WantUp, policy.WantDown, ""} {
		wg.Go(func() {
			for range 20 {
				m := policy.Memory{Lanes: map[string]policy.LaneMemory{"a": {Want: want, Allocation: policy.Allocation{Table: 7}}}}
				if err := s.Save(m, Undo{}); err != nil {
					t.Error(err)
				}
				if len(s.Memory().Lanes) != 1 {
					t.Error("half a value")
				}
			}
		})
	}
	wg.Wait()
	if !reflect.DeepEqual(open(t, dir).Memory(), s.Memory()) {
		t.Error("memory and disk differ")
	}
}

// many is a memory of n lanes that are all up.
func many(n int) (policy.Memory, Undo) {
	m, u := example()
	steam := m.Lanes["steam"]
	clear(m.Lanes)
	for i := range n {
		l, d := steam, *steam.Definition
		d.Name = fmt.Sprintf("lane%d", i)
		l.Definition = &d
		l.Table = uint32(1000 + i)
		m.Lanes[d.Name] = l
	}
	return m, u
}

// BenchmarkSave is what one change of one of 1000 lanes costs.
func BenchmarkSave(b *testing.B) {
	for name, change := range map[string]func(l *policy.LaneMemory, i int){
		"nothing": func(l *policy.LaneMemory, i int) {},
		"state":   func(l *policy.LaneMemory, i int) { l.Since = l.Since.Add(time.Second) },
		"uplink":  func(l *policy.LaneMemory, i int) { u := *l.Uplink; u.SSID = fmt.Sprint(i); l.Uplink = &u },
		"numbers": func(l *policy.LaneMemory, i int) { l.Table++ },
	} {
		b.Run(name, func(b *testing.B) {
			m, u := many(1000)
			s, err := Open(b.TempDir(), b.TempDir())
			must(b, err)
			must(b, s.Save(m, u))
			i := 0
			for b.Loop() {
				i++
				l := m.Lanes["lane7"]
				change(&l, i)
				m.Lanes["lane7"] = l
				must(b, s.Save(m, u))
			}
			size := 0
			for j := range s.files {
				size += len(s.files[j].data)
			}
			b.ReportMetric(float64(size)/1000, "B/lane")
		})
	}
	b.Run("all anew", func(b *testing.B) {
		m, u := many(1000)
		s, err := Open(b.TempDir(), b.TempDir())
		must(b, err)
		for b.Loop() {
			s.lanes = nil
			s.encode(&m, u)
		}
	})
}

// Any bytes as the files of version 1: no panic; what is taken the first release takes as
// well, and it comes back as it went.
func FuzzV1(f *testing.F) {
	state, err := os.ReadFile("testdata/v1/state.json")
	must(f, err)
	run, err := os.ReadFile("testdata/v1/run.json")
	must(f, err)
	f.Add(state, run)
	s, err := Open(f.TempDir(), f.TempDir())
	must(f, err)
	f.Add([]byte(`{"version":1,"data":{"lanes":{"a":{}}}}`), []byte(`{"version":1,"data":{"sysctl":{"net/ipv4/conf/a/forwarding":1},"tables":["nat"]}}`))
	f.Fuzz(func(t *testing.T, state, run []byte) {
		roundTrip(t, s, [fileCount][]byte{stateFile1: state, runFile1: run})
	})
}

// The same for those of version 2, beside sound ones of version 1.
func FuzzV2(f *testing.F) {
	m, u := example()
	s, err := Open(f.TempDir(), f.TempDir())
	must(f, err)
	must(f, s.Save(m, u))
	state1, run1 := s.files[stateFile1].data, s.files[runFile1].data
	f.Add(s.files[stateFile2].data, s.files[runFile2].data)
	f.Add([]byte(`{"version":2,"new":1,"data":{"lanes":{"a":{}}}}`), []byte(`{"version":2,"data":{"sysctl":{"a":1},"draining":{},"answers":{"1.2.3.4":"a"}}}`))
	f.Fuzz(func(t *testing.T, state, run []byte) {
		roundTrip(t, s, [fileCount][]byte{state1, state, run1, run})
	})
}

func roundTrip(t *testing.T, s *Store, texts [fileCount][]byte) {
	put := func(texts [fileCount][]byte) {
		for i := range s.files {
			if s.files[i].data = nil; s.files[i].check(texts[i]) == nil {
				s.files[i].data = texts[i]
			}
		}
	}
	put(texts)
	m, u, _ := s.decode()
	s.lanes = nil
	parts, errs := s.encode(&m, u)
	var again [fileCount][]byte
	for i := range again {
		again[i] = parts[i].text(s.files[i].version)
	}
	if errs != nil {
		t.Fatalf("what was read can't be written: %v", errs)
	}
	if err := oldTakes(again[stateFile1], again[runFile1]); err != nil {
		t.Fatalf("%v\n%s\n%s", err, again[stateFile1], again[runFile1])
	}
	put(again)
	for i := range s.files {
		if s.files[i].data == nil {
			t.Fatalf("what was written can't be read: %s", again[i])
		}
	}
	m2, u2, unusable := s.decode()
	if unusable != nil {
		t.Fatal(unusable)
	}
	s.lanes = nil
	parts, _ = s.encode(&m2, u2)
	for i := range again {
		if third := parts[i].text(s.files[i].version); string(third) != string(again[i]) {
			t.Fatalf("have %s\nwant %s", third, again[i])
		}
	}
}
