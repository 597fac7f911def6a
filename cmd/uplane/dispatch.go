package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"uplane/dispatcher"
	"uplane/internal/api"
	"uplane/internal/oneshot"
)

// dispatchCommand is what the scripts in NetworkManager's dispatcher.d execute.
func dispatchCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "dispatch INTERFACE ACTION",
		Short:  "Tell the daemon of an event of NetworkManager's dispatcher",
		Hidden: true,
		// An interface may be named like a flag, and no argument may make it fail.
		DisableFlagParsing: true,
		Run: func(c *cobra.Command, args []string) {
			dispatch(c.Context(), args, os.Environ())
		},
	}
}

// dispatch handles one event. It returns no error, because a problem with a lane must not make NetworkManager log a
// failed script. What it prints goes to the journal.
func dispatch(ctx context.Context, args, environ []string) {
	event, err := dispatcher.Parse(args, environ)
	if errors.Is(err, dispatcher.ErrIrrelevant) {
		return
	}
	if err != nil {
		report(fmt.Errorf("dispatch: %w", err), "")
		return
	}
	// Whatever hangs (the bus, a netlink call), NetworkManager waits no longer.
	time.AfterFunc(dispatcher.Limit+grace, func() { os.Exit(0) })
	if err := (dispatcher.Handlers{Start: start, Settle: settle, Apply: applyQuietly}).Handle(ctx, event); err != nil {
		report(fmt.Errorf("dispatch: %w", err), hint(err))
	}
}

// grace is how long an event may take beyond its limit to report what was slow.
const grace = 200 * time.Millisecond

func start(ctx context.Context) error {
	return orAbsent(withDaemon(ctx, func(c *api.Client) error { return c.Start(ctx) }))
}

func settle(ctx context.Context, iface, uuid string) error {
	return orAbsent(withDaemon(ctx, func(c *api.Client) error { return c.Settle(ctx, iface, uuid) }))
}

func orAbsent(err error) error {
	if errors.Is(err, api.ErrNoDaemon) {
		return dispatcher.ErrAbsent
	}
	return err
}

func applyQuietly(ctx context.Context) error {
	// The package is being removed, and its lanes are down: taking those of a profile down was the event.
	if exe, err := os.Executable(); err == nil && !exists(exe) {
		return nil
	}
	const drain = false // NetworkManager waits
	lanes, err := oneshot.Apply(ctx, oneshot.DefaultPaths(), slog.LevelWarn, drain)
	if errors.Is(err, oneshot.ErrDaemon) {
		return nil // it has come meanwhile
	}
	return errors.Join(err, inError(lanes))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
