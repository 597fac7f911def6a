package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"uplane/internal/bus"
)

func psCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "ps [LANE]",
		Short: "List the programs that run in lanes",
		Long: `List the programs that run in a lane, or in any: your own, or everybody's for
root. However they got there: by uplane run, ip netns exec, or as a service.`,
		Args: laneArgs(0, 1),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "for programs")
	c.RunE = func(c *cobra.Command, args []string) error {
		lane := ""
		if len(args) > 0 {
			lane = args[0]
		}
		return withDaemon(c.Context(), func(client *bus.Client) error {
			all, err := client.Programs(c.Context(), lane)
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(os.Stdout)
				enc.SetIndent("", "  ")
				return enc.Encode(map[string][]bus.Program{"programs": all})
			}
			return printPrograms(os.Stdout, all)
		})
	}
	return c
}

func printPrograms(w io.Writer, all []bus.Program) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LANE\tPID\tUSER\tSINCE\tCOMMAND")
	for _, p := range all {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\n", p.Lane, p.PID, userName(p.UID), localTime(p.Since), p.Command)
	}
	return t.Flush()
}

// userName is a user's name, or the number of one that has none.
func userName(uid uint32) string {
	number := strconv.Itoa(int(uid))
	if u, err := user.LookupId(number); err == nil {
		return u.Username
	}
	return number
}

// localTime is a time of the daemon's as people read it.
func localTime(since string) string {
	t, err := time.Parse(time.RFC3339, since)
	if err != nil {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func stopCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stop LANE",
		Short: "End the programs that run in a lane",
		Long: `End what "uplane ps" lists of a lane: it is asked to end, and after five seconds
it is killed. The lane stays.`,
		Args: laneArgs(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return withDaemon(c.Context(), func(client *bus.Client) error {
				n, err := client.Stop(c.Context(), args[0])
				if err == nil && n == 0 {
					fmt.Fprintf(os.Stderr, "nothing of yours runs in lane %s\n", args[0])
				}
				return err
			})
		},
	}
}

// countPrograms counts what runs in each lane.
func countPrograms(ctx context.Context, client *bus.Client) (map[string]int, error) {
	all, err := client.Programs(ctx, "")
	count := map[string]int{}
	for _, p := range all {
		count[p.Lane]++
	}
	return count, err
}
