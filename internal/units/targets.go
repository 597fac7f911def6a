package units

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/internal/busguard"
)

// Options are what Targets need to know.
type Options struct {
	// Address is the bus; empty: the system bus.
	Address string
	Log     *slog.Logger
}

// Targets starts and stops the lanes' systemd targets as lanes come up and go down. Make it with [New].
type Targets struct {
	Options
	up        atomic.Pointer[[]string] // lanes; nil: not known yet
	updated   chan struct{}
	grace     time.Duration
	downSince map[string]time.Time // since when lanes whose target is started are not up
}

// New returns targets that change when Run is called and Update says which lanes are up.
func New(o Options) *Targets {
	return &Targets{Options: o, updated: make(chan struct{}, 1), downSince: map[string]time.Time{}}
}

// Update sets which lanes are up. It never waits, and keeps the slice.
func (t *Targets) Update(up []string) {
	t.up.Store(&up)
	select {
	case t.updated <- struct{}{}:
	default:
	}
}

const (
	// grace is how long a lane may not be up before its target is stopped: an
	// operation that fails is tried again after 0.1 s, and programs should not be
	// ended over that. A target is started at once.
	grace = time.Second

	callTimeout = 10 * time.Second // for a systemd that hangs
	minPause    = 100 * time.Millisecond
	maxPause    = 30 * time.Second
)

// Run keeps the targets until ctx is done; they stay as they are then.
func (t *Targets) Run(ctx context.Context) error {
	pause := minPause
	for ctx.Err() == nil {
		connected, err := t.follow(ctx)
		if connected {
			pause = minPause
		}
		t.Log.Debug("units", "error", err, "retry", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
	return nil
}

var errGone = errors.New("the bus closed the connection")

// follow serves one connection to the bus.
func (t *Targets) follow(ctx context.Context) (connected bool, err error) {
	conn, err := t.dial(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	t.grace = grace
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	// A systemd that is executed anew leaves the bus and comes back.
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface("org.freedesktop.DBus"),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName))
	if err != nil {
		return false, err
	}
	again := time.NewTimer(0)
	pause := minPause
	for {
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case _, ok := <-signals:
			if !ok {
				return true, errGone
			}
		case <-t.updated:
		case <-again.C:
		}
		again.Stop()
		if t.up.Load() == nil {
			continue
		}
		wait, err := t.reconcile(ctx, newSystemd(conn))
		switch {
		case ctx.Err() != nil:
			return true, ctx.Err()
		case err != nil:
			t.Log.Warn("systemd's targets of lanes", "error", err, "retry", pause)
			again.Reset(pause)
			pause = min(2*pause, maxPause)
			continue
		case wait > 0:
			again.Reset(wait)
		}
		pause = minPause
	}
}

// Once starts the targets of the lanes that are up and stops the others', at once, without Run.
// Without a bus or a systemd it does nothing.
func (t *Targets) Once(ctx context.Context, up []string) error {
	t.Update(up)
	conn, err := t.dial(ctx)
	if err != nil {
		return nil
	}
	defer conn.Close()
	_, err = t.reconcile(ctx, newSystemd(conn))
	return err
}

func (t *Targets) dial(ctx context.Context) (*dbus.Conn, error) {
	return busguard.Connect(ctx, t.Address, nil)
}

// reconcile starts and stops what differs. It returns when to look again, 0: not
// before something happens.
func (t *Targets) reconcile(ctx context.Context, s systemd) (wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	started, err := s.started(ctx)
	if gone(err) {
		return 0, nil // its coming is a signal
	}
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, lane := range *t.up.Load() {
		delete(t.downSince, lane)
		if !started[lane] {
			errs = append(errs, t.set(ctx, s, lane, true))
		}
		delete(started, lane)
	}
	now := time.Now()
	for _, lane := range slices.Sorted(maps.Keys(started)) {
		since, ok := t.downSince[lane]
		if !ok {
			since = now
			t.downSince[lane] = now
		}
		if left := t.grace - now.Sub(since); left > 0 {
			if wait == 0 || left < wait {
				wait = left
			}
			continue
		}
		errs = append(errs, t.set(ctx, s, lane, false))
	}
	maps.DeleteFunc(t.downSince, func(lane string, _ time.Time) bool { return !started[lane] })
	return wait, errors.Join(errs...)
}

func (t *Targets) set(ctx context.Context, s systemd, lane string, up bool) error {
	err := s.set(ctx, lane, up)
	switch {
	case err == nil:
		t.Log.Info("target", "unit", Target(lane), "start", up)
	case named(err, noSuchUnit):
		// The template is not installed (or what was to be stopped is unloaded): no
		// reason to try again before something happens.
		t.Log.Debug("target", "error", err)
		return nil
	}
	return err
}
