package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"uplane/internal/version"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which build this is",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("version: unexpected %q: uplane version", args[0])}
			}
			return nil
		},
		Run: func(*cobra.Command, []string) { fmt.Println(version.Text("uplane")) },
	}
}
