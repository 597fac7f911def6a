package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"uplane/internal/api"
)

func reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Read the lane files again",
		Args:  laneArgs(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return withAgent(c.Context(), func(client *api.Client) error {
				problems, err := client.Reload(c.Context())
				if err != nil {
					return fmt.Errorf("reload: %w", err)
				}
				for _, p := range problems {
					fmt.Fprintln(os.Stderr, "uplane:", p)
				}
				if len(problems) > 0 {
					return fmt.Errorf("reload: %d problems; those lanes stay as they were", len(problems))
				}
				return nil
			})
		},
	}
}
