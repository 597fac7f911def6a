package main

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"uplane/internal/desktop"
)

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
			return printJSON(desktopDocument{append([]desktop.Launcher{}, all...)})
		}
		return printLaunchers(os.Stdout, all)
	}
	return c
}

// desktopDocument is what --json prints; docs/json.md describes it.
type desktopDocument struct {
	Launchers []desktop.Launcher `json:"launchers"`
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
