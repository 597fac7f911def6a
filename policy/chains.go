package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// chains collects every lane's firewall rules, one a line; the chains are shared.
type chains struct{ forward, nat, mangle strings.Builder }

// lane adds the rules of one lane whose interface on the host is outer. u is
// nil while the lane waits: then only the floor is left.
func (c *chains) lane(l Lane, subnet netip.Prefix, outer string, u *Uplink) {
	net := subnet.String()
	for _, p := range l.Allow {
		fmt.Fprintf(&c.forward, "-s %s -d %s -i %s -j ACCEPT\n", net, p, outer)
		fmt.Fprintf(&c.forward, "-s %s -d %s -o %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n", p, net, outer)
		fmt.Fprintf(&c.nat, "-s %s -d %s -j MASQUERADE\n", net, p)
	}
	if u != nil {
		fmt.Fprintf(&c.forward, "-s %s -i %s -o %s -j ACCEPT\n", net, outer, u.Interface)
		fmt.Fprintf(&c.forward, "-d %s -i %s -o %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n", net, u.Interface, outer)
		fmt.Fprintf(&c.nat, "-s %s -o %s -j MASQUERADE\n", net, u.Interface)
	}
	fmt.Fprintf(&c.forward, "-i %s -j DROP\n-o %s -j DROP\n", outer, outer)
	if l.Mark != 0 {
		fmt.Fprintf(&c.mangle, "-i %s -j MARK --set-xmark %#x/0xffffffff\n", outer, l.Mark)
	}
}

// into puts the chains that have rules into s.
func (c *chains) into(s State) {
	put := func(table, name, hook string, rules *strings.Builder) {
		if rules.Len() > 0 {
			s.Add(Chain{Table: table, Name: name, Hook: hook, Jumped: true, Rules: strings.TrimSuffix(rules.String(), "\n")})
		}
	}
	put("filter", ForwardChain, "FORWARD", &c.forward)
	put("nat", PostroutingChain, "POSTROUTING", &c.nat)
	put("mangle", PreroutingChain, "PREROUTING", &c.mangle)
}
