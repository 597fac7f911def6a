package daemon

import (
	"maps"
	"net/netip"
	"strings"
	"testing"

	"uplane/policy"
)

func steamProfile(active bool) policy.Profile {
	return policy.Profile{
		UUID: "u-s", Name: "my steam", Interface: "ul-steam", Lane: "steam", Address: prefix("10.0.7.1/24"), Method: "manual",
		Keys: map[string]string{"uplink": "wlp6s0"}, Active: active,
	}
}

// profiles is what NetworkManager has from now on; the bridge follows.
func (d *daemon) profiles(profiles ...policy.Profile) {
	d.nm.Profiles = profiles
	delete(d.machine.links, "ul-steam")
	for _, p := range profiles {
		if p.Active || p.Leaving {
			d.bridge(p.Address)
		}
	}
	if _, there := d.machine.links["ul-steam"]; !there {
		maps.DeleteFunc(d.machine.sysctls, func(k, _ string) bool { return policy.Sysctl{Key: k}.Link() == "ul-steam" })
	}
	d.settle()
}

func (d *daemon) bridge(address netip.Prefix) {
	for o := range d.machine.have {
		if b, ok := o.(policy.Bridge); ok && b.Name == "ul-steam" {
			return // ours still
		}
	}
	d.machine.links["ul-steam"] = policy.HostLink{Index: 9, MTU: 1500, Running: true, Bridge: true, Addrs: []netip.Prefix{address}}
}

func TestProfileUpAndDown(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m)
	d.settle()
	before := d.trace()
	d.profiles(steamProfile(false))
	d.requireState("steam", policy.Down, "its profile my steam is down in NetworkManager: nmcli connection up 'my steam'")
	d.profiles(steamProfile(true))
	d.requireState("steam", policy.Up, "")
	if d.machine.count("type bridge") != 0 || d.machine.count("master ul-steam") != 1 || d.machine.count("ip netns add steam") != 1 || d.machine.count("addr add 10.0.7.1/24") != 0 {
		t.Errorf("\n%s", d.trace())
	}
	for what, err := range map[string]error{
		"nmcli connection down 'my steam'": d.call(func() error { _, err := d.Down(t.Context(), "steam"); return err }),
		"uplane profile add steam": d.call(func() error {
			_, err := d.Up(t.Context(), "steam", map[string]any{"mark": uint32(7)}, true)
			return err
		}),
		"uplane profile remove steam, or nmcli connection delete 'my steam'": d.call(func() error { return d.Remove(t.Context(), "steam") }),
	} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("no %q in %v", what, err)
		}
	}
	if err := d.call(func() error { _, err := d.Up(t.Context(), "steam", nil, true); return err }); err != nil {
		t.Error(err)
	}
	// While NetworkManager is away, and for a new daemon that does not know it yet, all stays.
	applied := m.applied
	d.nm.Running = false
	d.settle()
	d.restart()
	d.nm.Known, d.nm.Profiles = false, nil
	d.settle()
	d.requireWrites(applied, 0)
	d.nm.Known, d.nm.Running = true, true
	d.profiles(steamProfile(true))
	d.requireState("steam", policy.Up, "")
	d.profiles()
	if _, known := d.statuses["steam"]; known {
		t.Error("the lane is still there")
	}
	if after := d.trace(); after != before {
		t.Errorf("left behind:\n%s\nnot\n%s", after, before)
	}
}

// A lane that moves from file to profile and back keeps its namespace, and in between nothing else.
func TestProfileMove(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "steam")
	d.settle()
	netns := policy.Netns{Name: "steam", Up: true}
	m.fail = func(op policy.Op) error {
		if op.Verb == policy.Remove && op.Object == policy.Object(netns) {
			t.Error("the namespace goes")
		}
		return nil
	}
	d.profiles(steamProfile(false))
	d.requireState("steam", policy.Waiting, "its profile my steam is down")
	if d.machine.count("ulv-steam") != 0 || d.machine.count("ul-steam") != 0 || !m.have.Has(netns) {
		t.Errorf("\n%s", d.trace())
	}
	d.profiles(steamProfile(true))
	d.requireState("steam", policy.Degraded, "lanes.d/steam.toml defines it too, and does not count beside profile my steam")
	d.file("steam", "")
	d.readConfig()
	d.settle()
	d.requireState("steam", policy.Up, "")
	d.file("steam", "uplink = \"wlp6s0\"\n")
	d.readConfig()
	d.settle()
	left := steamProfile(false)
	left.Leaving = true
	d.profiles(left)
	d.requireState("steam", policy.Waiting, "NetworkManager is taking down bridge ul-steam")
	d.profiles()
	d.requireState("steam", policy.Up, "")
	if d.machine.count("ip link add name ul-steam") != 1 || d.statuses["steam"].Alloc.Subnet != prefix("10.0.7.0/24") {
		t.Errorf("%v\n%s", d.statuses["steam"].Alloc, d.trace())
	}
}

// NetworkManager has taken over the bridge that the lane made, and nobody looked.
func TestProfileTakesOver(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "steam")
	d.settle()
	d.profiles(steamProfile(true))
	d.requireState("steam", policy.Degraded, "defines it too")
	if link := m.links["ul-steam"]; !link.Made || d.machine.count("type bridge") != 0 {
		t.Errorf("%v\n%s", link, d.trace())
	}
	// Without a profile it would be left behind.
	d.file("steam", "")
	d.readConfig()
	d.nm.Profiles = nil
	delete(m.links, "ul-steam")
	m.links["ul-steam"] = policy.HostLink{MTU: 1500, Made: true, Bridge: true}
	d.pass()
	if _, there := m.links["ul-steam"]; there {
		t.Error("the bridge stays")
	}
}

// A profile that is down takes nothing from lanes that are up.
func TestProfileIdle(t *testing.T) {
	d := newDaemon(t, newMachine(), "auto")
	d.file("fixed", "uplink = \"wlp6s0\"\nsubnet = \"10.0.7.0/24\"\n")
	d.readConfig()
	d.settle()
	applied := d.machine.applied
	for _, address := range []string{"10.0.7.1/24", "10.0.1.1/24"} {
		idle := steamProfile(false)
		idle.Lane, idle.Address = "aaa", prefix(address)
		d.profiles(idle)
		d.requireState("fixed", policy.Up, "")
		d.requireState("auto", policy.Up, "")
	}
	d.requireWrites(applied, 0)
	// Not even by the name of an active one's bridge, or of a lane that it holds.
	rival := steamProfile(false)
	rival.Lane, rival.UUID, rival.Address = "aaa", "u-r", prefix("10.0.8.1/24")
	d.profiles(rival, steamProfile(true))
	d.requireState("steam", policy.Up, "")
	d.profiles()
	held := steamProfile(false)
	held.Lane, held.Interface = "auto", "br-auto"
	d.profiles(held)
	d.requireState("auto", policy.Waiting, "its profile my steam is down")
	d.requireState("fixed", policy.Up, "")
}

// What was said of a file's lane before it got a profile is no word on the file it gets afterwards.
func TestProfileForgetsDown(t *testing.T) {
	d := newDaemon(t, newMachine(), "steam")
	d.settle()
	d.down("steam")
	d.profiles(steamProfile(true))
	d.requireState("steam", policy.Degraded, "defines it too")
	d.machine.fail = func(op policy.Op) error {
		if op.Verb == policy.Remove && op.Object == policy.Object(policy.Netns{Name: "steam", Up: true}) {
			t.Error("the namespace goes")
		}
		return nil
	}
	left := steamProfile(false)
	left.Leaving = true
	d.profiles(left)
	d.profiles()
	d.requireState("steam", policy.Up, "")
	// What was said since goes on.
	d.machine.fail = nil
	d.down("steam")
	d.profiles(steamProfile(false))
	d.requireState("steam", policy.Down, "its profile my steam is down")
	d.profiles()
	d.requireState("steam", policy.Down, "")
}

// Of a lane that has neither a file nor a profile nothing is kept, once NetworkManager says so.
func TestProfileForgotten(t *testing.T) {
	d := newDaemon(t, newMachine(), "work")
	d.settle()
	before := d.trace()
	bad := steamProfile(true)
	bad.Lane = "../x"
	for i := range 3 {
		bad.UUID = string(rune('a' + i))
		d.profiles(steamProfile(true), bad)
	}
	if len(d.said) != 1 {
		t.Errorf("%v", d.said)
	}
	d.nm.Running = false
	d.nm.Profiles = nil
	delete(d.machine.links, "ul-steam")
	d.settle()
	if _, kept := d.store().Memory().Lanes["steam"]; !kept {
		t.Error("its numbers are gone with NetworkManager")
	}
	d.nm.Running = true
	d.profiles()
	if after := d.trace(); after != before || len(d.said) != 0 {
		t.Errorf("left behind: %v\n%s\nnot\n%s", d.said, after, before)
	}
	d.file("broken", "uplane = 5\n") // it may have had numbers
	d.memory.Lanes = maps.Clone(d.memory.Lanes)
	d.memory.Lanes["broken"] = policy.LaneMemory{Allocation: policy.Allocation{Table: 7}}
	d.readConfig()
	d.settle()
	if _, kept := d.memory.Lanes["broken"]; !kept {
		t.Error("a broken file's lane lost its numbers")
	}
}
