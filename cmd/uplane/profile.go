package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func profileCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "profile",
		Short: "Drive lanes by NetworkManager profiles",
		Long: `A lane can be a NetworkManager profile, of a bridge. Then nmcli connection up,
down, modify and delete drive it, as do nmtui and the applets of desktops, and it
comes up at boot as every profile does. nmcli can't write what a profile says of
its lane, so these commands do.`,
		Example: `  uplane profile add steam --uplink wlp6s0    make the profile steam, and bring it up
  nmcli connection down steam                 take the lane down
  uplane profile limit hotspot backup         only the lane backup may leave by this network`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("profile: unknown command %q", args[0])}
			}
			return nil
		},
		Run: func(c *cobra.Command, _ []string) { _ = c.Help() },
	}
	c.PersistentFlags().String("config-dir", "/etc/uplane", "where the lane files and uplane.toml are")
	c.AddCommand(profileAddCommand(), profileListCommand(), profileShowCommand(), profileRemoveCommand(), profileLimitCommand())
	return c
}

// profileOptions are the options of "uplane profile add" that a profile stores as user keys.
var profileOptions = []string{"uplink", "table", "mark", "dns", "allow"}
