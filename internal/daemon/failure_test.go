package daemon

import (
	"cmp"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"uplane/policy"
)

// A lane that can't be built leaves the others alone, and is tried again ever less often.
func TestFailureOfOneLane(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "bad", "good")
	m.fail = func(op policy.Op) error {
		if b, ok := op.Object.(policy.Bridge); ok && b.Lane == "bad" {
			return errors.New("no such luck")
		}
		return nil
	}
	want := 100 * time.Millisecond
	for i := range 15 {
		if wait := d.pass(); wait != want && i > 0 { // the first is followed by a look at the firewall
			t.Errorf("tries again after %v, not %v", wait, want)
		}
		want = min(2*want, 30*time.Second)
	}
	d.requireState("bad", policy.Error, "no such luck")
	d.requireState("good", policy.Up, "")
	for o := range m.have {
		if v, ok := o.(policy.Veth); ok && v.Lane == "bad" {
			t.Errorf("a lane that failed has %v", v)
		}
	}
	m.fail = nil
	d.settle()
	d.requireState("bad", policy.Up, "")
	m.fail = func(policy.Op) error { return errors.New("again") }
	m.remove(policy.Netns{Name: "bad", Up: true})
	if wait := d.pass(); wait != 100*time.Millisecond {
		t.Errorf("after a success it tries again after %v", wait)
	}
}

// What the firewall refuses of one lane is that lane's matter. What is everybody's is everybody's.
func TestFirewallRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		refused func(policy.Op) bool
		bad     policy.LaneState // of lane bad; lane good is up
		both    bool             // lane good is in the same state
	}{
		"one lane's": {refused: func(op policy.Op) bool { _, ok := op.Object.(policy.Element); return ok && op.Lane == "bad" }, bad: policy.Error},
		"all of it":  {refused: isFirewall, bad: policy.Error, both: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine()
			d := newDaemon(t, m, "bad", "good")
			m.fail = func(op policy.Op) error {
				if test.refused(op) {
					return errors.New("not this")
				}
				return nil
			}
			d.pass()
			d.requireState("bad", test.bad, "not this")
			if test.both {
				d.requireState("good", test.bad, "not this")
			} else {
				d.requireState("good", policy.Up, "")
			}
			if n := m.count("type veth"); test.both && n != 0 || !test.both && n != 1 {
				t.Errorf("%d lanes have a way out", n)
			}
			m.fail = nil
			d.settle()
			d.requireState("bad", policy.Up, "")
			d.requireState("good", policy.Up, "")
		})
	}
}

// A door in another firewall's chain that can't be made keeps nothing else from being done.
func TestDoorRefuses(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "one")
	d.settle()
	m.drops[policy.IPTables] = true
	m.fail = func(op policy.Op) error {
		if isDoor(op) {
			return errors.New("no door")
		}
		return nil
	}
	m.follows(t, d, func() { d.requireState("one", policy.Degraded, "no door") })
	m.fail = nil
	d.settle()
	d.requireState("one", policy.Up, "")
	delete(m.drops, policy.IPTables)
	m.fail = func(op policy.Op) error {
		if isDoor(op) {
			return errors.New("no door")
		}
		return nil
	}
	d.pass()
	d.requireState("one", policy.Up, "") // who removes a door can wait
	m.fail = nil
	d.settle()
	if m.count(policy.DoorComment) != 0 {
		t.Errorf("left:\n%s", d.trace())
	}
}

// A clean-up that fails is nobody else's trouble (C35), whatever it is that can't be removed.
func TestCleanUpFails(t *testing.T) {
	total := 0
	for n := 0; ; n++ {
		m := newMachine()
		d := newDaemon(t, m, "bad", "good")
		d.settle()
		start := len(m.ops)
		d.file("bad", "")
		d.readConfig()
		left, failed := n, ""
		m.fail = func(op policy.Op) error {
			if op.Verb == policy.Add || op.Verb == policy.Replace {
				return nil
			}
			if left--; left == -1 || failed != "" && op.String() == failed {
				failed = op.String()
				return errors.New("it does not go")
			}
			return nil
		}
		for range 4 {
			d.pass()
			d.requireState("good", policy.Up, "")
		}
		m.fail = nil
		if failed == "" {
			break // n was beyond the last of them
		}
		total++
		d.settle()
		if t.Failed() || m.count("bad") != 0 {
			t.Fatalf("%q failed after %v and leaves\n%s", failed, m.ops[start:], d.trace())
		}
	}
	if total < 10 {
		t.Errorf("only %d operations", total)
	}
}

// follows has everything that lanes have to follow happen, and look that they did. check is called after each.
func (m *machine) follows(t *testing.T, d *daemon, check func()) {
	t.Helper()
	pass := func() {
		t.Helper()
		d.pass()
		check()
	}
	// The gateway, and a DNS server.
	u := &d.nm.Uplinks[1]
	old := m.routes[0].Via
	via := old.Next()
	m.routes[0].Via, u.Routes[0].Via, u.DNS = via, via, []netip.Addr{via}
	pass()
	if got := laneDefault(t, m); got.Via != via {
		t.Errorf("the default is %v", got)
	}
	if m.count("nameserver "+via.String()+"'") == 0 || m.count("nameserver "+old.String()+"'") != 0 {
		t.Errorf("the DNS server does not follow:\n%s", d.trace())
	}
	// Somebody deletes a rule, and a route.
	for o := range m.have {
		if _, ok := o.(policy.Rule); ok {
			delete(m.have, o)
			pass()
			if !m.have.Has(o) {
				t.Errorf("%v is not healed", o)
			}
			break
		}
	}
	delete(m.have, laneDefault(t, m))
	pass()
	laneDefault(t, m)
}

// No edge that can't be seen keeps lanes from following (C21).
func TestBlindEdges(t *testing.T) {
	for name, test := range map[string]struct {
		edge   func(*machine) *error
		state  policy.LaneState
		reason string
	}{
		"firewall":  {func(m *machine) *error { return &m.firewall }, policy.Degraded, "it is broken"},
		"doors":     {func(m *machine) *error { return &m.doors }, policy.Up, ""},
		"conntrack": {func(m *machine) *error { return &m.conntrack }, policy.Up, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine()
			d := newDaemon(t, m, "one", "gone")
			d.settle()
			if name == "conntrack" { // is only asked while there is something to drain
				m.tracked[d.statuses["gone"].Alloc.Subnet] = true
				d.file("gone", "")
				d.readConfig()
				d.pass()
			}
			*test.edge(m) = errors.New("it is broken")
			m.follows(t, d, func() {
				t.Helper()
				d.requireState("one", test.state, test.reason)
			})
			if again := d.pass(); again > 30*time.Second || again == 0 && len(d.problems) > 0 {
				t.Errorf("the next look is after %v", again)
			}
			if _, err := d.decide("one"); err != nil { // what plan does
				t.Error(err)
			}
			d.file("new", "uplink = \"wlp6s0\"\n")
			d.readConfig()
			d.pass()
			if _, known := d.statuses["new"]; !known {
				t.Error("a new lane is not known")
			}
			// A daemon that starts meanwhile follows as well.
			d.restart()
			m.follows(t, d, func() {
				t.Helper()
				d.requireState("one", test.state, test.reason)
			})
			*test.edge(m) = nil
			clear(m.tracked)
			d.settle()
			d.requireState("one", policy.Up, "")
			d.requireState("new", policy.Up, "")
		})
	}
}

// Without any firewall lanes that there are follow, and the firewall is tried again.
func TestNoFirewall(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "one")
	d.settle()
	d.restart()
	broken := errors.New("no nf_tables")
	open := d.Firewall
	d.firewall, d.Firewall = nil, func(mode string) (Firewall, error) {
		if broken != nil {
			return nil, broken
		}
		return open(mode)
	}
	m.follows(t, d, func() {
		t.Helper()
		d.requireState("one", policy.Degraded, "no nf_tables")
	})
	if again := d.pass(); again == 0 {
		t.Error("it is not tried again")
	}
	broken = nil
	d.settle()
	d.requireState("one", policy.Up, "")
}

// Where the kernel can't be read nothing is written, and after a while lanes say so.
func TestBlindKernel(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "one", "down")
	d.file("down", "uplink = \"wlp6s0\"\nenabled = false\n")
	d.readConfig()
	d.settle()
	applied := m.applied
	m.kernel = errors.New("no netlink")
	want := 100 * time.Millisecond
	for i := range 5 {
		if again := d.pass(); again != want {
			t.Errorf("the next look is after %v, not %v", again, want)
		}
		want *= 2
		if i < blindAfter-1 {
			d.requireState("one", policy.Up, "")
		} else {
			d.requireState("one", policy.Degraded, "no netlink")
		}
	}
	if n := strings.Count(d.statuses["one"].Reason, "no netlink"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	d.requireState("down", policy.Down, "")
	d.requireWrites(applied, 0)
	m.kernel = nil
	d.settle()
	d.requireState("one", policy.Up, "")
	d.requireWrites(applied, 0)
}

// While the disk takes nothing lanes that there are follow, and say so. What could not be undone is not done.
func TestDiskFull(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "one")
	d.settle()
	d.spoil("run")
	m.follows(t, d, func() {
		t.Helper()
		d.requireState("one", policy.Degraded, "its numbers are not saved")
	})
	d.file("two", "uplink = \"enp7s0\"\n")
	d.readConfig()
	for range 3 { // also later ones do not take it for saved
		if again := d.pass(); again == 0 || again > 30*time.Second {
			t.Errorf("the next look is after %v", again)
		}
		d.requireState("one", policy.Degraded, "its numbers are not saved")
		d.requireState("two", policy.Error, "it is not built")
		if m.count("two") != 0 || m.sysctls["net/ipv4/conf/enp7s0/forwarding"] != "0" {
			t.Fatalf("it can't be undone:\n%s", d.trace())
		}
	}
	d.mend("run")
	d.settle()
	d.requireState("one", policy.Up, "")
	d.requireState("two", policy.Up, "")
	if _, saved := d.store().Memory().Lanes["two"]; !saved {
		t.Error("its numbers are still not saved")
	}
	// To take a lane down needs no disk, either.
	d.spoil("run")
	d.file("one", "")
	d.readConfig()
	d.pass()
	d.pass()
	if m.count("one") != 0 {
		t.Errorf("left:\n%s", d.trace())
	}
	d.mend("run")
}

// Where only numbers can't be saved, all can be undone, and new lanes are built.
func TestNumbersUnsaved(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "one")
	d.settle()
	d.spoil("lib")
	d.file("two", "uplink = \"enp7s0\"\n")
	d.readConfig()
	for range 3 {
		d.pass()
		d.requireState("two", policy.Degraded, "its numbers are not saved")
		if m.count("two") == 0 || m.sysctls["net/ipv4/conf/enp7s0/forwarding"] != "1" || strings.Contains(d.statuses["two"].Reason, "\n") {
			t.Fatalf("%q:\n%s", d.statuses["two"].Reason, d.trace())
		}
	}
	d.mend("lib")
	d.settle()
	d.requireState("two", policy.Up, "")
	if _, saved := d.store().Memory().Lanes["two"]; !saved {
		t.Error("its numbers are still not saved")
	}
}

// TestCrashAnywhere ends the daemon before every single operation of building
// and of removing. The next one ends where the first would have.
func TestCrashAnywhere(t *testing.T) {
	for backend, text := range backends {
		t.Run(backend, func(t *testing.T) {
			const lane = "uplink = \"wlp6s0\"\nmark = 5\n"
			crashes := 0
			for n := 0; ; n++ {
				m := newMachine()
				m.drops[policy.IPTables] = true
				d := newDaemon(t, m)
				d.write("uplane.toml", text)
				d.readConfig()
				before := d.trace()
				left := n
				m.fail = func(policy.Op) error {
					if left--; left < 0 {
						panic(errCrash)
					}
					return nil
				}
				crashed := d.dies(func() { d.file("one", lane); d.readConfig(); d.settle() })
				if !crashed {
					crashed = d.dies(func() { d.removeByFile("one") })
				}
				m.fail = nil
				if !crashed {
					break // it outlived all there is to do
				}
				crashes++
				d.restart()
				d.settle()
				d.settle() // what drains is looked at in a second pass
				if _, known := d.survey().Known["one"]; !known && d.trace() != before {
					t.Fatalf("a crash before operation %d leaves\n%s\nnot\n%s", n, d.trace(), before)
				}
				d.file("one", lane) // it may be gone
				d.readConfig()
				d.settle()
				d.requireState("one", policy.Up, "")
				d.removeByFile("one")
				if after := d.trace(); after != before {
					t.Fatalf("a crash before operation %d leaves\n%s\nnot\n%s", n, after, before)
				}
			}
			t.Logf("%d crashes", crashes)
			if crashes < 25 {
				t.Errorf("only %d crashes", crashes)
			}
		})
	}
}

// removeByFile does what Remove does on the loop's goroutine.
func (d *daemon) removeByFile(lane string) {
	d.t.Helper()
	d.file(lane, "")
	d.forget(lane)
	d.readConfig()
	d.settle()
}

// dies tells whether the daemon was killed in f.
func (d *daemon) dies(f func()) (killed bool) {
	defer func() {
		if r := recover(); r != nil {
			if r != errCrash {
				panic(r)
			}
			killed = true
		}
	}()
	f()
	return false
}

// Every operation fails once, at its place in the plan; the passes still come to their end.
func TestFailureAnywhere(t *testing.T) {
	for n := range 60 {
		m := newMachine()
		d := newDaemon(t, m)
		d.write("uplane.toml", backends[[]string{"nftables", "iptables"}[n%2]])
		d.readConfig()
		before := d.trace()
		left := n / 2
		m.fail = func(policy.Op) error {
			if left--; left == -1 {
				return errors.New("not this time")
			}
			return nil
		}
		d.file("one", "uplink = \"wlp6s0\"\nmark = 5\n")
		d.readConfig()
		d.settle()
		d.requireState("one", policy.Up, "")
		d.removeByFile("one")
		if after := d.trace(); after != before {
			t.Fatalf("a failure of operation %d leaves\n%s\nnot\n%s", n/2, after, before)
		}
	}
}

// laneDefault is the default route of the lane whose table is the first.
func laneDefault(t *testing.T, m *machine) (first policy.Route) {
	t.Helper()
	for o := range m.have {
		if r, ok := o.(policy.Route); ok && r.Netns == "" && r.Dst.Bits() == 0 && r.Type == policy.Unicast {
			if first.Table == 0 || cmp.Compare(r.Table, first.Table) < 0 {
				first = r
			}
		}
	}
	if first.Table == 0 {
		t.Fatal("the lane has no default")
	}
	return first
}
