package main

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"uplane/internal/api"
)

func listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List lanes, a line each",
		Args:  laneArgs(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return withDaemon(c.Context(), func(client *api.Client) error {
				lanes, err := client.List(c.Context())
				if err != nil {
					return err
				}
				return printTable(os.Stdout, lanes)
			})
		},
	}
}

func printTable(w io.Writer, lanes []api.Lane) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LANE\tSTATE\tUPLINK\tGATEWAY\tSUBNET\tTABLE\tREASON")
	for _, l := range lanes {
		table := "-"
		if l.Table != 0 {
			table = fmt.Sprint(l.Table)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Name, l.State, dash(l.Uplink.Interface), dash(l.IPv4.Gateway), dash(l.Subnet), table, l.Reason)
	}
	return t.Flush()
}
