package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"uplane/internal/desktop"
)

func desktopAddCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "add LANE APP",
		Short: "Make a launcher that starts a program in a lane",
		Long: `Make a launcher that starts a program in a lane, out of the program's own, with
its actions. APP is that one's name without ".desktop", such as firefox-esr or
org.gnome.Maps, or the path of its file.

It opens no types of files or links by itself, so what opens those stays as it is.
When the program can't start, or the lane has no uplink, the desktop says so.`,
		Example: "  uplane desktop add wifi firefox-esr\n  uplane desktop add wifi ~/Downloads/game.desktop",
		Args:    desktopArgs("add"),
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := addLauncher(c.Context(), args[0], args[1]); err != nil {
			return fmt.Errorf("desktop add: %w", err)
		}
		return nil
	}
	c.ValidArgsFunction = func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		folders, err := desktop.UserFolders(os.Getenv)
		switch {
		case len(args) == 0:
			return laneNames(c.Context()), cobra.ShellCompDirectiveNoFileComp
		case len(args) > 1 || err != nil:
			return nil, cobra.ShellCompDirectiveNoFileComp
		case strings.ContainsAny(begun, "/~"):
			return []string{"desktop"}, cobra.ShellCompDirectiveFilterFileExt
		}
		var out []string
		for _, p := range folders.Programs() {
			out = append(out, cobra.CompletionWithDesc(p.ID, p.Name))
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	return c
}

func addLauncher(ctx context.Context, lane, app string) error {
	folders, err := userFolders()
	if err != nil {
		return err
	}
	if err := requireLane(ctx, lane); err != nil {
		return err
	}
	path, err := findProgram(folders, app)
	if err != nil {
		return err
	}
	entry, err := desktop.Read(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	uplane, err := os.Executable() // which is there whatever the desktop's PATH is
	if err != nil {
		return err
	}
	text, err := entry.Launcher(path, lane, uplane)
	if err != nil {
		return hinted{fmt.Errorf("%s: %w", path, err), launcherHint(err)}
	}
	l, same, err := folders.Add(lane, folders.ID(path), text)
	if err != nil {
		return err
	}
	verb := "wrote"
	if same {
		verb = "nothing to do: there already is"
	}
	fmt.Printf("%s %s\nstart %s from the menu%s\n", verb, l.File, l.Name, byCommand(l))
	return nil
}

// findProgram returns the absolute path of a program's desktop entry.
func findProgram(folders desktop.Folders, app string) (string, error) {
	if !strings.Contains(app, "/") {
		path, err := folders.Find(app)
		if err == nil {
			return path, nil
		}
		if _, here := os.Stat(app); here != nil {
			return "", hinted{fmt.Errorf("%s: %w", app, err), "uplane desktop add, with the path of its .desktop file; the Tab key lists what is installed"}
		}
	}
	return filepath.Abs(app)
}

func launcherHint(err error) string {
	switch {
	case errors.Is(err, desktop.ErrSnap):
		return "the same program as a package of your distribution"
	case errors.Is(err, desktop.ErrOurs):
		return "uplane desktop list"
	}
	return ""
}

// byCommand returns how to start a launcher from a shell, with a command that is installed.
func byCommand(l desktop.Launcher) string {
	if _, err := exec.LookPath("gtk-launch"); err == nil {
		return ", or by: gtk-launch " + shellWord(strings.TrimSuffix(filepath.Base(l.File), ".desktop"))
	}
	if _, err := exec.LookPath("gio"); err == nil {
		return ", or by: gio launch " + shellWord(l.File)
	}
	return ""
}
