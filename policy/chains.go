package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// chains collects every lane's firewall rules; the chains are shared.
type chains struct{ forward, nat, mangle []string }

func newChains() *chains { return &chains{} }

// lane adds the rules of one lane whose interface on the host is outer. u is
// nil while the lane waits: then only the floor is left.
func (c *chains) lane(l Lane, subnet netip.Prefix, outer string, u *Uplink) {
	accept := func(format string, args ...any) { c.forward = append(c.forward, fmt.Sprintf(format, args...)) }
	for _, p := range l.Allow {
		accept("-s %s -d %s -i %s -j ACCEPT", subnet, p, outer)
		accept("-s %s -d %s -o %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", p, subnet, outer)
		c.nat = append(c.nat, fmt.Sprintf("-s %s -d %s -j MASQUERADE", subnet, p))
	}
	if u != nil {
		accept("-s %s -i %s -o %s -j ACCEPT", subnet, outer, u.Interface)
		accept("-d %s -i %s -o %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", subnet, u.Interface, outer)
		c.nat = append(c.nat, fmt.Sprintf("-s %s -o %s -j MASQUERADE", subnet, u.Interface))
	}
	accept("-i %s -j DROP", outer)
	accept("-o %s -j DROP", outer)
	if l.Mark != 0 {
		c.mangle = append(c.mangle, fmt.Sprintf("-i %s -j MARK --set-xmark %#x/0xffffffff", outer, l.Mark))
	}
}

// into puts the chains that have rules into s.
func (c *chains) into(s State) {
	put := func(table, name, hook string, rules []string) {
		if len(rules) > 0 {
			s.Add(Chain{Table: table, Name: name, Hook: hook, Jumped: true, Rules: strings.Join(rules, "\n")})
		}
	}
	put("filter", ForwardChain, "FORWARD", c.forward)
	put("nat", PostroutingChain, "POSTROUTING", c.nat)
	put("mangle", PreroutingChain, "PREROUTING", c.mangle)
}
