package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"uplane/internal/api"
	"uplane/internal/oneshot"
	"uplane/policy"
)

// applyLimit is how long uplane apply may take. A thousand lanes take some seconds.
const applyLimit = 30 * time.Second

func applyCommand() *cobra.Command {
	var paths oneshot.Paths
	var verbose bool
	c := &cobra.Command{
		Use:   "apply",
		Short: "Bring all lanes into the right state once, without the daemon",
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
			level = slog.LevelDebug
		}
		lanes, err := oneshot.Apply(ctx, paths, level, true)
		for _, l := range lanes {
			fmt.Println(summary(l))
		}
		if err != nil {
			return fmt.Errorf("apply: %w", err)
		}
		return inError(lanes)
	}
	return c
}

// inError returns an error if a lane is in error.
func inError(lanes []api.Lane) error {
	failed := 0
	for _, l := range lanes {
		if l.State == string(policy.Error) {
			failed++
		}
	}
	if failed == 0 {
		return nil
	}
	return fmt.Errorf("apply: %d of %d lanes in error", failed, len(lanes))
}
