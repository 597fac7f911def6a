package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"uplane/internal/api"
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

// userFolders are the folders of desktop entries, for a user who has a desktop.
func userFolders() (desktop.Folders, error) {
	if os.Geteuid() == 0 {
		return nil, hinted{errors.New("launchers are in each user's own folder, and this would be root's"), "the same without sudo"}
	}
	return desktop.UserFolders(os.Getenv)
}

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

func launcherHint(err error) string {
	switch {
	case errors.Is(err, desktop.ErrSnap):
		return "the same program as a package of your distribution"
	case errors.Is(err, desktop.ErrOurs):
		return "uplane desktop list"
	}
	return ""
}

// byCommand says how to start a launcher by a command that is here.
func byCommand(l desktop.Launcher) string {
	if _, err := exec.LookPath("gtk-launch"); err == nil {
		return ", or by: gtk-launch " + shellWord(strings.TrimSuffix(filepath.Base(l.File), ".desktop"))
	}
	if _, err := exec.LookPath("gio"); err == nil {
		return ", or by: gio launch " + shellWord(l.File)
	}
	return ""
}

// shellWord is a word that can be typed.
func shellWord(word string) string {
	if strings.ContainsFunc(word, func(r rune) bool {
		return !strings.ContainsRune("/._+-@:", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) {
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return word
}

// requireLane returns nil if there is a lane of that name.
func requireLane(ctx context.Context, name string) error {
	return withDaemon(ctx, func(client *api.Client) error {
		lanes, err := client.List(ctx)
		if err != nil {
			return err
		}
		if _, err := findIn(lanes, name); err != nil {
			return hinted{err, "uplane up " + name}
		}
		return nil
	})
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

func desktopListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List your launchers",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("desktop list: it lists those of all lanes, and takes no %q", args[0])}
			}
			return nil
		},
	}
	asJSON := c.Flags().Bool("json", false, "for programs")
	c.RunE = func(*cobra.Command, []string) error {
		folders, err := userFolders()
		if err != nil {
			return fmt.Errorf("desktop list: %w", err)
		}
		all, err := folders.Launchers()
		if err != nil {
			return fmt.Errorf("desktop list: %w", err)
		}
		if *asJSON {
			return printJSON(map[string][]desktop.Launcher{"launchers": append([]desktop.Launcher{}, all...)})
		}
		return printLaunchers(os.Stdout, all)
	}
	return c
}

func printLaunchers(w io.Writer, all []desktop.Launcher) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no launchers yet; try: uplane desktop add LANE APP")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LANE\tAPP\tNAME")
	for _, l := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\n", l.Lane, l.App, l.Name)
	}
	return t.Flush()
}

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
