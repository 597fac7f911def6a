package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"uplane/internal/api"
	"uplane/nm"
	"uplane/policy"
)

// completeWords has shells complete, in c and the commands below it, names of lanes where their usage says LANE, and
// what options say.
func completeWords(c *cobra.Command) {
	for _, sub := range c.Commands() {
		completeWords(sub)
	}
	for _, flags := range []*pflag.FlagSet{c.Flags(), c.PersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) { completeOption(c, f) })
	}
	if c.ValidArgsFunction != nil {
		return // it knows more
	}
	words := slices.DeleteFunc(strings.Fields(c.Use)[1:], func(w string) bool { return strings.HasPrefix(w, "[-") })
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

// completeOption has shells offer uplinks for --uplink, and files only where a folder is meant.
func completeOption(c *cobra.Command, f *pflag.Flag) {
	offer := cobra.NoFileCompletions
	switch {
	case f.NoOptDefVal != "" || strings.HasSuffix(f.Name, "-dir"): // it takes no value, or a folder
		return
	case f.Name == "uplink":
		offer = func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return uplinkNames(c.Context()), cobra.ShellCompDirectiveNoFileComp
		}
	}
	if err := c.RegisterFlagCompletionFunc(f.Name, offer); err != nil {
		panic(err) // it is there, and nobody else's
	}
}

// completionLimit is how long a shell may have to wait.
const completionLimit = 300 * time.Millisecond

// laneNames asks a daemon that runs; pressing a key starts none, and is answered by nothing then.
func laneNames(ctx context.Context) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, completionLimit)
	defer cancel()
	_ = withDaemon(ctx, func(client *api.Client) error {
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

// uplinkNames are the devices that a lane could have, as far as NetworkManager tells in time.
func uplinkNames(ctx context.Context) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, completionLimit)
	defer cancel()
	seen, err := nm.Once(ctx, "")
	if err != nil {
		return nil
	}
	main, idle := policy.Idle(seen.Uplinks)
	for _, u := range seen.Uplinks {
		if role := roleOf(&u, main, idle); role != "" {
			names = append(names, cobra.CompletionWithDesc(u.Interface, role))
		}
	}
	return names
}
