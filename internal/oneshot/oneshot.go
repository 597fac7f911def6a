// Package oneshot does once, in the calling process, what the daemon does all the time. It is for commands that also
// work where no daemon runs; all other commands ask the daemon on the bus.
package oneshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	flag "github.com/spf13/pflag"

	"uplane/internal/api"
	"uplane/internal/daemon"
	"uplane/internal/kernel"
	"uplane/internal/state"
	"uplane/internal/units"
	"uplane/nm"
	"uplane/policy"
)

// Paths are the folders with the configuration and the state.
type Paths = daemon.Paths

// DefaultPaths returns the paths that the daemon has without options.
func DefaultPaths() (p Paths) {
	p.Flags(flag.NewFlagSet("", flag.ContinueOnError))
	return p
}

// ErrDaemon means that a daemon is running. Only one process at a time may write lanes.
var ErrDaemon = errors.New("the daemon is running and keeps all lanes true")

// DaemonRuns reports whether a daemon is on the bus.
func DaemonRuns(ctx context.Context) bool {
	client, err := api.Dial(ctx)
	if err != nil {
		return false
	}
	defer client.Close()
	running, _ := client.Running(ctx)
	return running
}

// Apply brings all lanes into the state that they should have now, and returns them. With drain set it waits a
// while for the connections of lanes that have gone.
func Apply(ctx context.Context, paths Paths, level slog.Level, drain bool) ([]api.Lane, error) {
	return run(ctx, paths, level, func(e *daemon.Daemon, _ *nm.Snapshot) ([]daemon.Status, error) {
		lanes, err := e.Once(ctx)
		if drain {
			e.Drain(ctx)
		}
		return lanes, err
	})
}

// DownAll takes all lanes down. The caller has taken down their NetworkManager profiles.
func DownAll(ctx context.Context, paths Paths, level slog.Level) error {
	_, err := run(ctx, paths, level, func(e *daemon.Daemon, seen *nm.Snapshot) ([]daemon.Status, error) {
		// NetworkManager may still be deactivating them.
		seen.Profiles, seen.Known = nil, true
		return e.OnceDown(ctx)
	})
	return err
}

// run opens the engine and calls do, which may change the snapshot of NetworkManager that the engine works with.
func run(ctx context.Context, paths Paths, level slog.Level,
	do func(*daemon.Daemon, *nm.Snapshot) ([]daemon.Status, error)) ([]api.Lane, error) {
	if os.Geteuid() != 0 {
		return nil, api.ErrDenied
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	// The lock would not show a daemon that has another runtime folder, and the bus not one that has lost the bus.
	if DaemonRuns(ctx) {
		return nil, ErrDaemon
	}
	var seen nm.Snapshot
	e, err := daemon.Open(ctx, daemon.Options{
		Paths: paths, Log: log, Holder: state.OneShot, NM: func() nm.Snapshot { return seen },
	})
	if errors.Is(err, state.ErrDaemon) {
		return nil, ErrDaemon
	}
	if err != nil {
		return nil, err
	}
	defer e.Close()
	// Read only after the lock was taken: waiting for it may have taken seconds. An incomplete snapshot is not used, as
	// it may lack a lane's profile or the limits of a network.
	if seen, err = nm.Once(ctx, ""); err != nil {
		return nil, fmt.Errorf("%w; all lanes stay as they are", err)
	}
	lanes, err := do(e, &seen)
	if err != nil {
		return toLanes(lanes), err
	}
	if err := units.New(units.Options{Log: log}).Once(ctx, daemon.Up(lanes)); err != nil {
		log.Warn("systemd's targets of lanes", "error", err)
	}
	return toLanes(lanes), nil
}

// toLanes returns name, state, reason and uplink of lanes.
func toLanes(statuses []daemon.Status) []api.Lane {
	out := make([]api.Lane, len(statuses))
	for i, s := range statuses {
		out[i] = api.Lane{Name: s.Lane.Name, State: string(s.State), Reason: s.Reason}
		if s.Uplink != nil {
			out[i].Uplink.Interface = s.Uplink.Interface
		}
	}
	return out
}

// Host reads the host's links, addresses and routes, which new lanes must keep clear of.
func Host() (*policy.Host, error) {
	k, err := kernel.Open(slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	_, host, err := k.Observe(nil)
	return host, err
}
