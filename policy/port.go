package policy

import (
	"fmt"
	"slices"
	"strings"
)

// A lane's bridge has one port, the lane's veth. What passes between two ports
// passes at layer 2, where no rule, table or chain sees it: with another port the
// lane would leak, by IPv6 even to a router that nobody asked for. So a lane whose
// bridge others use, too, has no veth. Both are as they were once that port is gone.

// ports returns others' links by the link that they are ports of.
func (h *Host) ports() map[string][]string {
	var out map[string][]string
	for name, l := range h.Links {
		if l.Master == "" {
			continue
		}
		if out == nil {
			out = map[string][]string{}
		}
		out[l.Master] = append(out[l.Master], name)
	}
	for _, names := range out {
		slices.Sort(names)
	}
	return out
}

// shared says by what a lane's bridge is connected to more than the lane, and what
// to do; empty: by nothing.
func (b *builder) shared(l *Lane) string {
	bridge := b.allocs[l.Name].Bridge
	link := b.in.Host.Links[bridge] // none if the bridge is ours
	ports := b.ports[bridge]
	switch {
	case bridge == "":
		return ""
	case l.External && !link.Bridge:
		return fmt.Sprintf("%s is no bridge: give the profile another interface-name", bridge)
	case l.External && link.Master != "":
		return fmt.Sprintf("bridge %s is a port of %s, by which the lane would leak: ip link set %s nomaster", bridge, link.Master, bridge)
	case len(ports) > 0:
		return fmt.Sprintf("bridge %s has a port that is not the lane's, %s, by which it would leak: ip link set %s nomaster",
			bridge, strings.Join(ports, ", "), ports[0])
	}
	return ""
}
