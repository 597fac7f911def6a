package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"uplane/internal/api"
	"uplane/internal/config"
	"uplane/nm"
	"uplane/policy"
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

// desk is what the profile commands work with.
type desk struct {
	store  *nm.Store
	all    []nm.Stored
	dirs   config.Dirs
	config config.Config
}

func openDesk(c *cobra.Command) (*desk, error) {
	store, err := nm.OpenStore()
	if err != nil {
		return nil, err
	}
	all, err := store.List(c.Context())
	if err != nil {
		return nil, err
	}
	dir, _ := c.Flags().GetString("config-dir")
	d := &desk{store: store, all: all, dirs: config.Dirs{Etc: dir, Run: "/run/uplane", Lib: "/usr/lib/uplane"}}
	d.config, _ = config.Load(d.dirs) // what is wrong with files the daemon tells
	return d, nil
}

// again reads the profiles again.
func (d *desk) again(ctx context.Context) (err error) {
	d.all, err = d.store.List(ctx)
	return err
}

// lane returns the profiles that ask for a lane, an active one first.
func (d *desk) lane(name string) []nm.Stored {
	var out []nm.Stored
	for _, p := range d.all {
		switch {
		case p.Lane != name:
		case p.Active:
			out = append([]nm.Stored{p}, out...)
		default:
			out = append(out, p)
		}
	}
	return out
}

// one returns the profile of a lane.
func (d *desk) one(name string) (nm.Stored, error) {
	found := d.lane(name)
	if len(found) == 0 {
		return nm.Stored{}, fmt.Errorf("lane %s: %w; uplane profile list shows those there are", name, nm.ErrNoProfile)
	}
	return found[0], nil
}

// file returns the lane that a file defines.
func (d *desk) file(name string) (config.Lane, bool) {
	for _, l := range d.config.Lanes {
		if l.Name == name {
			return l, true
		}
	}
	return config.Lane{}, false
}

// profile finds one by its name or UUID.
func (d *desk) profile(name string) (nm.Stored, error) {
	var found []nm.Stored
	for _, p := range d.all {
		if p.UUID == name {
			return p, nil
		}
		if p.Name == name {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nm.Stored{}, fmt.Errorf("%s: %w; nmcli connection shows those there are", name, nm.ErrNoProfile)
	}
	return nm.Stored{}, fmt.Errorf("%s: %d profiles have that name; use the UUID, which nmcli connection shows", name, len(found))
}

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
	d, err := openDesk(c)
	if err != nil {
		return err
	}
	p, err := d.one(name)
	if err != nil {
		return err
	}
	if _, exists := d.file(name); keep && !exists {
		if err := d.writeFile(p); err != nil {
			return err
		}
		if err := reload(ctx); err != nil {
			return err
		}
	}
	bridge := linkIndex(p.Interface)
	for _, p := range d.lane(name) {
		if err := d.store.Delete(ctx, p); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(patience); p.Active && linkIndex(p.Interface) == bridge && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond) // NetworkManager takes 50 ms to take the bridge down
	}
	if err := reload(ctx); err != nil { // the daemon has then seen that, too
		return err
	}
	if _, goesOn := d.file(name); keep || goesOn {
		return reportLane(ctx, name)
	}
	return awaitLane(ctx, name, func(_ api.Lane, exists bool) bool { return !exists })
}

// linkIndex is 0 for a link that is not there.
func linkIndex(name string) int {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return 0
	}
	return link.Index
}

// writeFile writes a lane file that says what a profile does.
func (d *desk) writeFile(p nm.Stored) error {
	lane, err := d.config.FromProfile(p.Lane, p.Keys)
	if err != nil {
		return fmt.Errorf("profile %s: %w", p.Name, err)
	}
	keys := map[string]any{"uplink": texts(lane.Uplink)}
	if p.Address.IsValid() && policy.CheckSubnet(p.Address.Masked()) == nil {
		keys["subnet"] = p.Address.Masked().String()
	}
	if lane.Table != 0 {
		keys["table"] = lane.Table
	}
	if lane.Mark != 0 {
		keys["mark"] = lane.Mark
	}
	if len(lane.DNS) > 0 {
		keys["dns"] = texts(lane.DNS)
	}
	if len(lane.Allow) > 0 {
		keys["allow"] = texts(lane.Allow)
	}
	if lane.IPv6 != policy.IPv6Auto {
		keys["ipv6"] = string(lane.IPv6)
	}
	_, err = config.New(d.dirs, p.Lane, keys)
	return err
}

func texts[T fmt.Stringer](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = v.String()
	}
	return out
}

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
		d, err := openDesk(c)
		if err != nil {
			return err
		}
		p, err := d.profile(args[0])
		if err == nil && *all {
			err = d.store.Unlimit(c.Context(), p)
		} else if err == nil {
			err = d.store.Limit(c.Context(), p, args[1:])
		}
		if err != nil {
			return fmt.Errorf("profile limit: %w", err)
		}
		return nil
	}
	return c
}

// reload makes the daemon read the lane files again; one that does not run will when it starts.
func reload(ctx context.Context) error {
	return ignoreNoDaemon(withDaemon(ctx, func(client *api.Client) error {
		_, err := client.Reload(ctx)
		return err
	}))
}

func ignoreNoDaemon(err error) error {
	if errors.Is(err, api.ErrNoDaemon) {
		return nil
	}
	return err
}

// awaitLane waits until the daemon has a lane as ok says, and gives up silently.
func awaitLane(ctx context.Context, name string, ok func(l api.Lane, exists bool) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return ignoreNoDaemon(withDaemon(ctx, func(client *api.Client) error {
		for {
			lanes, err := client.List(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			lane, err := findIn(lanes, name)
			if ok(lane, err == nil) {
				return nil
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}))
}

// settling is how long a lane may be degraded because NetworkManager is not done with its bridge.
const settling = 3 * time.Second

// reportLane waits until a lane is up and says so, or why it is not.
func reportLane(ctx context.Context, name string) error {
	var last api.Lane
	settled := time.Now().Add(settling)
	err := awaitLane(ctx, name, func(l api.Lane, exists bool) bool {
		last = l
		return exists && (l.State == "up" || l.State == "degraded" && time.Now().After(settled) || l.State == "error")
	})
	switch {
	case err != nil:
		return err
	case last.Name == "":
		fmt.Fprintf(os.Stderr, "the daemon is not running: the lane comes up with it (systemctl start uplaned)\n")
	case last.State == "up" || last.State == "degraded":
		fmt.Println(sentence(last))
	case last.State == "waiting":
		return fmt.Errorf("lane %s is still waiting: %s; it comes up by itself when the uplink does, and nothing leaves until then", name, last.Reason)
	default:
		return fmt.Errorf("lane %s is %s", name, strings.TrimSuffix(last.State+": "+last.Reason, ": "))
	}
	return nil
}
