package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"uplane/internal/api"
	"uplane/internal/daemon"
	"uplane/internal/engine"
	"uplane/internal/state"
	"uplane/internal/units"
	"uplane/nm"
	"uplane/policy"
)

// applyLimit is how long uplane apply may take. A thousand lanes take some seconds.
const applyLimit = 30 * time.Second

func applyCommand() *cobra.Command {
	var paths engine.Paths
	var verbose bool
	c := &cobra.Command{
		Use:   "apply",
		Short: "Make all lanes true once, without the daemon",
		Long: `Make all lanes as they shall be at this moment, and end. It is for machines
that run no daemon: NetworkManager's dispatcher does it with every event there.
What changes in between is not noticed, but lanes stay closed without an uplink.

The exit code is 1 when a lane is in error.`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("apply: it is for all lanes: uplane %s", c.Use)}
			}
			return nil
		},
	}
	paths.Flags(c.Flags())
	c.Flags().BoolVar(&verbose, "verbose", false, "log every operation")
	c.RunE = func(c *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(c.Context(), applyLimit)
		defer cancel()
		level := slog.LevelWarn
		if verbose {
			level = slog.LevelInfo
		}
		lanes, err := apply(ctx, paths, level)
		for _, l := range lanes {
			fmt.Println(sentence(toLane(l)))
		}
		if err != nil {
			return fmt.Errorf("apply: %w", err)
		}
		return inError(lanes)
	}
	return c
}

// errFollowed says that there is a daemon, beside which nobody else writes.
var errFollowed = errors.New("the daemon is running and keeps all lanes true")

// apply makes all lanes true once and returns how they are.
func apply(ctx context.Context, paths engine.Paths, level slog.Level) ([]daemon.Status, error) {
	return alone(ctx, paths, level, func(eng *engine.Engine, _ *nm.Snapshot) ([]daemon.Status, error) { return eng.Once(ctx) })
}

// alone does something to all lanes, where no daemon does, and returns how they are then. What NetworkManager said
// may be changed first.
func alone(ctx context.Context, paths engine.Paths, level slog.Level,
	do func(*engine.Engine, *nm.Snapshot) ([]daemon.Status, error)) ([]daemon.Status, error) {
	if os.Geteuid() != 0 {
		return nil, api.ErrDenied
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if followed(ctx) {
		return nil, errFollowed
	}
	var seen nm.Snapshot
	eng, err := engine.Open(ctx, engine.Options{
		Paths: paths, Log: log, Holder: state.OneShot, Uplinks: func() nm.Snapshot { return seen },
	})
	if errors.Is(err, state.ErrDaemon) {
		return nil, errFollowed
	}
	if err != nil {
		return nil, err
	}
	defer eng.Close()
	// Asked only now: who had the lock before has taken its time.
	// Half of what NetworkManager knows may be a lane too few, or a network too many.
	if seen, err = nm.Once(ctx, ""); err != nil {
		return nil, fmt.Errorf("%w; all lanes stay as they are", err)
	}
	lanes, err := do(eng, &seen)
	if err != nil {
		return lanes, err
	}
	if err := units.New(units.Options{Log: log}).Once(ctx, daemon.Up(lanes)); err != nil {
		log.Warn("systemd's targets of lanes", "error", err)
	}
	return lanes, nil
}

// followed tells whether a daemon is on the bus. The lock tells of one that is not.
func followed(ctx context.Context) bool {
	client, err := api.Dial(ctx)
	if err != nil {
		return false
	}
	defer client.Close()
	running, _ := client.Running(ctx)
	return running
}

func inError(lanes []daemon.Status) error {
	failed := 0
	for _, l := range lanes {
		if l.State == policy.Error {
			failed++
		}
	}
	if failed == 0 {
		return nil
	}
	return fmt.Errorf("apply: %d of %d lanes in error", failed, len(lanes))
}

// toLane is what sentence needs of a lane.
func toLane(s daemon.Status) api.Lane {
	l := api.Lane{Name: s.Lane.Name, State: string(s.State), Reason: s.Reason}
	if s.Uplink != nil {
		l.Uplink.Interface = s.Uplink.Interface
	}
	return l
}
