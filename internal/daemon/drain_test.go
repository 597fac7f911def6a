package daemon

import (
	"testing"
	"testing/synctest"
	"time"

	"uplane/policy"
)

// After a lane has gone its floor stays while connections of it live, also for the next daemon. Then everything goes.
func TestDrain(t *testing.T) {
	for backend, text := range backends {
		t.Run(backend, func(t *testing.T) {
			m := newMachine()
			d := newDaemon(t, m)
			d.write("uplane.toml", text)
			d.readConfig()
			before := d.trace()
			d.file("one", "uplink = \"wlp6s0\"\n")
			d.readConfig()
			d.settle()
			subnet := d.statuses["one"].Alloc.Subnet
			m.tracked[subnet] = true
			d.down("one")
			drains := func() {
				t.Helper()
				d.pass()
				if again := d.pass(); again == 0 || again > time.Second {
					t.Errorf("the next look is after %v", again)
				}
				floor := policy.Route{Table: policy.LanesTable, Dst: subnet, Metric: policy.FloorMetric, Type: policy.Blackhole}
				if !m.have.Has(floor) || m.count("type veth") != 0 || m.count("ip netns add") != 0 {
					t.Errorf("while it drains:\n%s", d.trace())
				}
			}
			drains()
			d.requireState("one", policy.Down, "")
			d.restart()
			drains()
			d.file("one", "")
			d.forget("one")
			d.readConfig()
			drains()
			clear(m.tracked)
			d.settle()
			if after := d.trace(); after != before {
				t.Errorf("left:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// A one-shot run that takes lanes down waits for what drains, and for no longer than anybody would.
func TestDrainOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		d := newDaemon(t, m, "one")
		before := d.trace()
		if _, err := d.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		subnet := d.statuses["one"].Alloc.Subnet
		m.tracked[subnet] = true
		start := time.Now()
		time.AfterFunc(time.Second, func() { clear(m.tracked) })
		if _, err := d.OnceDown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < time.Second || took > 2*time.Second {
			t.Errorf("took %v", took)
		}
		d.file("one", "")
		if _, err := d.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := d.trace(); after != before {
			t.Errorf("left:\n%s\nbefore:\n%s", after, before)
		}

		d.file("one", "uplink = \"wlp6s0\"\n")
		d.restart()
		d.want("one", policy.WantUp)
		if _, err := d.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.tracked[d.statuses["one"].Alloc.Subnet] = true // for ever
		start = time.Now()
		if _, err := d.OnceDown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < drainPatience || took > drainPatience+time.Second {
			t.Errorf("took %v", took)
		}
	})
}
