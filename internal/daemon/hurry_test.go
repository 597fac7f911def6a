package daemon

import (
	"errors"
	"net/netip"
	"testing"

	"uplane/policy"
)

// A new gateway is in the lane's table though the look that follows fails; and
// when nothing fails, that look finds no more to do.
func TestHurry(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "one")
	d.settle()
	old := laneDefault(t, m)
	via := netip.MustParseAddr("192.168.50.2")
	m.routes[0].Via = via
	m.fresh = map[string]bool{old.Dev: true}
	m.observe = errors.New("interrupted")
	d.pass()
	if got := laneDefault(t, m); got.Via != via {
		t.Fatalf("the default is %v", got)
	}
	m.observe = nil
	applied := m.applied
	d.settle()
	if got := laneDefault(t, m); got.Via != via || m.applied != applied {
		t.Errorf("then %d more writes, and the default is %v", m.applied-applied, got)
	}

	// What it cannot do is left to the look.
	m.routes[0].Via = old.Via
	refused := 0
	m.fail = func(op policy.Op) error {
		if refused++; refused == 1 {
			return errors.New("no such next hop")
		}
		return nil
	}
	d.settle()
	if got := laneDefault(t, m); got.Via != old.Via {
		t.Errorf("after a refusal the default is %v", got)
	}

	// Another uplink's is none of the lane's business.
	m.fail, m.fresh = nil, map[string]bool{"enp7s0": true}
	m.routes[0].Via = via
	applied = m.applied
	d.hurry()
	if m.applied != applied {
		t.Errorf("%d writes for another uplink", m.applied-applied)
	}
}

func laneDefault(t *testing.T, m *machine) policy.Route {
	t.Helper()
	for o := range m.have {
		if r, ok := o.(policy.Route); ok && r.Netns == "" && r.Dst.Bits() == 0 && r.Type == policy.Unicast {
			return r
		}
	}
	t.Fatal("the lane has no default")
	return policy.Route{}
}
