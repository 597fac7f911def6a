package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"uplane/internal/api"
	"uplane/internal/oneshot"
	"uplane/nm"
)

func downCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "down LANE",
		Short: "Take a lane down, until up or the next boot",
		Long: `Take a lane down, until up or the next boot. Nothing of it is left in the kernel,
and its programs lose the network. --all takes down every lane, those of
NetworkManager's profiles too, also when no daemon runs.`,
		Example: "  uplane down steam\n  uplane down --all",
	}
	all := c.Flags().Bool("all", false, "every lane")
	c.Args = func(c *cobra.Command, args []string) error {
		if *all && len(args) > 0 {
			return usageError{errors.New("down: either a lane's name or --all")}
		}
		if *all {
			return nil
		}
		return laneArgs(1, 1)(c, args)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if *all {
			if err := downAll(c.Context()); err != nil {
				return fmt.Errorf("down --all: %w", err)
			}
			return nil
		}
		return withAgent(c.Context(), func(client *api.Client) error {
			if err := client.Down(c.Context(), args[0]); err != nil {
				return fmt.Errorf("down %s: %w", args[0], err)
			}
			return nil
		})
	}
	return c
}

func downAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, applyLimit)
	defer cancel()
	if err := profilesDown(ctx); err != nil {
		return err
	}
	if oneshot.DaemonRuns(ctx) {
		return withDaemon(ctx, func(client *api.Client) error { return lanesDown(ctx, client) })
	}
	return oneshot.DownAll(ctx, oneshot.DefaultPaths(), slog.LevelWarn)
}

// profilesDown makes NetworkManager deactivate the profiles of lanes. Without NetworkManager none is active.
func profilesDown(ctx context.Context) error {
	seen, err := nm.Once(ctx, "")
	if err != nil || len(seen.Profiles) == 0 {
		return err
	}
	store, err := nm.OpenStore()
	if err != nil {
		return err
	}
	all, err := store.List(ctx)
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.Lane != "" && p.Active {
			if err := store.Deactivate(ctx, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// lanesDown makes the daemon take all lanes down. It tries again for a while, because the daemon may not know yet that a
// lane's profile is down.
func lanesDown(ctx context.Context, client *api.Client) error {
	for {
		lanes, err := client.List(ctx)
		if err != nil {
			return err
		}
		var failed []error
		for _, l := range lanes {
			if l.State != "down" {
				failed = append(failed, client.Down(ctx, l.Name))
			}
		}
		err = errors.Join(failed...)
		if err == nil || errors.Is(err, api.ErrDenied) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}
