package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// route is a route as the kernel has it.
type route struct {
	table, metric uint32
	dst           netip.Prefix
	via           netip.Addr
	link          int // of a unicast route
	protocol      int
	kind          int // RTN_*
	onLink        bool
	hops          bool // it has several next hops; via and link are the best one's
	source        bool // it prefers a source address, and goes with it
}

// manyTables is when one dump of all tables is cheaper than one for each.
const manyTables = 4

func (k *Kernel) readRoutes(p parts) error {
	k.addQuiet(&p)
	for _, af := range []uint8{unix.AF_INET, unix.AF_INET6} {
		var tables []uint32
		for t := range p.tables {
			if t.family == af {
				tables = append(tables, t.table)
			}
		}
		if p.allRoutes&familiesOf(af) != 0 || len(tables) > manyTables {
			routes, err := k.direct.routes(af, 0, 0)
			if err != nil {
				return err
			}
			for t := range k.routes {
				if t.family == af {
					delete(k.routes, t)
					put(&k.dirty.tables, t)
				}
			}
			for _, r := range routes {
				t := tableKey{af, r.table}
				put(&k.dirty.tables, t)
				k.routes[t] = append(k.routes[t], r)
			}
			continue
		}
		for _, table := range tables {
			if err := k.readTable(tableKey{af, table}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *Kernel) readTable(t tableKey) error {
	routes, err := k.direct.routes(t.family, t.table, 0)
	if err != nil {
		return err
	}
	put(&k.dirty.tables, t)
	if len(routes) == 0 {
		delete(k.routes, t)
	} else {
		k.routes[t] = routes
	}
	return nil
}

// addQuiet adds the IPv4 tables that may have changed without an event: a link that goes down takes
// its routes, an address those that prefer it, and the best of several hops is one whose link works.
// IPv6 always tells.
func (k *Kernel) addQuiet(p *parts) {
	links := !p.links.empty()
	if !links && !p.addrGone {
		return
	}
	for t, routes := range k.routes {
		if t.family == unix.AF_INET && slices.ContainsFunc(routes, func(r route) bool {
			return p.down[r.link] || links && r.hops || p.addrGone && r.source
		}) {
			p.table(t.family, t.table)
		}
	}
}

// Glance returns the main table's defaults by some links, of the families in which that table may have changed since
// Observe. It costs one list for each link and family, of what goes by the link alone: with a thousand lanes the table
// has a thousand subnets besides.
func (k *Kernel) Glance(links []string) (defaults []policy.HostRoute, ok bool) {
	if k.events == nil {
		return nil, false
	}
	changed := k.stale.mainTables()
	if changed == 0 {
		return nil, false
	}
	for _, name := range links {
		index := k.indexes[name]
		if !k.direct.hasLink(index, name) {
			return nil, false // renamed, or made anew
		}
		if err := changed.each(func(af uint8) error {
			routes, err := k.direct.routes(af, policy.MainTable, index)
			for _, r := range routes {
				if r.dst.Bits() == 0 && r.kind == unix.RTN_UNICAST {
					defaults = append(defaults, r.host(name))
				}
			}
			return err
		}); err != nil {
			return nil, false
		}
	}
	return defaults, true
}

// routes lists a family's routes of one table, or with 0 of all, by one link, or with 0 by any; none when there is no
// such table or family.
func (d *direct) routes(af uint8, table uint32, link int) ([]route, error) {
	return dump("routes", func() ([]route, error) {
		var out []route
		body := appendRtMsg(nil, unix.RtMsg{Family: af}, table)
		if link != 0 {
			body = appendNumber(body, unix.RTA_OIF, uint32(link))
		}
		err := d.do(unix.RTM_GETROUTE, unix.NLM_F_DUMP, body, func(body []byte) {
			// Without IPv6 the kernel answers with all that it has.
			if r, ok := parseRoute(body); ok && addrFamily(r.dst.Addr()) == familiesOf(af) {
				out = append(out, r)
			}
		})
		if err == unix.ENOENT || err == unix.EAFNOSUPPORT || err == unix.EOPNOTSUPP {
			return nil, nil
		}
		return out, err
	})
}

// parseRoute reads a route message; false for what is of no interest: the local table, multicast and
// link-local destinations, what is no IP route.
func parseRoute(body []byte) (route, bool) {
	if len(body) < unix.SizeofRtMsg {
		return route{}, false
	}
	m := (*unix.RtMsg)(unsafe.Pointer(&body[0]))
	if familiesOf(m.Family) == 0 || m.Flags&unix.RTM_F_CLONED != 0 {
		return route{}, false
	}
	r := route{
		table: uint32(m.Table), protocol: int(m.Protocol), kind: int(m.Type), onLink: m.Flags&unix.RTNH_F_ONLINK != 0,
	}
	dst := familyOf(m.Family).Default().Addr()
	for kind, v := range attrs(body[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_TABLE:
			r.table = number(v)
		case unix.RTA_PRIORITY:
			r.metric = number(v)
		case unix.RTA_OIF:
			r.link = int(number(v))
		case unix.RTA_DST:
			dst = address(v)
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			r.via = gateway(kind, v)
		case unix.RTA_PREFSRC:
			r.source = true
		case unix.RTA_MULTIPATH:
			r.hops = true
			r.link, r.via, r.onLink = bestHop(v)
		}
	}
	if r.kind != unix.RTN_UNICAST {
		r.link = 0 // IPv6 names lo
	}
	r.dst = netip.PrefixFrom(dst, int(m.Dst_len))
	return r, r.dst.IsValid() && familiesOf(m.Family) == addrFamily(dst) && r.table != unix.RT_TABLE_LOCAL &&
		!dst.IsMulticast() && !isLinkLocal6(dst)
}

// addrFamily is the set of an address's family.
func addrFamily(a netip.Addr) families {
	if a.Is4() {
		return v4
	}
	return v6
}

// gateway reads RTA_GATEWAY or RTA_VIA, which has a gateway of the other family behind its number.
func gateway(kind uint16, v []byte) netip.Addr {
	if kind == unix.RTA_VIA && len(v) >= 2 {
		v = v[2:]
	}
	return address(v)
}

// bestHop returns the next hop of several that takes most packets, of those whose links work.
func bestHop(b []byte) (link int, via netip.Addr, onLink bool) {
	best := -1
	for len(b) >= unix.SizeofRtNexthop {
		hop := (*unix.RtNexthop)(unsafe.Pointer(&b[0]))
		size := int(hop.Len)
		if size < unix.SizeofRtNexthop || size > len(b) {
			break
		}
		weight := int(hop.Hops) + 1
		if hop.Flags&(unix.RTNH_F_DEAD|unix.RTNH_F_LINKDOWN) != 0 {
			weight = 0
		}
		if weight > best {
			best, link, via, onLink = weight, int(hop.Ifindex), netip.Addr{}, hop.Flags&unix.RTNH_F_ONLINK != 0
			for kind, v := range attrs(b[unix.SizeofRtNexthop:size]) {
				if kind == unix.RTA_GATEWAY || kind == unix.RTA_VIA {
					via = gateway(kind, v)
				}
			}
		}
		b = b[min(len(b), (size+unix.RTNH_ALIGNTO-1)&^(unix.RTNH_ALIGNTO-1)):]
	}
	return link, via, onLink
}

// listRoutes lists a namespace's routes of both families, or only those of one table.
func listRoutes(h *netlink.Handle, table uint32) ([]route, error) {
	list, err := dump("routes", func() ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: int(table)}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, err
	}
	out := make([]route, 0, len(list))
	for _, r := range list {
		if r.Table == unix.RT_TABLE_LOCAL || r.Family != unix.AF_INET && r.Family != unix.AF_INET6 {
			continue
		}
		dst := prefix(r.Dst)
		if !dst.IsValid() {
			dst = familyOf(uint8(r.Family)).Default()
		}
		hr := route{
			table: uint32(r.Table), metric: uint32(r.Priority), dst: dst, via: addr(r.Gw),
			protocol: int(r.Protocol), kind: r.Type, onLink: r.Flags&unix.RTNH_F_ONLINK != 0, source: r.Src != nil,
		}
		if r.Type == unix.RTN_UNICAST {
			hr.link = r.LinkIndex
		}
		out = append(out, hr)
	}
	return out, nil
}

// routeObjects returns the routes of a table that are ours.
func (k *Kernel) routeObjects(t tableKey, who owners) (out []object) {
	for _, r := range k.routes[t] {
		if r.protocol == policy.Protocol {
			o := r.object("", k.links[r.link].name)
			out = append(out, object{o, who.route(o)})
		}
	}
	return out
}

func (r route) host(dev string) policy.HostRoute {
	return policy.HostRoute{Table: r.table, Dst: r.dst, Via: r.via, Dev: dev, Metric: r.metric, Protocol: r.protocol}
}

// routeKinds are the kernel's numbers of our types of route.
var routeKinds = map[policy.RouteType]int{
	policy.Unicast: unix.RTN_UNICAST, policy.Unreachable: unix.RTN_UNREACHABLE, policy.Blackhole: unix.RTN_BLACKHOLE,
	policy.Throw: unix.RTN_THROW,
}

// noMetric6 is the metric that the kernel gives an IPv6 route that comes without one. It is what
// policy's 0 stands for in that family.
const noMetric6 = 1024

func toMetric(dst netip.Prefix, metric uint32) uint32 {
	if metric == 0 && dst.Addr().Is6() {
		return noMetric6
	}
	return metric
}

func fromMetric(dst netip.Prefix, metric uint32) uint32 {
	if metric == noMetric6 && dst.Addr().Is6() {
		return 0
	}
	return metric
}

func (r route) object(netns, dev string) policy.Route {
	out := policy.Route{Netns: netns, Table: r.table, Dst: r.dst, Metric: fromMetric(r.dst, r.metric), Dev: dev, Via: r.via, OnLink: r.onLink}
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
	if op.Verb == policy.Replace && r.Netns == "" {
		return k.replaceRoute(r)
	}
	k.stale.mark(func(p *parts) {
		if r.Netns == "" {
			p.table(familyNumber(policy.FamilyOf(r.Dst.Addr())), r.Table)
		} else {
			p.netns.name(r.Netns)
		}
	})
	return k.in(r.Netns, func(h *netlink.Handle) error {
		nr := &netlink.Route{
			Table: int(r.Table), Dst: ipNet(r.Dst), Priority: int(toMetric(r.Dst, r.Metric)), Protocol: policy.Protocol,
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
		case policy.Remove: // with the protocol in it, it is one of ours that goes
			return ignore(h.RouteDel(nr), unix.ESRCH)
		case policy.Replace:
			there, err := listRoutes(h, r.Table)
			if err == nil {
				err = notForeign(there, r)
			}
			if err != nil {
				return err
			}
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
	t := tableKey{familyNumber(policy.FamilyOf(r.Dst.Addr())), r.Table}
	if k.events == nil || k.stale.isTable(t) {
		if err := k.readTable(t); err != nil {
			return err
		}
	}
	if err := notForeign(k.routes[t], r); err != nil {
		return err
	}
	want := toRoute(r, link)
	if slices.Contains(k.routes[t], want) {
		return nil // a gateway that came while the loop decided is followed once more
	}
	k.stale.mark(func(p *parts) { p.table(t.family, t.table) })
	return k.direct.replace(want)
}

// notForeign returns an error when one of others' routes is where r would go: the kernel would replace it, whoever made it.
func notForeign(there []route, r policy.Route) error {
	for _, h := range there {
		if h.dst == r.Dst && h.metric == toMetric(r.Dst, r.Metric) && h.table == r.Table && h.protocol != policy.Protocol {
			return fmt.Errorf("%w: a route of protocol %d has this destination and metric in table %d", errNotOurs, h.protocol, h.table)
		}
	}
	return nil
}

var errNotOurs = errors.New("not ours")

// replace puts r in the place of the route with the same table, destination and metric.
func (d *direct) replace(r route) error {
	m := unix.RtMsg{
		Family: unix.AF_INET6, Dst_len: uint8(r.dst.Bits()), Protocol: uint8(r.protocol),
		Scope: unix.RT_SCOPE_LINK, Type: uint8(r.kind),
	}
	if r.dst.Addr().Is4() {
		m.Family = unix.AF_INET
	}
	if r.via.IsValid() || r.link == 0 {
		m.Scope = unix.RT_SCOPE_UNIVERSE
	}
	if r.onLink {
		m.Flags = unix.RTNH_F_ONLINK
	}
	body := appendRtMsg(make([]byte, 0, 128), m, r.table)
	if r.dst.Bits() > 0 {
		body = appendAttr(body, unix.RTA_DST, r.dst.Addr().AsSlice())
	}
	if r.via.IsValid() {
		body = appendAttr(body, unix.RTA_GATEWAY, r.via.AsSlice())
	}
	if r.link != 0 {
		body = appendNumber(body, unix.RTA_OIF, uint32(r.link))
	}
	if r.metric != 0 {
		body = appendNumber(body, unix.RTA_PRIORITY, r.metric)
	}
	return d.do(unix.RTM_NEWROUTE, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body, nil)
}

// appendRtMsg appends m for a table of any number.
func appendRtMsg(b []byte, m unix.RtMsg, table uint32) []byte {
	if table < 256 {
		m.Table = uint8(table)
	}
	b = append(b, (*[unix.SizeofRtMsg]byte)(unsafe.Pointer(&m))[:]...)
	return appendNumber(b, unix.RTA_TABLE, table)
}

// toRoute is the host's route that a policy.Route stands for.
func toRoute(r policy.Route, link int) route {
	return route{
		table: r.Table, metric: toMetric(r.Dst, r.Metric), dst: r.Dst, via: r.Via, link: link,
		protocol: policy.Protocol, kind: routeKinds[r.Type], onLink: r.OnLink,
	}
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
