package daemon

import (
	"maps"
	"net/netip"
	"strings"
	"testing"

	"uplane/internal/state"
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
	d.uplinks.Profiles = profiles
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

// count returns how many objects of the lane there are whose lines have word.
func (d *daemon) count(word string) (n int) {
	for o := range d.machine.have {
		if strings.Contains(policy.Op{Object: o}.String(), word) {
			n++
		}
	}
	return n
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
	if d.count("type bridge") != 0 || d.count("master ul-steam") != 1 || d.count("ip netns add steam") != 1 || d.count("addr add 10.0.7.1/24") != 0 {
		t.Errorf("\n%s", d.trace())
	}
	for what, err := range map[string]error{
		"nmcli connection down 'my steam'": second(d.call(func() error { _, err := d.Down(t.Context(), "steam"); return err })),
		"uplane profile add steam": second(d.call(func() error {
			_, err := d.Up(t.Context(), "steam", map[string]any{"mark": uint32(7)}, true)
			return err
		})),
		"uplane profile remove steam, or nmcli connection delete 'my steam'": second(d.call(func() error { return d.Remove(t.Context(), "steam") })),
	} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("no %q in %v", what, err)
		}
	}
	if _, err := d.call(func() error { _, err := d.Up(t.Context(), "steam", nil, true); return err }); err != nil {
		t.Error(err)
	}
	// While NetworkManager is away, and for a new daemon that does not know it yet, all stays.
	applied := m.applied
	d.uplinks.Running = false
	d.settle()
	d.restart()
	d.uplinks.Known, d.uplinks.Profiles = false, nil
	d.settle()
	if m.applied != applied {
		t.Errorf("%d writes", m.applied-applied)
	}
	d.uplinks.Known, d.uplinks.Running = true, true
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

func second[T any](_ T, err error) error { return err }

// call makes a call while the loop runs.
func (d *daemon) call(f func() error) (struct{}, error) {
	done := make(chan error, 1)
	go func() { done <- f() }()
	for {
		select {
		case call := <-d.calls:
			call()
		case err := <-done:
			return struct{}{}, err
		}
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
	if d.count("ulv-steam") != 0 || d.count("ul-steam") != 0 || !m.have.Has(netns) {
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
	if d.count("ip link add name ul-steam") != 1 || d.statuses["steam"].Alloc.Subnet != prefix("10.0.7.0/24") {
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
	if link := m.links["ul-steam"]; !link.Made || d.count("type bridge") != 0 {
		t.Errorf("%v\n%s", link, d.trace())
	}
	// Without a profile it would be left behind.
	d.file("steam", "")
	d.readConfig()
	d.uplinks.Profiles = nil
	delete(m.links, "ul-steam")
	m.links["ul-steam"] = policy.HostLink{MTU: 1500, Made: true, Bridge: true}
	if v, err := d.look(); err != nil || !strings.Contains(policy.Op{Verb: policy.Remove, Object: policy.Diff(v.have, v.want)[1].Object}.String(), "ip link del dev ul-steam") {
		t.Errorf("%v: %v", err, policy.Diff(v.have, v.want))
	}
}

func TestProfileSeveral(t *testing.T) {
	d := newDaemon(t, newMachine())
	other := steamProfile(false)
	other.UUID, other.Name, other.Address = "a-o", "other", prefix("10.0.8.1/24")
	d.profiles(steamProfile(true), other)
	d.requireState("steam", policy.Up, "")
	other.Active = true
	d.uplinks.Profiles = []policy.Profile{steamProfile(true), other}
	d.settle()
	d.requireState("steam", policy.Degraded, "profile my steam is active for it too, and does not count while other is")
	d.profiles(steamProfile(false), other)
	d.requireState("steam", policy.Up, "")
	if got := d.statuses["steam"].Alloc.Subnet; got != prefix("10.0.8.0/24") {
		t.Error(got)
	}
}

func TestProfileBroken(t *testing.T) {
	bad := steamProfile(true)
	bad.Keys = map[string]string{"uplink": "wifi:x"}
	t.Run("before it was good", func(t *testing.T) {
		d := newDaemon(t, newMachine())
		d.profiles(bad)
		d.requireState("steam", policy.Error, `profile my steam: org.uplane.uplink: invalid uplink "wifi:x"`)
	})
	t.Run("when it was good", func(t *testing.T) {
		d := newDaemon(t, newMachine())
		d.profiles(steamProfile(true))
		applied := d.machine.applied
		d.profiles(bad)
		d.requireState("steam", policy.Degraded, "the lane stays as it was")
		if d.machine.applied != applied {
			t.Error("it did not stay")
		}
	})
	t.Run("beside a good file", func(t *testing.T) {
		d := newDaemon(t, newMachine(), "steam")
		bad.Active = false
		d.profiles(bad)
		d.requireState("steam", policy.Degraded, "profile my steam: org.uplane.uplink")
		if d.count("ip link add name ul-steam") != 1 {
			t.Error("the file does not count")
		}
	})
	t.Run("active, beside a good file", func(t *testing.T) {
		d := newDaemon(t, newMachine(), "steam")
		d.settle()
		applied := d.machine.applied
		active := bad
		active.Active, active.Interface = true, "br7"
		d.uplinks.Profiles = []policy.Profile{active}
		d.settle()
		d.requireState("steam", policy.Degraded, "profile my steam: org.uplane.uplink")
		if d.machine.applied != applied {
			t.Error("the file does not count")
		}
	})
	t.Run("beside a file that became bad, too", func(t *testing.T) {
		d := newDaemon(t, newMachine(), "steam")
		d.settle()
		applied := d.machine.applied
		d.file("steam", "uplink = 5\n")
		d.readConfig()
		active := bad
		active.Active, active.Interface = true, "br7"
		d.uplinks.Profiles = []policy.Profile{active}
		d.settle()
		d.requireState("steam", policy.Degraded, "the lane stays as it was; profile my steam: org.uplane.uplink")
		if d.machine.applied != applied {
			t.Error("it did not stay")
		}
	})
	t.Run("beside a good one", func(t *testing.T) {
		d := newDaemon(t, newMachine())
		active := bad
		active.Active, active.UUID, active.Interface = true, "a", "br7"
		d.profiles(active, steamProfile(true))
		d.requireState("steam", policy.Degraded, "profile my steam: org.uplane.uplink")
		if d.count("master ul-steam") != 1 {
			t.Errorf("\n%s", d.trace())
		}
	})
	t.Run("no lane's name, no interface's name", func(t *testing.T) {
		d := newDaemon(t, newMachine())
		p, q := steamProfile(true), steamProfile(true)
		p.Lane, q.Interface, q.Lane, q.UUID = "../x", "lo all", "work", "u-q"
		d.profiles(p, q)
		d.requireState("work", policy.Error, "connection.interface-name: invalid interface name")
		if len(d.statuses) != 1 || len(d.complained) != 1 {
			t.Errorf("%v %v", d.statuses, d.complained)
		}
	})
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
	if n := d.machine.applied - applied; n != 0 {
		t.Errorf("%d writes", n)
	}
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
	if _, err := d.call(func() error { _, err := d.Down(t.Context(), "steam"); return err }); err != nil {
		t.Fatal(err)
	}
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
	if _, err := d.call(func() error { _, err := d.Down(t.Context(), "steam"); return err }); err != nil {
		t.Fatal(err)
	}
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
	if len(d.complained) != 1 {
		t.Errorf("%v", d.complained)
	}
	d.uplinks.Running = false
	d.uplinks.Profiles = nil
	delete(d.machine.links, "ul-steam")
	d.settle()
	if _, kept := d.States.Get().Lanes["steam"]; !kept {
		t.Error("its numbers are gone with NetworkManager")
	}
	d.uplinks.Running = true
	d.profiles()
	if after := d.trace(); after != before || len(d.complained) != 0 {
		t.Errorf("left behind: %v\n%s\nnot\n%s", d.complained, after, before)
	}
	d.file("broken", "uplink = 5\n") // it may have had numbers
	d.readConfig()
	d.memory.state.Lanes["broken"] = state.Lane{Allocation: policy.Allocation{Table: 7}}
	d.settle()
	if _, kept := d.memory.state.Lanes["broken"]; !kept {
		t.Error("a broken file's lane lost its numbers")
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"steam": "steam", "my steam": "'my steam'", "": "''", "it's": `'it'\''s'`, "$(x)": "'$(x)'"} {
		if got := quote(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
