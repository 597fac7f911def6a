package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"uplane/internal/api"
	"uplane/internal/config"
	"uplane/internal/oneshot"
	"uplane/nm"
	"uplane/policy"
)

func profileAddCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "add LANE",
		Short: "Make a lane's profile, or change it, and bring it up",
		Long: `Make a profile for a lane, or change the one that there is, and bring it up. A lane
that has a file moves: the profile takes over what the file says, programs in
the lane stay, and the file is deleted.`,
		Example: "  uplane profile add steam --uplink wlp6s0\n  uplane profile add steam --uplink ssid:Home,type:gsm --subnet 10.0.7.0/24",
		Args:    laneArgs(1, 1),
	}
	f := c.Flags()
	f.String("uplink", "", "where it leaves: wlp6s0, connection:NAME, uuid:…, ssid:NAME or type:wifi; several in order of preference, with commas (default: that of uplane.toml)")
	f.String("subnet", "", "its IPv4 prefix, such as 10.0.1.0/24 (default: the next free one)")
	f.String("table", "", "its routing table (default: the next free one from 100 on)")
	f.String("mark", "", "also mark its packets")
	f.String("dns", "", "its DNS servers, with commas (default: the uplink's)")
	f.String("allow", "", "networks it may reach beside its uplink, with commas")
	f.String("bridge", "", "its bridge's name (default: ul-LANE)")
	f.String("name", "", "the profile's name (default: the lane's)")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := addProfile(c, args[0]); err != nil {
			return fmt.Errorf("profile add %s: %w", args[0], err)
		}
		return nil
	}
	return c
}

func addProfile(c *cobra.Command, name string) error {
	ctx := c.Context()
	if err := policy.CheckLaneName(name); err != nil {
		return usageError{err}
	}
	subnet, err := subnetOption(c)
	if err != nil {
		return usageError{err}
	}
	ps, err := openProfiles(c)
	if err != nil {
		return err
	}
	if old := ps.ofLane(name); len(old) > 0 {
		return ps.change(c, old[0], subnet)
	}
	p, err := ps.draft(c, name, subnet)
	if err != nil {
		return err
	}
	if err := ps.store.Add(ctx, p); err != nil {
		return err
	}
	if err := ps.bringUp(ctx, name); err != nil {
		return err
	}
	if _, moved := ps.laneFile(name); moved {
		if err := config.Remove(ps.dirs, name); err != nil {
			return err
		}
		if err := reload(ctx); err != nil {
			return err
		}
	}
	return reportLane(ctx, name)
}

func subnetOption(c *cobra.Command) (netip.Prefix, error) {
	text, _ := c.Flags().GetString("subnet")
	if text == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, fmt.Errorf("--subnet %s: use an IPv4 prefix such as 10.0.1.0/24", text)
	}
	return p, policy.CheckSubnet(p)
}

// options returns the user keys that the command line sets.
func options(c *cobra.Command) map[string]string {
	keys := map[string]string{}
	for _, name := range profileOptions {
		if c.Flags().Changed(name) {
			keys[name], _ = c.Flags().GetString(name)
		}
	}
	return keys
}

// draft returns the profile for a new lane, made of the options and of the lane's file, if it has one.
func (ps *profiles) draft(c *cobra.Command, name string, subnet netip.Prefix) (p policy.Profile, err error) {
	ctx := c.Context()
	p = policy.Profile{Name: name, Lane: name}
	if option, _ := c.Flags().GetString("name"); option != "" {
		p.Name = option
	}
	p.Interface, _ = c.Flags().GetString("bridge")
	file, moves := ps.laneFile(name)
	if moves {
		if p.Keys, err = ps.config.ProfileKeys(file.Lane); err != nil {
			return p, err
		}
		if p.Interface == "" {
			p.Interface = file.Bridge
		}
	}
	if p.Keys == nil {
		p.Keys = map[string]string{}
	}
	maps.Copy(p.Keys, options(c))
	if _, err := ps.config.FromProfile(name, p.Keys); err != nil {
		return p, err
	}
	lane := policy.Lane{Name: name, Subnet: subnet, Bridge: p.Interface}
	if moves && !subnet.IsValid() {
		lane.Subnet = file.Subnet
	}
	alloc, err := ps.allocate(ctx, lane)
	if err != nil {
		return p, err
	}
	p.Interface, p.Address = alloc.Bridge, netip.PrefixFrom(alloc.Subnet.Addr().Next(), alloc.Subnet.Bits())
	return p, nil
}

// allocate picks a subnet and a bridge name that are free on the host and in NetworkManager's profiles. An existing lane
// keeps its own.
func (ps *profiles) allocate(ctx context.Context, lane policy.Lane) (policy.Allocation, error) {
	host, err := oneshot.Host()
	if err != nil {
		return policy.Allocation{}, err
	}
	var present []api.Lane
	err = ignoreNoDaemon(withDaemon(ctx, func(client *api.Client) (err error) {
		present, err = client.List(ctx)
		return err
	}))
	if err != nil {
		return policy.Allocation{}, err
	}
	lanes, idle := []policy.Lane{lane}, []policy.Lane{}
	have := map[string]policy.Allocation{}
	for _, l := range present {
		subnet, err := netip.ParsePrefix(l.Subnet)
		switch {
		case err != nil:
		case l.Name == lane.Name:
			have[l.Name] = policy.Allocation{Subnet: subnet, Bridge: l.Bridge}
		default:
			_, external := host.Links[l.Bridge] // NetworkManager's bridge, by which the lane is one of ours all the same
			lanes = append(lanes, policy.Lane{Name: l.Name, Subnet: subnet, Bridge: l.Bridge, NoBridge: l.Bridge == "", External: external})
		}
	}
	for _, p := range ps.all {
		if p.Type == "bridge" && p.Address.IsValid() && !p.Active && p.Address.Bits() > 8 {
			idle = append(idle, policy.Lane{Name: "profile " + p.UUID, Subnet: p.Address.Masked(), NoBridge: true})
		}
	}
	allocs, clashes := policy.Allocate(lanes, idle, have, host)
	if why := clashes[lane.Name]; why != "" {
		return policy.Allocation{}, errors.New(why)
	}
	return allocs[lane.Name], nil
}

// change applies the options to the profile that the lane has.
func (ps *profiles) change(c *cobra.Command, p nm.Stored, subnet netip.Prefix) error {
	ctx := c.Context()
	for _, fixed := range []string{"bridge", "name"} {
		if c.Flags().Changed(fixed) {
			return fmt.Errorf("it has the profile %s; change that by nmcli connection modify, or remove it first", p.Name)
		}
	}
	keys := maps.Clone(p.Keys)
	if keys == nil {
		keys = map[string]string{}
	}
	given := options(c)
	maps.Copy(keys, given)
	maps.DeleteFunc(keys, func(_, value string) bool { return value == "" })
	if _, err := ps.config.FromProfile(p.Lane, keys); err != nil {
		return err
	}
	if len(given) > 0 {
		if err := ps.store.SetKeys(ctx, p, given); err != nil {
			return err
		}
	}
	if subnet.IsValid() && p.Address.Masked() != subnet {
		if err := ps.store.SetAddress(ctx, p, netip.PrefixFrom(subnet.Addr().Next(), subnet.Bits())); err != nil {
			return err
		}
		p.Active = false // so that it is activated with the new address
	}
	if !p.Active {
		if err := ps.store.Activate(ctx, p); err != nil {
			return err
		}
	}
	return reportLane(ctx, p.Lane)
}

// bringUp waits until NetworkManager has activated a new profile, which it does by itself: at once, or when the daemon
// has removed the bridge that the lane had of its own. After a while it activates the profile.
func (ps *profiles) bringUp(ctx context.Context, lane string) error {
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if err := ps.refresh(ctx); err != nil {
			return err
		}
		p, err := ps.requireOne(lane)
		if err != nil || p.Active {
			return err
		}
		if time.Now().After(deadline) {
			return ps.store.Activate(ctx, p)
		}
	}
}
