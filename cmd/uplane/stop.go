package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"uplane/internal/api"
)

func stopCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stop LANE",
		Short: "End the programs that run in a lane",
		Long: `End what "uplane ps" lists of a lane: it is asked to end, and after five seconds
it is killed. The lane stays.`,
		Args: laneArgs(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return withDaemon(c.Context(), func(client *api.Client) error {
				n, err := client.Stop(c.Context(), args[0])
				if err == nil && n == 0 {
					fmt.Fprintf(os.Stderr, "nothing of yours runs in lane %s\n", args[0])
				}
				return err
			})
		},
	}
}
