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

// completeWords registers completions for c and its subcommands: lanes where the usage line says LANE, and option values.
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

// completeOption completes --uplink with uplinks. Other options complete to nothing, and those for folders to files.
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

// completionLimit is how long a completion may take before the shell gets an empty list.
const completionLimit = 300 * time.Millisecond

// laneNames returns the lanes of a running daemon. Pressing Tab does not start one.
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

// uplinkNames returns the devices that a lane can use, if NetworkManager answers in time.
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
