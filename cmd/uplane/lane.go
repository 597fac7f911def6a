package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"uplane/internal/api"
)

// laneArgs checks that a command has between least and most lane names.
func laneArgs(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usageError{fmt.Errorf("%s: expected a lane's name: uplane %s", c.Name(), c.Use)}
		}
		return nil
	}
}

// fetchLane asks the daemon for one lane.
func fetchLane(ctx context.Context, client *api.Client, name string) (api.Lane, error) {
	lanes, err := client.List(ctx)
	if err != nil {
		return api.Lane{}, err
	}
	return findLane(lanes, name)
}

// findLane returns the lane of that name.
func findLane(lanes []api.Lane, name string) (api.Lane, error) {
	for _, l := range lanes {
		if l.Name == name {
			return l, nil
		}
	}
	return api.Lane{}, fmt.Errorf("%s: no such lane; uplane list shows those there are", name)
}

// requireLane returns an error with a hint if the daemon has no lane of that name.
func requireLane(ctx context.Context, name string) error {
	return withDaemon(ctx, func(client *api.Client) error {
		lanes, err := client.List(ctx)
		if err != nil {
			return err
		}
		if _, err := findLane(lanes, name); err != nil {
			return hinted{err, "uplane up " + name}
		}
		return nil
	})
}

// awaitLane waits until ok returns true for a lane. It returns nil on timeout, too.
func awaitLane(ctx context.Context, name string, ok func(l api.Lane, exists bool) bool) error {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
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
			lane, err := findLane(lanes, name)
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

// settling is how long a lane may be degraded while NetworkManager still configures its bridge.
const settling = 3 * time.Second

// reportLane waits until a lane is up and prints that, or returns why it is not.
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
		fmt.Println(summary(last))
	case last.State == "waiting":
		return fmt.Errorf("lane %s is still waiting: %s; it comes up by itself when the uplink does, and nothing leaves until then", name, last.Reason)
	default:
		return fmt.Errorf("lane %s is %s", name, strings.TrimSuffix(last.State+": "+last.Reason, ": "))
	}
	return nil
}

// summary describes a lane in one line.
func summary(l api.Lane) string {
	s := "lane " + l.Name + " is " + l.State
	switch l.State {
	case "up", "degraded":
		s += " by " + l.Uplink.Interface
	case "waiting":
		s += ", so nothing leaves"
	}
	if l.Reason != "" {
		s += ": " + l.Reason
	}
	return s
}
