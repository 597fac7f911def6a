package policy

import (
	"fmt"
	"strings"
)

// Sysctl is a kernel switch of one interface. It is never removed, only set:
// what was there before is saved, and wanted again when no lane needs it.
type Sysctl struct {
	Key   string // with slashes, as interface names may have dots: net/ipv4/conf/wlp6s0/forwarding
	Value string
}

// stpKey is the switch of a bridge's spanning tree protocol. It has no file among the
// others, but is one: it is saved, set and put back like them.
func stpKey(bridge string) string { return "net/bridge/conf/" + bridge + "/stp_state" }

// IsSTP tells whether the switch is that of a bridge's spanning tree protocol.
func (s Sysctl) IsSTP() bool { return s.Key == stpKey(s.Link()) }

// isForwarding tells whether the switch is that of IPv4 forwarding.
func (s Sysctl) isForwarding() bool {
	return strings.HasPrefix(s.Key, "net/ipv4/") && strings.HasSuffix(s.Key, "/forwarding")
}

// ours is the value that we set the switch to, whatever its present one.
func (s Sysctl) ours() string {
	switch {
	case s.IsSTP():
		return "0"
	case strings.HasSuffix(s.Key, "/arp_announce"):
		return "2"
	}
	return "1"
}

func (s Sysctl) key() key { return key{kind: kindSysctl, name: s.Key} }

// rank: forwarding goes before what keeps strangers from using it, and reverse-path filters must
// see the witness before a rule wants it.
func (s Sysctl) rank() kind {
	if s.isForwarding() && s.Value == "0" {
		return kindFloor
	}
	if strings.HasSuffix(s.Key, "/src_valid_mark") {
		return kindEarlySysctl
	}
	return kindSysctl
}

func (s Sysctl) dependsOn() []key { return []key{linkKey("", s.Link())} }

// Link is the interface that the switch belongs to.
func (s Sysctl) Link() string {
	_, rest, _ := strings.Cut(s.Key, "/conf/")
	link, _, _ := strings.Cut(rest, "/")
	return link
}

func (s Sysctl) add() []string {
	if !s.IsSTP() {
		return []string{fmt.Sprintf("sysctl -qw %s=%s", s.Key, s.Value)}
	}
	lines := []string{fmt.Sprintf("ip link set dev %s type bridge stp_state %s", s.Link(), s.Value)}
	if s.Value == "0" { // the port's state stays as it was
		lines = append(lines, fmt.Sprintf("for p in /sys/class/net/%s/brif/*; do bridge link set dev ${p##*/} state 3; done", s.Link()))
	}
	return lines
}

func (s Sysctl) replace(Object) []string { return s.add() }
func (s Sysctl) remove() []string        { return nil }
