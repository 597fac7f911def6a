package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"uplane/internal/api"
	"uplane/internal/run/flatpak"
	"uplane/internal/run/handover"
	"uplane/internal/run/nsexec"
	"uplane/internal/run/shim"
	"uplane/policy"
)

func runCommand() *cobra.Command {
	c := &cobra.Command{
		Use:                   "run [--notify] [--strict] LANE [--] COMMAND [ARG...]",
		DisableFlagsInUseLine: true, // they come first
		Short:                 "Run a program in a lane",
		Long: `Run a program in a lane. Everything it sends leaves by the lane's uplink, or
not at all. It keeps its terminal, files and environment; names are resolved
by the lane's DNS servers, and proxy settings that point at this machine's
loopback are dropped, as the lane has a loopback of its own. It needs no root.

Many programs run once: started again, they hand over to the first and end. When
that runs outside of the lane, uplane says so, and what to do. With --strict such a
program is not started at all if it is a well-known one, and otherwise the exit code
is 125. Flatpaks run in lanes, snaps do not.

The exit code is the program's: 128+n when signal n ended it, 127 when it was not
found, 126 when it can't be executed, 125 when uplane failed.`,
		Example: `  uplane run steam -- curl https://example.org
  uplane run --strict steam -- firefox --new-instance --profile ~/.uplane/steam/firefox`,
		Args: func(*cobra.Command, []string) error {
			return usageError{errors.New("run: expected a lane and a command: uplane run LANE [--] COMMAND")}
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	// For the help, manual page and completion; main has the command line read by package nsexec.
	c.Flags().SetInterspersed(false)
	c.Flags().Bool("notify", false, "show errors on the desktop too: for what an icon or a key starts, without a terminal")
	c.Flags().Bool("strict", false, "rather fail than let a program outside of the lane do the work")
	return c
}

// runInLane carries out "uplane run" and returns its exit code.
func runInLane(args []string) int {
	parsed, err := nsexec.Parse(args)
	if err != nil {
		report(fmt.Errorf("run: %w", err), "uplane run LANE [--] COMMAND")
		return exitUsage
	}
	return enterLane(parsed, os.Environ())
}

// enterLane runs a command in a lane and returns its exit code. Root enters the lane in this process; for other users the
// daemon starts the program.
func enterLane(a nsexec.Args, environ []string) int {
	fail := func(err error, next string) {
		err = fmt.Errorf("run: %w", err)
		if a.Notify {
			reportOnDesktop(a.Lane, err, next)
			return
		}
		report(err, next)
	}
	if err := policy.CheckLaneName(a.Lane); err != nil {
		fail(err, "uplane list")
		return nsexec.ExitFailed
	}
	environ = flatpak.Environ(nsexec.WithoutLoopbackProxies(environ, os.Stderr))
	if os.Geteuid() == 0 {
		if a.Strict {
			fail(errors.New("--strict: a program of root's takes uplane's place, so nobody is there to see where it went"), "the same without sudo")
			return nsexec.ExitFailed
		}
		failure := nsexec.Run(a.Lane, a.Command, environ)
		fail(failure, failure.Next)
		return failure.Code
	}
	path, _ := nsexec.Find(a.Command[0]) // in the lane it is told what is wrong with it
	program := handover.New(a.Lane, a.Command, path)
	if escape := program.Before(a.Strict); escape != nil {
		fail(escape, escape.Next)
		if a.Strict {
			return escape.Code
		}
	}
	start := func(ctx context.Context, socket string) error {
		return withDaemon(ctx, func(client *api.Client) error {
			if a.Notify {
				warnOfLane(ctx, client, a.Lane)
			}
			_, err := client.Run(ctx, a.Lane, socket)
			return err
		})
	}
	started := time.Now()
	code, name, err := shim.Run(context.Background(), start, a.Lane, a.Command, environ)
	if err != nil {
		fail(err, runHint(a.Lane, err))
		return code
	}
	if code != 0 || time.Since(started) > handover.Soon {
		return code
	}
	if escape := program.After(name); escape != nil {
		fail(escape, escape.Next)
		if a.Strict {
			return escape.Code
		}
	}
	return code
}

func runHint(lane string, err error) string {
	var refused *api.Error
	var failure *nsexec.Failure
	switch {
	case errors.As(err, &failure):
		return failure.Next
	case errors.As(err, &refused) && refused.Kind == api.NoSuchLane:
		return "uplane up " + lane
	case errors.As(err, &refused) && refused.Kind == api.Refused:
		return ""
	}
	return hint(err)
}
