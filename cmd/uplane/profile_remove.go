package main

import (
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"uplane/internal/api"
	"uplane/internal/config"
	"uplane/nm"
	"uplane/policy"
)

func profileRemoveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove LANE",
		Short: "Delete a lane's profile, and with it the lane",
		Long: `Delete a lane's profile, and with it the lane. With --keep the lane goes on from a
lane file, with the same addresses; programs in it stay.`,
		Args: laneArgs(1, 1),
	}
	keep := c.Flags().Bool("keep", false, "write a lane file that the lane goes on from")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := removeProfiles(c, args[0], *keep); err != nil {
			return fmt.Errorf("profile remove: %w", err)
		}
		return nil
	}
	return c
}

func removeProfiles(c *cobra.Command, name string, keep bool) error {
	ctx := c.Context()
	ps, err := openProfiles(c)
	if err != nil {
		return err
	}
	p, err := ps.requireOne(name)
	if err != nil {
		return err
	}
	if _, exists := ps.laneFile(name); keep && !exists {
		if err := ps.writeFile(p); err != nil {
			return err
		}
		if err := reload(ctx); err != nil {
			return err
		}
	}
	bridge := linkIndex(p.Interface)
	for _, p := range ps.ofLane(name) {
		if err := ps.store.Delete(ctx, p); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(waitTimeout); p.Active && linkIndex(p.Interface) == bridge && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond) // NetworkManager takes 50 ms to take the bridge down
	}
	if err := reload(ctx); err != nil { // the daemon has then seen that, too
		return err
	}
	if _, goesOn := ps.laneFile(name); keep || goesOn {
		return reportLane(ctx, name)
	}
	return awaitLane(ctx, name, func(_ api.Lane, exists bool) bool { return !exists })
}

// linkIndex returns the index of a link, 0 if there is none.
func linkIndex(name string) int {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return 0
	}
	return link.Index
}

// writeFile writes a lane file with what a profile says.
func (ps *profiles) writeFile(p nm.Stored) error {
	lane, err := ps.config.FromProfile(p.Lane, p.Keys)
	if err != nil {
		return fmt.Errorf("profile %s: %w", p.Name, err)
	}
	keys := ps.config.FileKeys(lane)
	if p.Address.IsValid() && policy.CheckSubnet(p.Address.Masked()) == nil {
		keys["subnet"] = p.Address.Masked().String()
	}
	_, err = config.New(ps.dirs, p.Lane, keys)
	return err
}
