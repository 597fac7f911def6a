package daemon

import (
	"context"
	"slices"

	"uplane/policy"
)

// waiter is one who waits until the lanes have followed an uplink.
type waiter struct {
	ctx         context.Context
	iface, uuid string
	done        chan struct{}
}

// Settle looks again at everything, and returns when the lanes have followed
// what happened to an interface: they were built with it as an uplink, or the
// kernel has no default route by it, so that none could. With a uuid the
// interface has to be on that profile. Meanwhile the kernel's word on its
// addresses and default counts, whatever NetworkManager has said yet.
func (l *Loop) Settle(ctx context.Context, iface, uuid string) error {
	w := &waiter{ctx, iface, uuid, make(chan struct{})}
	if err := l.do(ctx, func() {
		l.waiters = append(l.waiters, w)
		// Who asks knows of a change whose events may still be in a queue.
		l.Kernel.Invalidate()
		l.Poke()
	}); err != nil {
		return err
	}
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// awaited tells whether somebody waits for an interface.
func (l *Loop) awaited(iface string) bool {
	return slices.ContainsFunc(l.waiters, func(w *waiter) bool { return w.iface == iface && w.ctx.Err() == nil })
}

// wake lets go of those who waited for what this pass has done. What it was to do and did not is in failed.
func (l *Loop) wake(d *policy.Decision, failed map[string]string) {
	l.waiters = slices.DeleteFunc(l.waiters, func(w *waiter) bool {
		if w.ctx.Err() != nil {
			return true
		}
		if !w.settled(d, failed) {
			return false
		}
		close(w.done)
		return true
	})
}

func (w *waiter) settled(d *policy.Decision, failed map[string]string) bool {
	if failed[""] != "" {
		return false
	}
	for _, st := range d.Lanes {
		if st.Uplink != nil && st.Uplink.Interface == w.iface && failed[st.Lane.Name] != "" {
			return false
		}
	}
	for _, u := range d.Uplinks {
		if u.Interface == w.iface && u.Phase != policy.PhaseDown && (w.uuid == "" || u.UUID == w.uuid) {
			return true
		}
	}
	return !d.Leaves(w.iface)
}
