package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"uplane/policy"
)

func profileLimitCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "limit PROFILE [LANE...]",
		Short: "Say which lanes may leave by a network",
		Long: `Say which lanes may leave by a network, named by its profile or that profile's UUID.
Networks that say nothing serve all lanes.`,
		Example: "  uplane profile limit hotspot backup   the lane backup only\n  uplane profile limit hotspot --none\n  uplane profile limit hotspot --all",
	}
	all := c.Flags().Bool("all", false, "every lane, as before")
	none := c.Flags().Bool("none", false, "no lane")
	c.Args = func(_ *cobra.Command, args []string) error {
		given := 0
		for _, yes := range []bool{*all, *none, len(args) > 1} {
			if yes {
				given++
			}
		}
		if len(args) == 0 || given != 1 {
			return usageError{errors.New("profile limit: expected a profile and either lanes, --all or --none")}
		}
		for _, name := range args[1:] {
			if err := policy.CheckLaneName(name); err != nil {
				return usageError{fmt.Errorf("profile limit: %w", err)}
			}
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		ps, err := openProfiles(c)
		if err != nil {
			return err
		}
		p, err := ps.byName(args[0])
		if err == nil && *all {
			err = ps.store.Unlimit(c.Context(), p)
		} else if err == nil {
			err = ps.store.Limit(c.Context(), p, args[1:])
		}
		if err != nil {
			return fmt.Errorf("profile limit: %w", err)
		}
		return nil
	}
	return c
}
