package daemon

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"uplane/policy"
)

// waiting has somebody wait for an interface, and returns whether that has come to an end.
func (d *daemon) waiting(ctx context.Context, iface, uuid string) (ended func() bool) {
	done := make(chan error, 1)
	go func() { done <- d.Settle(ctx, iface, uuid) }()
	(<-d.calls)()
	return func() bool {
		d.t.Helper()
		synctest.Wait()
		select {
		case err := <-done:
			if err != nil {
				d.t.Error(err)
			}
			return true
		default:
			return false
		}
	}
}

func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		d := newDaemon(t, m, "one")
		d.settle()

		// Nothing is to be done.
		ended := d.waiting(t.Context(), "wlp6s0", "uuid")
		if len(d.Trigger) != 1 {
			t.Error("nobody looks")
		}
		if d.pass(); !ended() {
			t.Error("it waits for what is there")
		}

		// Another profile is not there yet: the kernel's default is of the one before.
		ended = d.waiting(t.Context(), "wlp6s0", "other")
		if d.pass(); ended() {
			t.Error("it does not wait for the profile")
		}
		// While somebody waits, the kernel's word on the gateway counts.
		m.routes[0].Via = m.routes[0].Via.Next()
		if d.pass(); laneDefault(t, m).Via != m.routes[0].Via {
			t.Error("NetworkManager's word counts")
		}
		d.nm.Uplinks[1].Routes[0].Via = m.routes[0].Via
		d.nm.Uplinks[1].UUID = "other"
		if d.pass(); !ended() {
			t.Error("it goes on waiting")
		}

		// A lane that could not follow, and a look that failed, are no end.
		m.fail = func(policy.Op) error { return errors.New("no such luck") }
		m.routes[0].Via = m.routes[0].Via.Next()
		d.nm.Uplinks[1].Routes[0].Via = m.routes[0].Via
		ended = d.waiting(t.Context(), "wlp6s0", "")
		if d.pass(); ended() {
			t.Error("it ends with a lane that does not follow")
		}
		m.fail, m.kernel = nil, errors.New("no netlink")
		if d.pass(); ended() {
			t.Error("it ends without a look")
		}
		m.kernel = nil
		if d.pass(); !ended() {
			t.Error("it does not end")
		}

		// Without a default no lane can leave, so there is nothing to wait for.
		m.routes = m.routes[1:]
		d.nm.Uplinks[1].Phase = policy.PhaseDown
		ended = d.waiting(t.Context(), "wlp6s0", "")
		if d.pass(); !ended() {
			t.Error("it waits for an uplink that has gone")
		}

		// Who gives up is forgotten.
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		gaveUp := make(chan error, 1)
		go func() { gaveUp <- d.Settle(ctx, "enp7s0", "nosuch") }()
		(<-d.calls)()
		if d.pass(); !d.awaited("enp7s0") {
			t.Error("nobody waits")
		}
		if err := <-gaveUp; !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if d.pass(); d.awaited("enp7s0") || len(d.waiters) != 0 {
			t.Errorf("%d wait still", len(d.waiters))
		}
	})
}
