package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"uplane/internal/bus"
)

// completeLanes has shells complete names of lanes, in c and the commands below it, where their
// usage says LANE.
func completeLanes(c *cobra.Command) {
	for _, sub := range c.Commands() {
		completeLanes(sub)
	}
	words := slices.DeleteFunc(strings.Fields(c.Use)[1:], func(w string) bool { return strings.HasPrefix(w, "[--") && w != "[--]" })
	at := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(strings.TrimPrefix(w, "["), "LANE") })
	if at < 0 {
		return
	}
	several := strings.Contains(words[at], "...")
	c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		switch {
		case len(args) == at || several && len(args) > at:
			return laneNames(c.Context()), cobra.ShellCompDirectiveNoFileComp
		case slices.Contains(words, "COMMAND") && len(args) > at:
			return nil, cobra.ShellCompDirectiveDefault
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// completionLimit is how long a shell may have to wait.
const completionLimit = 300 * time.Millisecond

// laneNames asks a daemon that runs; pressing a key starts none, and is answered by nothing then.
func laneNames(ctx context.Context) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, completionLimit)
	defer cancel()
	_ = withDaemon(ctx, func(client *bus.Client) error {
		if running, err := client.Running(ctx); err != nil || !running {
			return err
		}
		lanes, err := client.List(ctx)
		for _, l := range lanes {
			names = append(names, l.Name)
		}
		return err
	})
	return names
}
