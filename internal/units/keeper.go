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

// Options are what a Keeper needs to know.
type Options struct {
	// Address is the bus; empty: the system bus.
	Address string
	Log     *slog.Logger
}

// Keeper keeps the lanes' targets as the lanes are. Make it with [New].
type Keeper struct {
	Options
	up      atomic.Pointer[[]string] // lanes; nil: not known yet
	updated chan struct{}
	grace   time.Duration
	downs   map[string]time.Time // since when lanes whose target is started are not up
}

// New returns a keeper that does nothing until it runs and is told of lanes.
func New(o Options) *Keeper {
	return &Keeper{Options: o, updated: make(chan struct{}, 1), downs: map[string]time.Time{}}
}

// Update tells the keeper which lanes are up. It never waits; the keeper keeps the slice.
func (k *Keeper) Update(up []string) {
	k.up.Store(&up)
	select {
	case k.updated <- struct{}{}:
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
func (k *Keeper) Run(ctx context.Context) error {
	pause := minPause
	for ctx.Err() == nil {
		connected, err := k.follow(ctx)
		if connected {
			pause = minPause
		}
		k.Log.Debug("units", "error", err, "retry", pause)
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
func (k *Keeper) follow(ctx context.Context) (connected bool, err error) {
	conn, err := k.dial(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	k.grace = grace
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
		case <-k.updated:
		case <-again.C:
		}
		again.Stop()
		if k.up.Load() == nil {
			continue
		}
		wait, err := k.compare(ctx, newSystemd(conn))
		switch {
		case ctx.Err() != nil:
			return true, ctx.Err()
		case err != nil:
			k.Log.Warn("systemd's targets of lanes", "error", err, "retry", pause)
			again.Reset(pause)
			pause = min(2*pause, maxPause)
			continue
		case wait > 0:
			again.Reset(wait)
		}
		pause = minPause
	}
}

// Once starts the targets of the lanes that are up and stops the others', at once, for a keeper that does not run.
// Without a bus or a systemd it does nothing.
func (k *Keeper) Once(ctx context.Context, up []string) error {
	k.Update(up)
	conn, err := k.dial(ctx)
	if err != nil {
		return nil
	}
	defer conn.Close()
	_, err = k.compare(ctx, newSystemd(conn))
	return err
}

func (k *Keeper) dial(ctx context.Context) (*dbus.Conn, error) {
	return busguard.Connect(ctx, k.Address, nil)
}

// compare starts and stops what differs. It returns when to look again, 0: not
// before something happens.
func (k *Keeper) compare(ctx context.Context, s systemd) (wait time.Duration, err error) {
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
	for _, lane := range *k.up.Load() {
		delete(k.downs, lane)
		if !started[lane] {
			errs = append(errs, k.set(ctx, s, lane, true))
		}
		delete(started, lane)
	}
	now := time.Now()
	for _, lane := range slices.Sorted(maps.Keys(started)) {
		since, ok := k.downs[lane]
		if !ok {
			since = now
			k.downs[lane] = now
		}
		if left := k.grace - now.Sub(since); left > 0 {
			if wait == 0 || left < wait {
				wait = left
			}
			continue
		}
		errs = append(errs, k.set(ctx, s, lane, false))
	}
	maps.DeleteFunc(k.downs, func(lane string, _ time.Time) bool { return !started[lane] })
	return wait, errors.Join(errs...)
}

func (k *Keeper) set(ctx context.Context, s systemd, lane string, up bool) error {
	err := s.set(ctx, lane, up)
	switch {
	case err == nil:
		k.Log.Info("target", "unit", Target(lane), "start", up)
	case named(err, noSuchUnit):
		// The template is not installed (or what was to be stopped is unloaded): no
		// reason to try again before something happens.
		k.Log.Debug("target", "error", err)
		return nil
	}
	return err
}
