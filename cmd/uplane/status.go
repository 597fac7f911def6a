package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"uplane/internal/api"
)

func statusCommand() *cobra.Command {
	var asJSON, watch bool
	c := &cobra.Command{
		Use:   "status [LANE]",
		Short: "Show how lanes are, and why",
		Args:  laneArgs(0, 1),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "for programs; with --watch one document a line")
	c.Flags().BoolVar(&watch, "watch", false, "show every change until interrupted")
	c.RunE = func(c *cobra.Command, args []string) error {
		return withDaemon(c.Context(), func(client *api.Client) error {
			show := func() error { return showStatus(c.Context(), client, args, asJSON, watch) }
			if !watch {
				return show()
			}
			return watchStatus(c.Context(), client, show)
		})
	}
	return c
}

// watchStatus shows the lanes now and after every change. It waits for a daemon that is not running.
func watchStatus(ctx context.Context, client *api.Client, show func() error) error {
	changes, err := client.Changes(ctx)
	if err != nil {
		return err
	}
	running := true // or else the bus may start it
	for {
		if running {
			err = show()
		} else {
			err = api.ErrNoDaemon
		}
		if errors.Is(err, api.ErrNoDaemon) {
			fmt.Fprintln(os.Stderr, "uplane: the daemon is not running; waiting for it")
		} else if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-changes:
			if !ok {
				return api.ErrNoBus
			}
		}
		// A call would start a daemon that somebody has just stopped.
		if running, err = client.Running(ctx); err != nil {
			return err
		}
	}
}

func showStatus(ctx context.Context, client *api.Client, args []string, asJSON, watch bool) error {
	lanes, err := client.List(ctx)
	if err != nil {
		return err
	}
	if len(args) == 1 {
		lane, err := findLane(lanes, args[0])
		if err != nil {
			return err
		}
		lanes = []api.Lane{lane}
	}
	count, err := countPrograms(ctx, client)
	if err != nil {
		return err
	}
	all := make([]laneStatus, len(lanes))
	for i, l := range lanes {
		all[i] = laneStatus{l, count[l.Name]}
	}
	if asJSON {
		enc := json.NewEncoder(os.Stdout)
		if !watch {
			enc.SetIndent("", "  ")
		}
		return enc.Encode(statusDocument{all})
	}
	if watch && terminal(os.Stdout) {
		fmt.Print("\x1b[H\x1b[2J") // home, clear
	}
	for i, l := range all {
		if i > 0 {
			fmt.Println()
		}
		printLane(os.Stdout, l)
	}
	if len(all) == 0 {
		fmt.Println("no lanes yet; try: uplane up steam --uplink wlp6s0")
	}
	return nil
}

// statusDocument is what --json prints; docs/json.md describes it.
type statusDocument struct {
	Lanes []laneStatus `json:"lanes"`
}

// laneStatus is a lane in --json. Programs counts the user's own programs in it; for root, all.
type laneStatus struct {
	api.Lane
	Programs int `json:"programs"`
}

// countPrograms returns the number of programs in each lane.
func countPrograms(ctx context.Context, client *api.Client) (map[string]int, error) {
	all, err := client.Programs(ctx, "")
	count := map[string]int{}
	for _, p := range all {
		count[p.Lane]++
	}
	return count, err
}

func printLane(w io.Writer, l laneStatus) {
	fmt.Fprintln(w, summary(l.Lane))
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %-10s %s\n", name, value)
		}
	}
	line("uplink", strings.Join(nonEmpty(l.Uplink.Interface, l.Uplink.Connection, l.Uplink.SSID), ", "))
	line("profile", l.Profile)
	line("address", strings.Join(l.IPv4.Addresses, ", "))
	line("gateway", l.IPv4.Gateway)
	line("dns", strings.Join(l.DNS, ", "))
	line("subnet", l.Subnet)
	if l.Table != 0 {
		line("table", fmt.Sprint(l.Table))
	}
	if l.Mark != 0 {
		line("mark", fmt.Sprint(l.Mark))
	}
	line("bridge", l.Bridge)
	line("namespace", l.Namespace)
	if l.Programs > 0 {
		line("programs", fmt.Sprint(l.Programs))
	}
	line("since", localTime(l.Since))
	for _, c := range l.Conditions {
		if !strings.Contains(l.Reason, c.Message) { // else the first line says it
			line("note", c.Message)
		}
	}
}
