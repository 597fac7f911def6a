package kernel

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"uplane/policy"
	"uplane/test/lab"
)

// TestForeignNamesStay has something of somebody else's under every name that a lane would use, which came
// after the last look.
func TestForeignNamesStay(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks)
	k := open(t, nil)
	want := testState()
	observe(t, k, want)
	sh(t, `
ip netns add steam; ip -n steam link set lo up; ip -n steam link add eth0 type veth peer name eth1
ip link add br0 type bridge; ip link set br0 alias mine
ip link add ulv-steam type veth peer name x; ip link set x netns steam
ip link add ulv-backup type veth peer name y
mkdir -p /etc/netns/steam /etc/netns/backup; echo nameserver 1.1.1.1 > /etc/netns/steam/resolv.conf
ln -s /etc/netns/steam/resolv.conf /etc/netns/backup/resolv.conf`)
	const look = snapshot + `; ip netns exec steam ip -o link; ip netns exec steam ip -o addr; ip netns exec steam ip route; grep -r . /etc/netns; ls -l /etc/netns/*`
	before := sh(t, look)
	for o := range want {
		var verbs []policy.Verb
		switch o := o.(type) {
		case policy.Netns, policy.Bridge, policy.Veth, policy.File:
			verbs = []policy.Verb{policy.Add, policy.Replace, policy.Remove}
		case policy.Addr:
			verbs = []policy.Verb{policy.Add, policy.Remove}
		case policy.Route:
			if o.Netns == "" {
				continue
			}
			verbs = []policy.Verb{policy.Add, policy.Replace, policy.Remove}
		default:
			continue
		}
		for _, verb := range verbs {
			if a, ok := o.(policy.Addr); ok && a.Netns == "backup" || o == (policy.Netns{Name: "backup", Up: true}) {
				continue // nobody has a namespace of that name
			}
			if r, ok := o.(policy.Route); ok && r.Netns == "backup" {
				continue
			}
			err := k.Apply(policy.Op{Verb: verb, Object: o, Have: o})
			if f, ok := o.(policy.File); ok && verb == policy.Add && err == nil {
				t.Errorf("%s was written", f.Path)
			}
			if err == nil {
				t.Errorf("%v %v succeeds", verb, o)
			}
		}
	}
	if err := k.Apply(policy.Op{Verb: policy.Destroy, Object: policy.Sockets{Netns: "steam"}}); !errors.Is(err, errNotOurs) {
		t.Errorf("sockets: %v", err)
	}
	if err := k.RemoveLinks([]string{"br0", "ulv-steam"}); !errors.Is(err, errNotOurs) {
		t.Errorf("links: %v", err)
	}
	if after := sh(t, look); after != before {
		t.Errorf("foreign objects changed:\n%s", lineDiff(before, after))
	}
}

// TestForeignFileStays has an administrator make his own file between our look and our writing.
func TestForeignFileStays(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	k := open(t, func() {})
	file := policy.File{Path: policy.ResolvConfPath("play"), Content: policy.FileTag + "play\n"}
	_, host, err := observeAll(k, nil)
	if err != nil || host.Files[file.Path] != "" {
		t.Fatal(host.Files, err)
	}
	const theirs = "nameserver 192.0.2.1\n"
	if err := os.MkdirAll(filepath.Dir(file.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file.Path, []byte(theirs), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, op := range []policy.Op{
		{Verb: policy.Add, Object: file}, {Verb: policy.Replace, Object: file, Have: file}, {Verb: policy.Remove, Object: file},
	} {
		if err := k.Apply(op); !errors.Is(err, errNotOurs) {
			t.Errorf("%v: %v", op.Verb, err)
		}
		if data, err := os.ReadFile(file.Path); err != nil || string(data) != theirs {
			t.Errorf("%v: it says %q, %v", op.Verb, data, err)
		}
	}
	// One that was ours, as policy remembers, and was overwritten by hand.
	if err := k.Apply(policy.Op{Verb: policy.Replace, Object: file, Have: policy.File{Path: file.Path}}); err != nil {
		t.Error(err)
	}
	state, host, err := observeAll(k, nil)
	if err != nil || !state.Has(file) || host.Files[file.Path] != "" {
		t.Errorf("it was not put right: %v, %v\n%s", host.Files, err, state)
	}
}

// TestOthersFilesAreSeen has folders and files come and go, which events alone must tell.
func TestOthersFilesAreSeen(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, "mkdir -p /etc/netns")
	k := open(t, func() {})
	for _, step := range []struct {
		script string
		seen   bool
	}{
		{":", false},
		{"mkdir /etc/netns/play; echo x > /etc/netns/play/resolv.conf", true},
		{"rm -r /etc/netns/play", false},
		{"mkdir /etc/netns/play; sleep 0.1; echo x > /etc/netns/play/resolv.conf", true},
		{"mv /etc/netns/play /etc/netns/other", false},
		{"mv /etc/netns/other /etc/netns/play", true},
		{"rm -r /etc/netns", false},
		{"ip netns add x; mkdir -p /etc/netns/play; echo x > /etc/netns/play/resolv.conf; ip netns del x; ip netns add y", true},
	} {
		sh(t, step.script)
		for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
			if _, host, err := observeAll(k, nil); err != nil {
				t.Fatal(err)
			} else if _, seen := host.Files[policy.ResolvConfPath("play")]; seen == step.seen {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("after %q it is not seen as %v", step.script, step.seen)
			}
		}
	}
}

// TestOddNamespace has things under /run/netns that can't be read: the others are read all the same.
func TestOddNamespace(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks)
	k := open(t, func() {})
	want := testState()
	converge(t, k, want)
	sh(t, "mkdir /run/netns/folder; touch /run/netns/file; ln -s nowhere /run/netns/link; ln -s /run/netns/steam /run/netns/also; ip netns add other; mkdir -p /etc/netns/folder/resolv.conf; mkfifo /etc/netns/folder/nsswitch.conf")
	k.Invalidate()
	_, host, err := k.Observe(nil)
	if err != nil {
		t.Fatal(err)
	}
	requireEqual(t, observe(t, k, want), want)
	for _, name := range []string{"folder", "file", "also", "other"} {
		if !host.Netns[name] {
			t.Errorf("%s is not among others' namespaces", name)
		}
	}
	if _, seen := host.Files["/etc/netns/folder/nsswitch.conf"]; !seen {
		t.Error("the odd file is not seen")
	}
}

// TestOwners has objects of ours that no name ties to a lane.
func TestOwners(t *testing.T) {
	k := &Kernel{
		links: map[int]hostLink{
			3: {index: 3, name: "br0", kind: "bridge", alias: policy.AliasPrefix + "steam"},
			4: {index: 4, name: "wlp6s0", kind: "veth"},
		},
		addrs: map[int][]netip.Prefix{3: {netip.MustParsePrefix("10.0.2.1/24")}, 4: {netip.MustParsePrefix("192.168.50.4/24")}},
		netns: map[string]*netnsState{"work": {ours: true, links: map[int]hostLink{2: {index: 2, kind: "veth"}}, addrs: []hostAddr{{2, netip.MustParsePrefix("10.0.7.2/24")}}}},
		routes: map[tableKey][]route{
			{2, 101}: {{table: 101, dst: netip.MustParsePrefix("10.0.2.0/24"), protocol: policy.Protocol, link: 3}},
			{2, 102}: {{table: 102, dst: netip.MustParsePrefix("192.168.50.0/24"), protocol: policy.Protocol, link: 4}},
			{2, 107}: {{table: 107, dst: netip.MustParsePrefix("10.0.7.0/24"), protocol: policy.Protocol, link: 9}},
		},
	}
	o := k.findOwners()
	for _, c := range []struct {
		rule policy.Rule
		lane string
	}{
		{policy.Rule{From: netip.MustParsePrefix("10.0.2.0/24")}, "steam"},
		{policy.Rule{To: netip.MustParsePrefix("10.0.7.0/24")}, "work"},
		{policy.Rule{Mark: 1, Mask: 1, Table: 101}, "steam"},
		{policy.Rule{From: netip.MustParsePrefix("10.0.0.0/16"), Action: policy.Goto}, ""},
		{policy.Rule{From: netip.MustParsePrefix("192.168.50.0/24"), Table: 102}, ""},
	} {
		if got := o.rule(c.rule); got != c.lane {
			t.Errorf("%v is %q's, not %q's", c.rule, got, c.lane)
		}
	}
	if len(o.tables) != 2 || o.tables[101] != "steam" || o.tables[107] != "work" {
		t.Error(o.tables)
	}
}
