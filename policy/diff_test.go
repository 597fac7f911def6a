package policy

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Lanes are led through one world after the other; whatever comes, the plan is
// accepted line by line, keeps a way out while there was one and will be one, and
// ends in what is wanted. (That nothing leaks meanwhile is in leak_test.go.)
func TestWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { newWalker(t).walk() })
}

// walk leads lanes through a few worlds, and down.
func (w *walker) walk() {
	if chance(w.T, "with iptables", 30) {
		w.firewall = IPTablesChains
	}
	for range rapid.IntRange(1, 6).Draw(w.T, "steps") {
		before := w.memory.allocations()
		w.next()
		d := w.plan()
		if ops := Diff(d.Want.All(), d.Want.All()); ops != nil {
			w.Fatalf("from a state to itself: %s", shell(ops))
		}
		steady := w.steady(before, d)
		w.converge(d, func() error {
			for _, table := range steady {
				if out := w.m.defaults(table); len(out) != 1 {
					w.Fatalf("table %d has ways out %v", table, out)
				}
			}
			return w.judged(d)
		})
		w.spared(d)
		w.past = []Decision{d}
	}
	// And down: nothing is left but switches as they were, and what is still under way.
	w.lanes, w.problems = []Lane{}, nil
	w.host.Tracked = map[netip.Prefix]bool{}
	for range 2 {
		d := w.plan()
		for p := range d.Memory.Draining {
			w.host.Tracked[p] = false
		}
		w.carry(d.Ops, func() error { return w.judged(d) })
		w.past = []Decision{d}
	}
	d := w.plan()
	w.carry(d.Ops, func() error { return w.judged(d) })
	for o := range d.Want.All() {
		if s, ok := o.(Sysctl); !ok || s.Value != d.Memory.Sysctls[s.Key] {
			w.Fatalf("left behind: %v", o)
		}
	}
	if left := w.m.state(); len(left) > 0 {
		w.Fatalf("left behind: %v", left)
	}
}

// steady returns the tables of lanes that had one way out and will have one.
func (w *walker) steady(before map[string]Allocation, d Decision) []uint32 {
	var out []uint32
	after := newModel(w.host)
	for o := range d.Want.All() {
		after.objects[o.key()] = o
	}
	for name, a := range w.memory.allocations() {
		if a.Table == before[name].Table && len(w.m.defaults(a.Table)) == 1 && len(after.defaults(a.Table)) == 1 {
			out = append(out, a.Table)
		}
	}
	return out
}

// judged is what the judge says of this moment.
func (w *walker) judged(d Decision) error {
	if w.judge == nil {
		return nil
	}
	return w.judge(w.moment(d))
}

// spared checks that nothing is done to a bridge that others use, too.
func (w *walker) spared(d Decision) {
	for o := range d.Want.All() {
		switch o := o.(type) {
		case Sysctl:
			arp := strings.Contains(o.Key, "/arp_") // that is for an uplink's sake
			if w.host.Links[o.Link()].Bridge && w.m.shared[o.Link()] && !arp && o.Value != d.Memory.Sysctls[o.Key] {
				w.Fatalf("%v of a bridge that others use, too", o)
			}
		case Element:
			if w.host.Links[o.In].Bridge && w.m.shared[o.In] && o.Set != Closed {
				w.Fatalf("%v is about %s, which others use, too", o, o.In)
			}
		case ChainRule:
			for _, name := range []string{o.In, o.Out} {
				if w.host.Links[name].Bridge && w.m.shared[name] && o.Target != TargetDrop {
					w.Fatalf("%v is about %s, which others use, too", o, name)
				}
			}
		}
	}
}

// Whatever others did to what is ours is healed, and from wherever a plan fails
// the next one goes on.
func TestDriftAndFailure(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { newWalker(t).stumble() })
}

// stumble is walk with others who meddle, and operations that fail.
func (w *walker) stumble() {
	if chance(w.T, "with iptables", 30) {
		w.firewall = IPTablesChains
	}
	for range rapid.IntRange(1, 4).Draw(w.T, "steps") {
		w.next()
		d := w.plan()
		if len(d.Ops) > 0 && chance(w.T, "fails", 70) {
			// What comes behind an operation that fails is left for the next time.
			n := rapid.IntRange(0, len(d.Ops)-1).Draw(w.T, "at")
			w.carry(d.Ops[:n], func() error { return w.judged(d) })
			w.m.half(d.Ops[n])
			if err := w.judged(d); err != nil {
				w.Fatalf("half of %s: %v", d.Ops[n], err)
			}
			w.past = append(w.past, d)
			d = w.plan()
		}
		w.converge(d, func() error { return w.judged(d) })
		w.past = []Decision{d}
		if w.tampered = pick(w.T, "tampering", Untampered, TamperedFirewall, TamperedRouting, TamperedLinks, TamperedAll); w.tampered == Untampered {
			continue
		}
		w.problems = nil
		drifts := rapid.IntRange(1, 4).Draw(w.T, "drifts")
		if w.tampered == TamperedFirewall {
			drifts = 1 // who takes out one rule after the other opens any firewall
		}
		for range drifts {
			w.drift(w.tampered)
			if err := w.judged(d); err != nil {
				w.Fatalf("tampered: %v", err)
			}
		}
		d = w.plan()
		w.converge(d, func() error { return w.judged(d) })
		w.past, w.tampered = []Decision{d}, Untampered
	}
}
