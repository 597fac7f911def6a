package firewall

import (
	"context"
	"sync/atomic"
)

// following spares Observe the question whether something changed, as long as somebody is told of every change. The
// answer would be the greater part of the time in which a lane follows its gateway.
type following struct {
	running atomic.Bool
	moved   atomic.Bool // since have was read
}

// Follow is Watch for this Firewall: while it runs, Observe looks again only after changed was called. It may run beside
// Observe and Apply.
func (f *Firewall) Follow(ctx context.Context, changed func()) error {
	defer f.running.Store(false)
	return Watch(ctx, func() {
		f.moved.Store(true)
		f.running.Store(true)
		changed()
	})
}

// followed returns what was read last, if that still goes, or else what read does.
func (f *Firewall) followed(read func() ([]observed, error)) ([]observed, error) {
	if f.Events() && f.running.Load() && !f.moved.Swap(false) {
		return f.have, nil
	}
	have, err := read()
	if err != nil {
		f.moved.Store(true)
	}
	return have, err
}
