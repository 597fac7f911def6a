package daemon

import (
	"errors"
	"net/netip"
	"testing"

	"uplane/policy"
)

// A new gateway is in the lane's table though the look that follows fails; and
// when nothing fails, that look finds no more to do.
func TestFollowGateway(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "one")
	d.settle()
	old := laneDefault(t, m)
	via := netip.MustParseAddr("192.168.50.2")
	m.routes[0].Via = via
	m.fresh = map[string]bool{old.Dev: true}
	m.kernel = errors.New("interrupted")
	d.pass()
	if got := laneDefault(t, m); got.Via != via {
		t.Fatalf("the default is %v", got)
	}
	m.kernel = nil
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
	d.followGateway()
	if m.applied != applied {
		t.Errorf("%d writes for another uplink", m.applied-applied)
	}
}
