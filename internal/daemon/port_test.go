package daemon

import (
	"strings"
	"testing"

	"uplane/policy"
)

// TestForeignPort has somebody else's port on a lane's bridge, its own or NetworkManager's.
func TestForeignPort(t *testing.T) {
	for name, start := range map[string]func(*machine) *daemon{
		"file": func(m *machine) *daemon { return newDaemon(t, m, "steam") },
		"profile": func(m *machine) *daemon {
			d := newDaemon(t, m)
			d.profiles(steamProfile(true))
			return d
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine()
			stp := "net/bridge/conf/ul-steam/stp_state"
			if name == "profile" {
				m.sysctls[stp] = "1"
			}
			d := start(m)
			d.settle()
			d.requireState("steam", policy.Up, "")
			up := d.trace()
			if on, _ := m.sysctl(stp); on != "0" {
				t.Error("the lane would be silent for 30 s")
			}
			for range 3 { // and no fight comes of it
				m.links["eth7"] = policy.HostLink{MTU: 1500, Running: true, Master: "ul-steam"}
				d.settle()
				d.requireState("steam", policy.Error, "ip link set eth7 nomaster")
				if m.count("type veth") != 0 || m.count("ip netns add steam") != 1 {
					t.Errorf("closed:\n%s", d.trace())
				}
				if got, _ := m.sysctl("net/ipv4/conf/ul-steam/forwarding"); name == "profile" && (got != "0" || m.sysctls[stp] != "1") {
					t.Errorf("the bridge is not as it was:\n%s", d.trace())
				}
				// A daemon that starts meanwhile finds the same.
				d.restart()
				d.settle()
				d.requireState("steam", policy.Error, "eth7")
				if name == "profile" && strings.Contains(d.trace(), "UPLANE-") {
					t.Errorf("rules for a bridge that others use, too:\n%s", d.trace())
				}
				delete(m.links, "eth7")
				d.settle()
				d.requireState("steam", policy.Up, "")
				if got := d.trace(); got != up {
					t.Errorf("open again:\n%s\nnot\n%s", got, up)
				}
			}
		})
	}
}
