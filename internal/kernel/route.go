package kernel

import (
	"net/netip"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// route is a route as the kernel has it.
type route struct {
	table, metric uint32
	dst           netip.Prefix
	via           netip.Addr
	link          int
	protocol      int
	kind          int // RTN_*
	onLink        bool
}

// manyTables is when one dump of all tables is cheaper than one for each.
const manyTables = 4

func (k *Kernel) readRoutes(p parts) error {
	if p.allRoutes || len(p.tables) > manyTables {
		routes, err := listRoutes(k.host, 0)
		if err != nil {
			return err
		}
		k.routes = make(map[uint32][]route)
		for _, r := range routes {
			k.routes[r.table] = append(k.routes[r.table], r)
		}
		return nil
	}
	for table := range p.tables {
		routes, err := k.direct.routes(table)
		if err != nil {
			return err
		}
		k.routes[table] = routes
	}
	return nil
}

// Glance returns the defaults of the main table when it may have changed since
// Observe and the links have not; it is a part of Observe for those in a hurry.
func (k *Kernel) Glance() (defaults []policy.HostRoute, ok bool) {
	if k.events == nil || !k.stale.mainOnly() {
		return nil, false
	}
	routes, err := k.direct.routes(policy.MainTable)
	if err != nil {
		k.stale.mark(func(p *parts) { p.table(policy.MainTable) })
		return nil, false
	}
	k.routes[policy.MainTable] = routes
	for _, r := range routes {
		if dev := k.links[r.link]; r.dst.Bits() == 0 && r.kind == unix.RTN_UNICAST && !dev.ours() {
			defaults = append(defaults, r.host(dev.name))
		}
	}
	return defaults, true
}

// listRoutes lists the IPv4 routes of a table, or with 0 of all.
func listRoutes(h *netlink.Handle, table uint32) ([]route, error) {
	list, err := dump("routes", func() ([]netlink.Route, error) {
		return h.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: int(table)}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, err
	}
	out := make([]route, 0, len(list))
	for _, r := range list {
		if r.Table == unix.RT_TABLE_LOCAL {
			continue
		}
		dst := prefix(r.Dst)
		if !dst.IsValid() {
			dst = default4
		}
		out = append(out, route{
			table: uint32(r.Table), metric: uint32(r.Priority), dst: dst, via: addr(r.Gw), link: r.LinkIndex,
			protocol: int(r.Protocol), kind: r.Type, onLink: r.Flags&unix.RTNH_F_ONLINK != 0,
		})
	}
	return out, nil
}

var default4 = netip.MustParsePrefix("0.0.0.0/0")

func (k *Kernel) observeRoutes(state policy.State, host *policy.Host) {
	for _, routes := range k.routes {
		for _, r := range routes {
			dev := k.links[r.link]
			switch {
			case r.protocol == policy.Protocol:
				state.Add(r.object("", dev.name))
			case dev.ours():
				// The kernel's own routes of our links.
			default:
				host.Routes = append(host.Routes, r.host(dev.name))
			}
		}
	}
}

func (r route) host(dev string) policy.HostRoute {
	return policy.HostRoute{Table: r.table, Dst: r.dst, Via: r.via, Dev: dev, Metric: r.metric, Protocol: r.protocol}
}

// routeKinds are the kernel's numbers of our types of route.
var routeKinds = map[policy.RouteType]int{
	policy.Unicast: unix.RTN_UNICAST, policy.Unreachable: unix.RTN_UNREACHABLE, policy.Blackhole: unix.RTN_BLACKHOLE,
}

func (r route) object(netns, dev string) policy.Route {
	out := policy.Route{Netns: netns, Table: r.table, Dst: r.dst, Metric: r.metric, Dev: dev, Via: r.via, OnLink: r.onLink}
	for name, kind := range routeKinds {
		if kind == r.kind {
			out.Type = name
			return out
		}
	}
	out.Type = policy.RouteType(strconv.Itoa(r.kind)) // none that we make
	return out
}

func (k *Kernel) applyRoute(op policy.Op, r policy.Route) error {
	k.stale.mark(func(p *parts) {
		if r.Netns == "" {
			p.table(r.Table)
		} else {
			p.allNetns = true
		}
	})
	if op.Verb == policy.Replace && r.Netns == "" {
		return k.replaceRoute(r)
	}
	return k.in(r.Netns, func(h *netlink.Handle) error {
		nr := &netlink.Route{
			Table: int(r.Table), Dst: ipNet(r.Dst), Priority: int(r.Metric), Protocol: policy.Protocol,
			Type: routeKinds[r.Type], Scope: netlink.SCOPE_LINK,
		}
		if r.Type != policy.Unicast {
			nr.Scope = netlink.SCOPE_UNIVERSE
		} else {
			index, err := k.index(h, r.Netns, r.Dev)
			if err != nil {
				return ignoreIf(op.Verb == policy.Remove, err)
			}
			nr.LinkIndex = index
			if r.Via.IsValid() {
				nr.Gw, nr.Scope = r.Via.AsSlice(), netlink.SCOPE_UNIVERSE
			}
			if r.OnLink {
				nr.Flags = int(netlink.FLAG_ONLINK)
			}
		}
		switch op.Verb {
		case policy.Remove:
			return ignore(h.RouteDel(nr), unix.ESRCH)
		case policy.Replace:
			return h.RouteReplace(nr)
		}
		return h.RouteAdd(nr)
	})
}

// replaceRoute is the way of a lane's new default.
func (k *Kernel) replaceRoute(r policy.Route) error {
	link := 0
	if r.Type == policy.Unicast {
		var err error
		if link, err = k.index(k.host, "", r.Dev); err != nil {
			return err
		}
	}
	return k.direct.replace(toRoute(r, link))
}

// index returns a link's index; the host's from what was observed, which spares
// the way to the new gateway a round trip.
func (k *Kernel) index(h *netlink.Handle, netns, name string) (int, error) {
	if netns == "" {
		if i, ok := k.indexes[name]; ok {
			return i, nil
		}
	}
	l, err := h.LinkByName(name)
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}
