package nm

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"uplane/policy"
)

// Options are what a [Watcher] needs to know.
type Options struct {
	// Address is the bus to connect to, as in DBUS_SYSTEM_BUS_ADDRESS. Empty: that
	// variable, or else the system bus at its usual place.
	Address string
	// Log gets one line when NetworkManager or the bus comes or goes. Nil: none.
	Log *slog.Logger
	// Changed, if not nil, is called after the snapshot has changed, by the
	// goroutine of [Watcher.Run]. It must not block: no signal is read meanwhile.
	Changed func()
}

// Snapshot is what NetworkManager has to offer. It is a value that nobody
// changes: its slices are shared and for reading only.
type Snapshot struct {
	// Known tells that this process has seen NetworkManager at least once.
	Known bool
	// Running tells that NetworkManager is on the bus and its state is known.
	// While it is not, Uplinks are the last ones: a NetworkManager that restarts
	// leaves the kernel's addresses and routes in place.
	Running bool
	// Uplinks has one entry for every device that NetworkManager manages and that
	// can carry traffic, also if it has no connection now. It is sorted by interface.
	Uplinks []policy.Uplink
	// Profiles ask for lanes. They are sorted by name, and as lasting as Uplinks.
	Profiles []policy.Profile
}

// Watcher follows NetworkManager. Make it with [NewWatcher].
type Watcher struct {
	options  Options
	snapshot atomic.Pointer[Snapshot]
}

// NewWatcher returns a watcher that knows nothing until [Watcher.Run] runs.
func NewWatcher(options Options) *Watcher {
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	w := &Watcher{options: options}
	w.snapshot.Store(&Snapshot{})
	return w
}

// Snapshot returns the latest snapshot. It costs next to nothing and may be
// called by any goroutine.
func (w *Watcher) Snapshot() Snapshot { return *w.snapshot.Load() }

// Pauses between two attempts to reach the bus, or to fetch from a
// NetworkManager that answers with an error; each is twice the one before.
const (
	minPause = 100 * time.Millisecond
	maxPause = 5 * time.Second
)

// Run follows NetworkManager until ctx ends and returns ctx's error. A bus or a
// NetworkManager that goes or is not there yet is no error: Run waits for it.
// It must not run twice at a time.
func (w *Watcher) Run(ctx context.Context) error {
	pause := minPause
	for {
		connected, err := w.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if connected {
			pause = minPause
		}
		if pause == minPause { // once per outage
			w.options.Log.Warn("no system bus; keeping the last known uplinks", "error", err)
		}
		w.lost()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// lost takes down that NetworkManager can't be seen; what it said last stays.
func (w *Watcher) lost() {
	next := w.Snapshot()
	next.Running = false
	w.publish(next)
}

// publish makes next the snapshot, and tells so, if it differs from the last.
func (w *Watcher) publish(next Snapshot) {
	last := w.snapshot.Load()
	if next.Known == last.Known && next.Running == last.Running && equal(next.Uplinks, last.Uplinks) &&
		equalProfiles(next.Profiles, last.Profiles) {
		return
	}
	w.snapshot.Store(&next)
	if w.options.Changed != nil {
		w.options.Changed()
	}
}
