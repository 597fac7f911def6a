// Command uplane pins programs to an uplink: it asks the daemon for lanes and
// runs programs in them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"uplane/internal/run/flatpak"
	"uplane/internal/run/shim"
	"uplane/internal/run/spawn"
)

// Exit codes. A command in a lane has its own.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	// A program that starts in a lane should not wait for the command tree to be built.
	switch {
	case len(os.Args) == 4 && os.Args[1] == spawn.KeeperCommand:
		os.Exit(shim.Keep(os.Args[2], os.Args[3], os.Stderr))
	case len(os.Args) > 2 && os.Args[1] == flatpak.Arguments:
		os.Exit(flatpak.Bwrap(os.Args[1:], os.Stderr))
	case len(os.Args) > 1 && os.Args[1] == "run" && !wantsHelp(os.Args[2:]):
		os.Exit(runInLane(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(execute(ctx, os.Args[1:]))
}

func wantsHelp(args []string) bool {
	return len(args) == 0 || args[0] == "-h" || args[0] == "--help"
}

func execute(ctx context.Context, args []string) int {
	root := command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var usage usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") {
		report(err, "uplane --help")
		return exitUsage
	}
	report(err, hint(err))
	return exitFailed
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "uplane",
		Short: "Pin programs to an uplink",
		Long: `Uplane runs programs in lanes. A lane is a network namespace whose every
packet leaves by one chosen uplink, say the idle Wi-Fi card, while the rest of
the machine stays on its default route.`,
		Example: `  uplane up steam --uplink wlp6s0        make a lane that leaves by wlp6s0
  uplane run steam -- curl ifconfig.me   run a program in it
  uplane status steam                    see how it is`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return welcome(c.Context(), os.Stdout) },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(upCommand(), downCommand(), removeCommand(), listCommand(), statusCommand(), planCommand(), reloadCommand(), profileCommand(), runCommand(), shellCommand(), psCommand(), desktopCommand(),
		stopCommand(), applyCommand(), adoptCommand(), dispatchCommand(), versionCommand())
	completeWords(root)
	return root
}
