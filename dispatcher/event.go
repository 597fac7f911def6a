// Package dispatcher reads what NetworkManager's dispatcher tells its scripts,
// and hands it on: to the daemon, or to a one-shot run where there is none.
//
// An event is believed only as far as this: something happened to an interface,
// by a profile. Its addresses are old news on a renewal or a reapply, and its
// strings come from profiles and from DHCP servers.
package dispatcher

import (
	"errors"
	"fmt"
	"strings"

	"uplane/policy"
)

// Action is what happened, as NetworkManager-dispatcher(8) names it.
type Action string

// The actions after which a lane may have to be another. Those that
// NetworkManager waits for in the middle of something (pre-down), or that say
// nothing of an interface's ways out (hostname, connectivity-change,
// dns-change), are not among them.
const (
	PreUp    Action = "pre-up"
	Up       Action = "up"
	Down     Action = "down"
	VPNPreUp Action = "vpn-pre-up"
	VPNUp    Action = "vpn-up"
	VPNDown  Action = "vpn-down"
	DHCP4    Action = "dhcp4-change"
	DHCP6    Action = "dhcp6-change"
	Reapply  Action = "reapply"
)

// Event is one call of a script.
type Event struct {
	Action    Action
	Interface string // what carries the traffic: ppp0, not the modem's port
	UUID      string // the profile's; empty when there is none or it has no sound form
	Profile   string // the profile's name, for messages only
	Told      Told
}

// ErrIrrelevant says that an event does not concern lanes.
var ErrIrrelevant = errors.New("nothing that concerns lanes")

// Parse reads a script's arguments, "INTERFACE ACTION", and its environment.
func Parse(args, environ []string) (Event, error) {
	if len(args) != 2 {
		return Event{}, fmt.Errorf("expected an interface and an action, not %d arguments", len(args))
	}
	e := Event{Action: Action(args[1])}
	switch e.Action {
	case PreUp, Up, Down, VPNPreUp, VPNUp, VPNDown, DHCP4, DHCP6, Reapply:
	default:
		return Event{}, ErrIrrelevant // NetworkManager's newer versions have actions of which nobody knows yet
	}
	env := parseEnviron(environ)
	for _, name := range []string{args[0], env["DEVICE_IP_IFACE"], env["DEVICE_IFACE"]} {
		if e.Interface = name; name != "" && name != "none" {
			break
		}
	}
	if err := policy.CheckInterfaceName(e.Interface); err != nil {
		return Event{}, fmt.Errorf("%s: %w", e.Action, err)
	}
	if env["CONNECTION_EXTERNAL"] == "1" && strings.HasPrefix(e.Interface, lanePrefix) {
		return Event{}, ErrIrrelevant
	}
	if isUUID(env["CONNECTION_UUID"]) {
		e.UUID = env["CONNECTION_UUID"]
	}
	e.Profile = limit(env["CONNECTION_ID"], maxProfile)
	e.Told = parseTold(env)
	return e, nil
}

// lanePrefix is how the bridges of lanes are named. To NetworkManager one that has no profile is a connection
// of somebody else's, which it tells of when we make or remove a lane: who stops the daemon right after that
// would see it started again.
const lanePrefix = "ul-"

// maxProfile is enough of a profile's name, which has no limit, for a message.
const maxProfile = 64

// limit cuts s after n bytes.
func limit(s string, n int) string { return s[:min(len(s), n)] }

// Held tells whether NetworkManager waits for the event's scripts before it calls
// the device activated. A VPN has no device of its own that it could hold back.
func (e Event) Held() bool { return e.Action == PreUp }

// String is the event for messages, safe to print.
func (e Event) String() string {
	s := string(e.Action) + " of " + e.Interface
	if e.Profile != "" {
		s += fmt.Sprintf(" (%q)", e.Profile)
	}
	if told := e.Told.String(); told != "" {
		s += ", said to have " + told
	}
	return s
}

// parseEnviron returns the variables; of several of one name the first counts,
// as for getenv(3).
func parseEnviron(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, kv := range environ {
		if name, value, ok := strings.Cut(kv, "="); ok {
			if _, twice := env[name]; !twice {
				env[name] = value
			}
		}
	}
	return env
}

// isUUID tells whether s has the form of RFC 9562, as NetworkManager writes it.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'):
			return false
		}
	}
	return true
}
