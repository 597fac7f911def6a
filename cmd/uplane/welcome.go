package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"

	"uplane/internal/api"
	"uplane/nm"
	"uplane/policy"
)

// welcome is the output of uplane without a command: uplinks, lanes and what to do next.
func welcome(ctx context.Context, w io.Writer) error {
	var lanes []api.Lane
	err := withDaemon(ctx, func(client *api.Client) (err error) {
		lanes, err = client.List(ctx)
		return err
	})
	seen, nerr := nm.Once(ctx, "")
	main, idle := policy.Idle(seen.Uplinks)

	fmt.Fprint(w, "Uplane pins programs to an uplink: they leave by it, or not at all.\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	daemon := "running"
	if err != nil {
		daemon = err.Error()
	}
	fmt.Fprintf(t, "daemon\t%s\n", daemon)
	title := "uplinks"
	for _, u := range seen.Uplinks {
		if role := roleOf(&u, main, idle); role != "" {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", title, u.Interface, u.Type, dash(u.Connection), role)
			title = ""
		}
	}
	if title != "" {
		fmt.Fprintf(t, "%s\t%s\n", title, noUplinks(seen, nerr))
	}
	title = "lanes"
	for _, l := range lanes {
		fmt.Fprintf(t, "%s\t%s\n", title, summary(l))
		title = ""
	}
	if title != "" && err == nil {
		fmt.Fprintf(t, "%s\tnone yet\n", title)
	}
	if ferr := t.Flush(); ferr != nil {
		return ferr
	}
	fmt.Fprintf(w, "\nnext: %s\nmore: uplane --help\n", next(lanes, err, seen, main, idle))
	return nil
}

// noUplinks explains why there are no uplinks.
func noUplinks(seen nm.Snapshot, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case !seen.Running:
		return "NetworkManager is not running"
	}
	return "NetworkManager has no device for one"
}

// next returns the command to type next.
func next(lanes []api.Lane, err error, seen nm.Snapshot, main *policy.Uplink, idle []*policy.Uplink) string {
	sudo := ""
	if os.Geteuid() != 0 {
		sudo = "sudo "
	}
	up := slices.IndexFunc(lanes, func(l api.Lane) bool { return l.State == "up" || l.State == "degraded" })
	switch {
	case errors.Is(err, api.ErrNoDaemon) && !masked():
		return sudo + "systemctl enable --now uplaned"
	case err != nil:
		return hint(err)
	case !seen.Running:
		return sudo + "systemctl start NetworkManager"
	case up >= 0:
		return sudo + "uplane run " + lanes[up].Name + " -- ping -c1 example.org"
	case len(lanes) > 0:
		return "uplane status " + lanes[0].Name
	case len(idle) > 0:
		return sudo + "uplane up steam --uplink " + idle[0].Interface + "    (steam is the lane's name: choose your own)"
	case main == nil:
		return "nmcli device    (connect something first)"
	}
	return "nmcli device wifi    (connect a second uplink, which lanes can have)"
}
