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

func (s Sysctl) key() key { return key{kind: kindSysctl, name: s.Key} }

func (s Sysctl) dependsOn() []key { return []key{linkKey("", s.Link())} }

// Link is the interface that the switch belongs to.
func (s Sysctl) Link() string {
	if f := strings.Split(s.Key, "/"); len(f) == 5 {
		return f[3]
	}
	return ""
}

func (s Sysctl) add() []string           { return []string{fmt.Sprintf("sysctl -qw %s=%s", s.Key, s.Value)} }
func (s Sysctl) replace(Object) []string { return s.add() }
func (s Sysctl) remove() []string        { return nil }
