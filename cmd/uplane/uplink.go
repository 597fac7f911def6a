package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"uplane/internal/api"
	"uplane/nm"
	"uplane/policy"
)

// withSuggestedUplink calls up. If that fails because a new lane needs an uplink, it suggests an idle one: at a terminal it
// asks and calls up again, elsewhere the suggestion is part of the error.
func withSuggestedUplink(ctx context.Context, lane string, up func(uplink string) error) error {
	err := up("")
	var refused *api.Error
	if !errors.As(err, &refused) || refused.Kind != api.UplinkMissing {
		return err
	}
	seen, nerr := nm.Once(ctx, "")
	if nerr != nil || !seen.Running {
		return err // as good as it gets
	}
	main, idle := policy.Idle(seen.Uplinks)
	switch {
	case main == nil:
		return hinted{fmt.Errorf("up %s: no uplink given, and NetworkManager is connected nowhere", lane), "nmcli device"}
	case len(idle) == 0:
		return hinted{fmt.Errorf("up %s: no uplink given, and none is idle: the host itself leaves by %s", lane, uplinkLabel(main)),
			"nmcli device connect …, or uplane up " + lane + " --uplink " + main.Interface}
	}
	why := fmt.Sprintf("%s is connected and idle; the host itself leaves by %s", uplinkLabel(idle[0]), uplinkLabel(main))
	if !terminal(os.Stdin) || !terminal(os.Stderr) {
		return hinted{fmt.Errorf("up %s: no uplink given; %s", lane, why), "uplane up " + lane + " --uplink " + idle[0].Interface}
	}
	fmt.Fprintf(os.Stderr, "%s.\nLet lane %s leave by %s? [Y/n] ", why, lane, idle[0].Interface)
	answer, rerr := bufio.NewReader(os.Stdin).ReadString('\n')
	if answer = strings.ToLower(strings.TrimSpace(answer)); rerr != nil || answer != "" && answer != "y" && answer != "yes" {
		return hinted{fmt.Errorf("up %s: no uplink chosen", lane), "uplane up " + lane + " --uplink …"}
	}
	return up(idle[0].Interface)
}

// uplinkLabel names an uplink in a sentence.
func uplinkLabel(u *policy.Uplink) string {
	if u.Connection == "" || u.Connection == u.Interface {
		return u.Interface
	}
	return u.Interface + " (" + u.Connection + ")"
}

// roleOf describes what the host uses an uplink for, "" if no lane can use it.
func roleOf(u, main *policy.Uplink, idle []*policy.Uplink) string {
	switch {
	case main != nil && u.Interface == main.Interface:
		return "the host itself leaves by it"
	case slices.ContainsFunc(idle, func(i *policy.Uplink) bool { return i.Interface == u.Interface }):
		return "idle"
	case u.Phase == policy.PhaseChanging:
		return "connecting"
	case u.Type == "wifi" || u.Type == "gsm" || u.Type == "ethernet" && u.Connection == "":
		return "not connected"
	}
	return ""
}
