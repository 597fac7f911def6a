package kernel

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uplane/policy"
	"uplane/test/lab"
)

// lanesVar is how many lanes the larger host of TestCostOfOneLane has, instead of a few that are made quickly.
const lanesVar = "UPLANE_TEST_LANES"

// TestCostOfOneLane has one lane come and go on a host with few and with many: the look after that asks the
// kernel for as much, whatever the number of lanes.
func TestCostOfOneLane(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks)
	changed := make(chan struct{}, 1)
	k := open(t, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	many := 100
	if n, err := strconv.Atoi(os.Getenv(lanesVar)); err == nil {
		many = n
	}
	want := policy.State{}
	grow := func(lanes int) {
		t.Helper()
		for n := range lanes {
			name := fmt.Sprintf("l%d", n)
			addCostLane(want, name, n)
		}
		for _, op := range policy.Diff(observe(t, k, want), want) {
			if err := k.Apply(op); err != nil {
				t.Fatal(err)
			}
		}
		drain(changed)
		requireEqual(t, observe(t, k, want), want)
	}
	type cost struct{ up, down int64 }
	one := func(lanes int) cost {
		t.Helper()
		with := maps.Clone(want)
		addCostLane(with, "one", 4000)
		var c cost
		for _, step := range []struct {
			to    policy.State
			dumps *int64
		}{{with, &c.up}, {want, &c.down}} {
			var took []time.Duration
			ops := policy.Diff(observe(t, k, want), step.to)
			start := cpuTime()
			for _, op := range ops {
				if err := k.Apply(op); err != nil {
					t.Fatal(err)
				}
			}
			took = append(took, cpuTime()-start)
			drain(changed)
			before := Dumps()
			start = cpuTime()
			have := observe(t, k, step.to)
			took = append(took, cpuTime()-start)
			*step.dumps = Dumps() - before
			requireEqual(t, have, step.to)
			drain(changed)
			observe(t, k, step.to)
			observeAll(k, nil)
			again := time.Hour
			for range 5 {
				start = cpuTime()
				observe(t, k, step.to)
				again = min(again, cpuTime()-start)
			}
			took = append(took, again)
			t.Logf("among %d lanes: %d operations in %v, %d lists, look %v, look again %v", lanes, len(ops), took[0], *step.dumps, took[1], took[2])
		}
		return c
	}
	least := func(lanes int) cost {
		t.Helper()
		grow(lanes)
		out := one(lanes)
		for range 3 { // something else may happen meanwhile
			c := one(lanes)
			out.up, out.down = min(out.up, c.up), min(out.down, c.down)
		}
		return out
	}
	few := least(10)
	const others = 5
	if got := least(many); got.up > few.up+others || got.down > few.down+others {
		t.Errorf("among %d lanes a look takes %+v lists, among 10 %+v", many, got, few)
	}
}

// cpuTime is the processor time that this process has had, which other processes do not lengthen.
func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// addCostLane adds a lane with a subnet of both families.
func addCostLane(state policy.State, name string, n int) {
	lane := policy.State{}
	addTestLane(lane, name, "b"+name, "v"+name, 2, uint32(1000+n))
	sub := fmt.Sprintf("10.%d.%d.", 1+n/200, n%200)
	for _, o := range slices.Collect(maps.Keys(lane)) {
		state.Add(lane[o], renumber(o, "10.0.2.", sub, "fd00:1:2:2::", fmt.Sprintf("fd00:1:3:%x::", n)))
	}
}

// renumber moves an object from one pair of subnets into another.
func renumber(o policy.Object, from4, to4, from6, to6 string) policy.Object {
	addr := func(a netip.Addr) netip.Addr {
		for from, to := range map[string]string{from4: to4, from6: to6} {
			if rest, ok := strings.CutPrefix(a.String(), from); a.IsValid() && ok {
				return netip.MustParseAddr(to + rest)
			}
		}
		return a
	}
	prefix := func(p netip.Prefix) netip.Prefix {
		if !p.IsValid() {
			return p
		}
		return netip.PrefixFrom(addr(p.Addr()), p.Bits())
	}
	switch o := o.(type) {
	case policy.Addr:
		o.Prefix = prefix(o.Prefix)
		return o
	case policy.Route:
		o.Dst, o.Via = prefix(o.Dst), addr(o.Via)
		return o
	case policy.Rule:
		o.From, o.To = prefix(o.From), prefix(o.To)
		return o
	}
	return o
}
