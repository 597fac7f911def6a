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

// withOffer calls up, and where a lane is to be made without an uplink, up again
// with the one that suggests itself: a person at a terminal is asked, others are told.
func withOffer(ctx context.Context, lane string, up func(uplink string) error) error {
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
		return hinted{fmt.Errorf("up %s: no uplink given, and none is idle: the host itself leaves by %s", lane, naming(main)),
			"nmcli device connect …, or uplane up " + lane + " --uplink " + main.Interface}
	}
	why := fmt.Sprintf("%s is connected and idle; the host itself leaves by %s", naming(idle[0]), naming(main))
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

// naming is an uplink in a sentence.
func naming(u *policy.Uplink) string {
	if u.Connection == "" || u.Connection == u.Interface {
		return u.Interface
	}
	return u.Interface + " (" + u.Connection + ")"
}

// roleOf says what an uplink is for the host; empty: a lane has no use for it.
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
