package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"uplane/internal/api"
)

// waitTimeout is how long a command waits for a lane to change its state.
const waitTimeout = 10 * time.Second

func upCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "up LANE",
		Short: "Bring a lane up; make it when there is none",
		Long: `Bring a lane up and wait until it is, or say why not. Options are written to
the lane's file, /etc/uplane/lanes.d/LANE.toml, which is made when there is none.
A new lane without --uplink gets the connected one that is idle, if you agree.`,
		Example: "  uplane up steam --uplink wlp6s0\n  uplane up steam --uplink ssid:Home --uplink type:gsm --mark 100",
		Args:    laneArgs(1, 1),
	}
	f := c.Flags()
	f.StringArray("uplink", nil, "where it leaves: wlp6s0, connection:NAME, uuid:…, ssid:NAME or type:wifi; more than once: in order of preference")
	f.String("subnet", "", "its IPv4 prefix, such as 10.0.1.0/24 (default: the next free one)")
	f.String("table", "", "its routing table (default: the next free one from 100 on)")
	f.String("mark", "", "also mark its packets, as the hand recipe does; 0x64/0xff has a mask")
	f.String("bridge", "", "its bridge's name, or false for none (default: ul-LANE)")
	c.RunE = func(c *cobra.Command, args []string) error {
		changes, err := upChanges(c)
		if err != nil {
			return usageError{err}
		}
		return withAgent(c.Context(), func(client *api.Client) error {
			return withSuggestedUplink(c.Context(), args[0], func(uplink string) error {
				if uplink != "" {
					changes["uplink"] = uplink
				}
				return up(c.Context(), client, args[0], changes)
			})
		})
	}
	return c
}

// upChanges returns the keys of the lane file that the options set.
func upChanges(c *cobra.Command) (map[string]any, error) {
	changes := map[string]any{}
	f := c.Flags()
	if f.Changed("uplink") {
		sel, _ := f.GetStringArray("uplink")
		changes["uplink"] = sel
		if len(sel) == 1 {
			changes["uplink"] = sel[0]
		}
	}
	if f.Changed("subnet") {
		changes["subnet"], _ = f.GetString("subnet")
	}
	if f.Changed("bridge") {
		name, _ := f.GetString("bridge")
		changes["bridge"] = name
		if name == "false" {
			changes["bridge"] = false
		}
	}
	for _, key := range []string{"table", "mark"} {
		if !f.Changed(key) {
			continue
		}
		text, _ := f.GetString(key)
		if key == "mark" && strings.Contains(text, "/") { // a mask; the lane file has it in one string
			changes[key] = text
			continue
		}
		n, err := strconv.ParseUint(text, 0, 32)
		if err != nil {
			return nil, fmt.Errorf("up: --%s %s: use a number from 1 to 4294967295", key, text)
		}
		changes[key] = uint32(n)
	}
	return changes, nil
}

// up asks the daemon for the lane and waits until it is up.
func up(ctx context.Context, client *api.Client, name string, changes map[string]any) error {
	notices, err := client.Changes(ctx)
	if err != nil {
		return err
	}
	lane, err := client.Up(ctx, name, changes)
	if err != nil {
		return fmt.Errorf("up %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	said := false
	for lane.State == "waiting" {
		if !said {
			fmt.Fprintf(os.Stderr, "lane %s is waiting: %s\n", name, lane.Reason)
			said = true
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("up %s: still waiting: %s; it comes up by itself when the uplink does, and nothing leaves until then", name, lane.Reason)
		case <-notices:
		}
		if lane, err = fetchLane(ctx, client, name); err != nil {
			return err
		}
	}
	if lane.State != "up" && lane.State != "degraded" {
		return fmt.Errorf("up %s: %s", name, lane.Reason)
	}
	fmt.Println(summary(lane))
	return nil
}
