package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

func profileShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "show LANE",
		Short: "Show what a lane's profile says",
		Args:  laneArgs(1, 1),
	}
	asJSON := c.Flags().Bool("json", false, "for programs")
	c.RunE = func(c *cobra.Command, args []string) error {
		ps, err := openProfiles(c)
		if err != nil {
			return err
		}
		if _, err := ps.requireOne(args[0]); err != nil {
			return fmt.Errorf("profile show: %w", err)
		}
		shown := ps.describe(args[0])
		if *asJSON {
			return printJSON(shown)
		}
		for i, p := range shown.Profiles {
			if i > 0 {
				fmt.Println()
			}
			printProfile(os.Stdout, p)
		}
		return nil
	}
	return c
}

func printProfile(w io.Writer, p profileEntry) {
	state := "down"
	if p.Active {
		state = "up"
	}
	fmt.Fprintf(w, "profile %s is %s, for lane %s\n", p.Name, state, p.Lane)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %-10s %s\n", name, value)
		}
	}
	line("uuid", p.UUID)
	line("bridge", p.Bridge)
	line("address", p.Address)
	line("uplink", strings.Join(p.Uplink, ", "))
	for _, key := range profileOptions[1:] {
		line(key, p.Keys[key])
	}
	line("problem", p.Problem)
}
