package daemon

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"uplane/policy"
)

// slow is a firewall whose calls wait.
type slow struct {
	filter
	wait chan struct{} // nil: not at all
}

func (s *slow) Observe() (policy.State, error) {
	if s.wait != nil {
		<-s.wait
	}
	return s.filter.Observe()
}

// A firewall command that hangs holds up the loop once, and nothing else of the lanes (C21).
func TestFirewallHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		d := newDaemon(t, m, "one")
		inner := &slow{filter: filter{m, "nftables"}}
		p := &patient{inner, make(chan struct{}, 1), d.Poke}
		d.firewall = p
		d.settle()
		hangs := make(chan struct{})
		inner.wait = hangs
		start := time.Now()
		m.follows(t, d, func() {
			t.Helper()
			d.requireState("one", policy.Degraded, "firewall")
		})
		if took := time.Since(start); took != patience {
			t.Errorf("the loop was held up for %v", took)
		}
		if _, err := p.Missing(nil); !errors.Is(err, errBusy) {
			t.Errorf("two calls at once: %v", err)
		}
		created := []string{"filter"}
		if left, err := p.Sweep(created); err == nil || len(left) != 1 {
			t.Errorf("forgotten: %v, %v", left, err)
		}
		if len(d.Trigger) != 0 {
			t.Error("a look is due already")
		}
		close(hangs)
		synctest.Wait()
		if len(d.Trigger) != 1 {
			t.Error("nobody looks when it has ended")
		}
		d.settle()
		d.requireState("one", policy.Up, "")
	})
}

func TestFirewallPanics(t *testing.T) {
	p := &patient{nil, make(chan struct{}, 1), nil}
	if _, err := await(p, func() (int, error) { panic("oh") }); err == nil {
		t.Error("no error")
	}
	if n, err := await(p, func() (int, error) { return 7, nil }); n != 7 || err != nil {
		t.Errorf("then %v, %v", n, err)
	}
}
