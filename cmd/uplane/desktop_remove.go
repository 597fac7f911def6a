package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"uplane/internal/desktop"
)

func desktopRemoveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove LANE APP",
		Short: "Delete a launcher",
		Args:  desktopArgs("remove"),
	}
	c.RunE = func(_ *cobra.Command, args []string) error {
		if err := removeLauncher(args[0], args[1]); err != nil {
			return fmt.Errorf("desktop remove: %w", err)
		}
		return nil
	}
	c.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) (out []string, _ cobra.ShellCompDirective) {
		folders, err := desktop.UserFolders(os.Getenv)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, _ := folders.Launchers()
		for _, l := range all {
			switch {
			case len(args) == 0:
				out = append(out, l.Lane)
			case len(args) == 1 && args[0] == l.Lane:
				out = append(out, cobra.CompletionWithDesc(l.App, l.Name))
			}
		}
		return slices.Compact(out), cobra.ShellCompDirectiveNoFileComp
	}
	return c
}

func removeLauncher(lane, app string) error {
	folders, err := userFolders()
	if err != nil {
		return err
	}
	if strings.Contains(app, "/") {
		if app, err = filepath.Abs(app); err != nil {
			return err
		}
	}
	l, err := folders.Remove(lane, folders.ID(app))
	if errors.Is(err, fs.ErrNotExist) {
		return hinted{fmt.Errorf("there is no launcher of %s in lane %s", l.App, lane), "uplane desktop list"}
	}
	if err != nil {
		return err
	}
	fmt.Println("deleted", l.File)
	return nil
}
