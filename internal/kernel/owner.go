package kernel

import (
	"net/netip"

	"uplane/policy"
)

// owners tells which lane what carries no lane's name is part of, as far as the kernel's state shows it.
type owners struct {
	tables  map[uint32]string
	subnets map[netip.Prefix]string
}

// findOwners finds a subnet's lane by the addresses of its ends, and a table's by the subnet that it leads to.
func (k *Kernel) findOwners() owners {
	o := owners{map[uint32]string{}, map[netip.Prefix]string{}}
	for index, addrs := range k.addrs {
		if l := k.links[index]; l.ours() {
			for _, a := range addrs {
				o.subnets[a.Masked()] = l.lane()
			}
		}
	}
	for name, ns := range k.netns {
		for _, a := range ns.addrs { // a bridge of NetworkManager's names no lane
			if ns.links[a.link].kind == "veth" {
				o.subnets[a.prefix.Masked()] = name
			}
		}
	}
	for t, routes := range k.routes {
		o.table(t, routes)
	}
	return o
}

// table finds the lane of a table, which leads to its subnet.
func (o owners) table(t tableKey, routes []route) {
	for _, r := range routes {
		if lane := o.subnets[r.dst]; lane != "" && r.protocol == policy.Protocol && t.table != policy.LanesTable {
			o.tables[t.table] = lane
		}
	}
}

// object returns the lane of a rule or a route of ours.
func (o owners) object(x policy.Object) string {
	switch x := x.(type) {
	case policy.Rule:
		return o.rule(x)
	case policy.Route:
		return o.route(x)
	}
	return ""
}

// route returns the lane of a route of ours: that of its table, or of its subnet in the table of all lanes.
func (o owners) route(r policy.Route) string {
	if r.Table == policy.LanesTable {
		return o.subnets[r.Dst]
	}
	return o.tables[r.Table]
}

// rule returns the lane of a rule of ours; empty: of several, or nobody knows.
func (o owners) rule(r policy.Rule) string {
	for _, p := range []netip.Prefix{r.From, r.To} {
		if lane := o.subnets[p]; lane != "" {
			return lane
		}
	}
	if r.From.IsValid() || r.To.IsValid() {
		return "" // the host's answers go by the table of one lane for all
	}
	return o.tables[r.Table]
}
