package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"uplane/internal/api"
)

func removeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove LANE",
		Short: "Take a lane down and delete its file",
		Args:  laneArgs(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return withAgent(c.Context(), func(client *api.Client) error {
				if err := client.Remove(c.Context(), args[0]); err != nil {
					return fmt.Errorf("remove %s: %w", args[0], err)
				}
				return nil
			})
		},
	}
}
