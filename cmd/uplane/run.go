package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"uplane/internal/bus"
	"uplane/internal/enter"
	"uplane/internal/run"
	"uplane/policy"
)

func runCommand() *cobra.Command {
	c := &cobra.Command{
		Use:                   "run [--notify] LANE [--] COMMAND [ARG...]",
		DisableFlagsInUseLine: true, // they come first
		Short:                 "Run a program in a lane",
		Long: `Run a program in a lane. Everything it sends leaves by the lane's uplink, or
not at all. It keeps its terminal, files and environment; names are resolved
by the lane's DNS servers, and proxy settings that point at this machine's
loopback are dropped, as the lane has a loopback of its own. It needs no root.

The exit code is the program's: 128+n when signal n ended it, 127 when it was not
found, 126 when it can't be executed, 125 when uplane failed.`,
		Example: "  uplane run steam -- curl https://example.org",
		Args: func(*cobra.Command, []string) error {
			return usageError{errors.New("run: expected a lane and a command: uplane run LANE [--] COMMAND")}
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	// runInLane reads these; here they are for manuals and completion.
	c.Flags().SetInterspersed(false)
	c.Flags().Bool("notify", false, "show errors on the desktop too: for what an icon or a key starts, without a terminal")
	return c
}

// runInLane runs "LANE [--] COMMAND [ARG...]", and returns its exit code.
func runInLane(args []string) int {
	lane, command, notify, err := enter.Parse(args)
	if err != nil {
		report(fmt.Errorf("run: %w", err), "uplane run LANE [--] COMMAND")
		return exitUsage
	}
	return enterLane(lane, command, enter.WithoutLoopbackProxies(os.Environ(), os.Stderr), notify)
}

// enterLane runs a command in a lane. Root enters by itself; for others the daemon has it
// done. With notify the desktop tells of errors, too. It returns the exit code.
func enterLane(lane string, command, environ []string, notify bool) int {
	say := report
	if notify {
		say = func(err error, next string) { reportOnDesktop(lane, err, next) }
	}
	if err := policy.CheckLaneName(lane); err != nil {
		say(fmt.Errorf("run: %w", err), "uplane list")
		return enter.ExitFailed
	}
	if os.Geteuid() == 0 {
		failure := enter.Run(lane, command, environ)
		say(fmt.Errorf("run: %w", failure), failure.Next)
		return failure.Code
	}
	start := func(ctx context.Context, socket string) error {
		return withDaemon(ctx, func(client *bus.Client) error {
			if notify {
				warnOfLane(ctx, client, lane)
			}
			_, err := client.Run(ctx, lane, socket)
			return err
		})
	}
	code, err := run.Run(context.Background(), start, lane, command, environ)
	if err != nil {
		say(fmt.Errorf("run: %w", err), runHint(lane, err))
	}
	return code
}

func runHint(lane string, err error) string {
	var refused *bus.Error
	switch {
	case errors.As(err, &refused) && refused.Kind == bus.NoSuchLane:
		return "uplane up " + lane
	case errors.As(err, &refused) && refused.Kind == bus.Refused:
		return ""
	}
	return hint(err)
}
