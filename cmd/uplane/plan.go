package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"uplane/internal/api"
)

func planCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "plan LANE",
		Short: "Show the shell lines that up would carry out; nothing is done",
		Args:  laneArgs(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return withDaemon(c.Context(), func(client *api.Client) error {
				lines, err := client.Plan(c.Context(), args[0])
				if err != nil {
					return fmt.Errorf("plan %s: %w", args[0], err)
				}
				for _, l := range lines {
					fmt.Println(l)
				}
				if len(lines) == 0 {
					fmt.Fprintf(os.Stderr, "nothing to do: lane %s is as it shall be\n", args[0])
				}
				return nil
			})
		},
	}
}
