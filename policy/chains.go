package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// chains collects every lane's firewall rules, one a line; the chains are shared.
type chains struct{ forward, nat, mangle strings.Builder }

// lane adds the rules of one lane whose interface on the host is outer. u is
// nil while the lane waits: then only the floor is left.
func (c *chains) lane(l Lane, subnet netip.Prefix, outer, veth string, u *Uplink) {
	const established = " -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
	net := subnet.String()
	for _, p := range l.Allow {
		allowed := p.String()
		rule(&c.forward, "-s ", net, " -d ", allowed, " -i ", outer, " -j ACCEPT")
		rule(&c.forward, "-s ", allowed, " -d ", net, " -o ", outer, established)
		rule(&c.nat, "-s ", net, " -d ", allowed, " -j MASQUERADE")
	}
	if u != nil {
		rule(&c.forward, "-s ", net, " -i ", outer, " -o ", u.Interface, " -j ACCEPT")
		rule(&c.forward, "-d ", net, " -i ", u.Interface, " -o ", outer, established)
		rule(&c.nat, "-s ", net, " -o ", u.Interface, " -j MASQUERADE")
	}
	drop := []string{outer}
	if l.External {
		drop = append(drop, veth) // NetworkManager takes it out of the bridge whenever it activates the profile
	}
	for _, link := range drop {
		c.drop(link)
	}
	if l.Mark != 0 {
		rule(&c.mangle, "-i ", outer, " -j MARK --set-xmark ", fmt.Sprintf("%#x", l.Mark), "/0xffffffff")
	}
}

// drop lets nothing by that a link brings or takes.
func (c *chains) drop(link string) {
	rule(&c.forward, "-i ", link, " -j DROP")
	rule(&c.forward, "-o ", link, " -j DROP")
}

// drops tells whether s has the rules that drop all that a link brings and takes.
func (s State) drops(link string) bool {
	for o := range s {
		if c, ok := o.(Chain); ok && c.Name == ForwardChain && c.Jumped {
			lines := c.Lines()
			return slices.Contains(lines, "-i "+link+" -j DROP") && slices.Contains(lines, "-o "+link+" -j DROP")
		}
	}
	return false
}

// rule adds a rule, from its words. Without fmt a pass over a thousand lanes
// takes a sixth less time.
func rule(chain *strings.Builder, words ...string) {
	for _, w := range words {
		chain.WriteString(w)
	}
	chain.WriteByte('\n')
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
