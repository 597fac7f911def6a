package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"uplane/internal/desktop"
	"uplane/policy"
)

func desktopCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "desktop",
		Short: "Start programs in a lane from the desktop",
		Long: `Make launchers, which start a program in a lane from the desktop's menu: "Firefox
(by wifi)". They are files in your own applications folder, and the program's own
launcher stays as it is.`,
		Example: `  uplane desktop add wifi firefox-esr
  uplane desktop remove wifi firefox-esr`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("desktop: unknown command %q", args[0])}
			}
			return nil
		},
		Run: func(c *cobra.Command, _ []string) { _ = c.Help() },
	}
	c.AddCommand(desktopAddCommand(), desktopListCommand(), desktopRemoveCommand())
	return c
}

// userFolders returns the user's folders of desktop entries. Root has no desktop, so it is refused.
func userFolders() (desktop.Folders, error) {
	if os.Geteuid() == 0 {
		return nil, hinted{errors.New("launchers are in each user's own folder, and this would be root's"), "the same without sudo"}
	}
	return desktop.UserFolders(os.Getenv)
}

func desktopArgs(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 2 {
			return usageError{fmt.Errorf("desktop %s: expected a lane and a program: uplane desktop %s LANE APP", name, name)}
		}
		if err := policy.CheckLaneName(args[0]); err != nil {
			return usageError{fmt.Errorf("desktop %s: %w", name, err)}
		}
		return nil
	}
}
