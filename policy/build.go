package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
)

// LaneState is how far a lane is, as the user reads it.
type LaneState string

// The states of a lane.
const (
	Down     LaneState = "down"     // not wanted
	Waiting  LaneState = "waiting"  // wanted, no uplink: fails closed
	Up       LaneState = "up"       // leaves by its uplink
	Degraded LaneState = "degraded" // up, but something it promises can't be kept
	Error    LaneState = "error"    // can't be built
)

// LaneStatus is how one lane is, and why.
type LaneStatus struct {
	Lane       Lane
	State      LaneState
	Reason     string // empty when up
	Conditions []Condition
	Profile    string // NetworkManager's, that the lane is; empty: it is a file
	Uplink     *Uplink
	Alloc      Allocation
	DNS        []netip.Addr
}

func (st *LaneStatus) add(c Condition) { st.Conditions = append(st.Conditions, c) }

// builder makes the desired state of lanes.
type builder struct {
	in      *Input
	sources *Sources
	uplinks []*Uplink // as the kernel has them at this moment
	allocs  map[string]Allocation
	clashes map[string]string

	want     Setup
	common   State               // of several lanes
	last     *built              // what the last decision has made
	now      *built              // what this one makes
	switches map[string]string   // sysctls of others' links that lanes need, by key
	unknown  []string            // those of them whose present value nobody has read yet
	saved    map[string]string   // what they were before us
	ports    map[string][]string // others' links by the link that they are ports of
	released map[string]bool     // bridges of ours that have become NetworkManager's
	ruled    []ruledLane
	answers  map[netip.Addr]answer
	fw       firewall
}

// built is what one decision leaves to the next, which then makes only what has changed.
type built struct {
	lanes map[string]*laneParts
	exits map[string]*exit // by interface
}

// adopt takes for a lane's part the one that there is, which has the same objects: so there is one of it.
func (b *built) adopt(lane string, have *Part) {
	if old := b.lanes[lane]; old != nil {
		parts := *old
		parts.part = have
		b.lanes[lane] = &parts
	}
}

// laneParts is what one lane needs that no other has, and what it was made of.
type laneParts struct {
	lane  Lane
	shape shape
	part  *Part
	rules []Object // in the packet filter
}

// shape is all that the objects of a lane depend on, beside its definition.
type shape struct {
	Allocation
	filter         Backend
	place          place
	exit           *exit        // nil: it waits
	gateway, inner netip.Prefix // its ends
	nsswitch       string       // the host's
	untouched      untouched
}

// untouched are the switches of a lane's interface that are left alone: that of IPv6 where the kernel has none, as with
// an MTU below 1280, and forwarding while nothing could keep strangers from using it.
type untouched struct{ ipv6, forwarding bool }

// outer is the host's interface of the lane.
func (s *shape) outer() string { return cmp.Or(s.Bridge, s.Veth) }

// decideLane finds out how one lane is to be: by which uplink, or why not.
func (b *builder) decideLane(st *LaneStatus) (bare bool) {
	l := &st.Lane
	if b.in.Host.Netns[l.Name] {
		st.add(Condition{
			Type: AboutNamespace, Reason: "NotOurs", Effect: Error,
			Message: fmt.Sprintf("namespace %s exists and is not ours", l.Name),
			Hint:    fmt.Sprintf("remove it (ip netns del %s) or name the lane otherwise", l.Name),
		})
		return true
	}
	if why := b.bare(st); why.Effect != "" {
		st.add(why)
		b.buildBare(l, st.Alloc.Bridge, why.Reason)
		return true
	}
	u, why := b.choose(l)
	st.Uplink = u
	if u != nil {
		st.DNS = b.servers(st, u)
	} else {
		st.add(why)
		st.DNS = l.DNS
	}
	b.addressed(st)
	if r := b.in.Host.ahead(st.Alloc.Subnet); r != nil {
		st.add(Condition{
			Type: AboutRules, Reason: "RuleAhead", Effect: Degraded,
			Message: fmt.Sprintf("the ip rule %q of another program stands in front of the lane's and takes its packets, which are dropped", r.text()),
			Hint:    "remove it, or let its program start before the lane does",
		})
	}
	b.ruled = append(b.ruled, ruledLane{l.Name, st.Alloc.Subnet, st.Alloc.Table, !l.External && !l.Subnet.IsValid()})
	b.answer(u, st.Alloc.Table)
	return false
}

// build wants a lane's objects, whose rules are at a place.
func (b *builder) build(st *LaneStatus, at place) {
	l := &st.Lane
	s := shape{Allocation: st.Alloc, filter: b.in.Firewall, place: at, nsswitch: b.in.Host.Switch}
	s.gateway, s.inner = l.ends(s.Subnet, b.in.Host)
	if st.Uplink != nil {
		s.exit = b.exit(st.Uplink)
	}
	s.untouched = b.untouched(l.Name, s.outer())
	parts := b.last.lanes[l.Name]
	if parts == nil || parts.shape != s || !parts.lane.equal(l) {
		parts = &laneParts{lane: *l, shape: s, part: &Part{State: State{}}}
		parts.part.Add(l.Name, l.objects(&s)...)
		if s.filter == Nftables {
			parts.rules = l.elements(&s)
		}
	}
	b.now.lanes[l.Name], b.want.Parts[l.Name] = parts, parts.part
	for _, o := range parts.rules {
		b.fw.any = true
		b.want.Filter[o] = l.Name
	}
	if s.filter == IPTablesChains {
		b.fw.xtLane(l, s.Subnet, s.outer(), l.links(&s), st.Uplink)
	}
	b.forwarding(l, s.outer())
	if len(l.Allow) > 0 {
		for card := range b.in.Host.Links { // by any, as the main table says
			if card != "lo" {
				b.fw.addresses(card, b.in.Host)
			}
		}
	}
}

// untouched tells which switches of a lane's interface are left alone.
func (b *builder) untouched(lane, link string) untouched {
	key6, forwarding := ipv6Off(link), ipv4Conf(link, "forwarding")
	has6, forwards := false, false
	for _, part := range []*Part{b.in.Have.Parts[lane], b.in.Have.Parts[""]} {
		for _, o := range part.of(kindSysctl) {
			s := o.(Sysctl)
			has6 = has6 || s.Key == key6
			forwards = forwards || s.Key == forwarding && s.Value == "1"
		}
	}
	return untouched{
		ipv6:       !has6 && b.in.Have.Parts[lane].hasLink(link) || !b.in.Host.IPv6,
		forwarding: !forwards && b.in.blind() != "",
	}
}

// objects are those of the kernel and on disk, in the order of the hand recipe.
func (l *Lane) objects(s *shape) []Object {
	outer := s.outer()
	e := s.exit
	if e == nil {
		e = &exit{mtu: defaultMTU}
	}
	dns := l.DNS
	if len(dns) == 0 {
		dns = e.dns
	}
	out := []Object{
		Netns{l.Name, true},
		Veth{Name: s.Veth, Lane: l.Name, Netns: l.Name, Inner: InnerLink, Bridge: s.Bridge, MTU: e.mtu, Up: true, InnerUp: true},
		Addr{l.Name, InnerLink, s.inner},
		Route{Table: s.Table, Dst: default4, Metric: FloorMetric, Type: Unreachable},
		Route{Table: s.Table, Dst: s.Subnet, Dev: outer},
		Route{Table: LanesTable, Dst: s.Subnet, Dev: outer},
		Route{Table: LanesTable, Dst: s.Subnet, Metric: FloorMetric, Type: Blackhole},
		resolvConf(l.Name, dns, e.search),
		nsswitch(l.Name, s.nsswitch),
	}
	out = append(out, l.inside(s)...)
	if !l.External {
		out = append(out, Addr{"", outer, s.gateway})
		if s.Bridge != "" {
			out = append(out, Bridge{Name: s.Bridge, Lane: l.Name, MTU: e.mtu, Up: true})
		}
		out = append(out, ownSwitches(outer, s.untouched)...)
	}
	if l.Mark != 0 {
		out = append(out, Rule{Priority: frontPriority, Family: IPv4, Mark: l.Mark, Mask: l.markMask(), Table: s.Table})
	}
	for _, p := range l.Allow {
		out = append(out, Route{Table: s.Table, Dst: p, Type: Throw})
	}
	for _, r := range e.routes {
		if r.Table = s.Table; r.Dst == s.Subnet || slices.Contains(l.Allow, r.Dst) {
			continue
		}
		if r.Via.IsValid() && slices.ContainsFunc(l.Allow, func(p netip.Prefix) bool { return p.Contains(r.Via) }) {
			r.OnLink = true // what led to the gateway is thrown
		}
		out = append(out, r)
	}
	return append(out, l.rules(s)...)
}

// inside is how the lane's namespace sends. Without a way out programs get the error from their
// own socket at once, not by an ICMP message that may be limited.
func (l *Lane) inside(s *shape) []Object {
	r := Route{Netns: l.Name, Table: MainTable, Dst: default4}
	if s.exit != nil {
		r.Via, r.Dev = s.gateway.Addr(), InnerLink
		return []Object{r}
	}
	r.Type = Unreachable
	out := []Object{r}
	for _, p := range l.Allow {
		out = append(out, Route{Netns: l.Name, Table: MainTable, Dst: p, Via: s.gateway.Addr(), Dev: InnerLink})
	}
	return out
}

// bare says why a lane keeps no more than its namespace, without a veth, so that nothing leaves, and
// what programs in the lane hold stays; the zero Condition: it does not.
func (b *builder) bare(st *LaneStatus) Condition {
	l := &st.Lane
	shared := b.shared(l)
	switch held, clash := b.held(l), b.clashes[l.Name]; {
	case b.foreignFile(l.Name) != "":
		return Condition{
			Type: AboutNamespace, Reason: "FileNotOurs", Effect: Error,
			Message: b.foreignFile(l.Name) + " exists and is not ours", Hint: "remove it or name the lane otherwise",
		}
	case held != "":
		return Condition{Type: AboutUplink, Reason: "Held", Effect: Waiting, Message: held}
	case clash != "":
		return Condition{Type: AboutNumbers, Reason: "Taken", Effect: Error, Message: clash}
	case shared != "":
		return Condition{Type: AboutBridge, Reason: "Shared", Effect: Error, Message: shared}
	case b.in.blind() != "" && !b.connected(st):
		// A lane that is there goes on. A new one would reach what the host serves.
		return Condition{Type: AboutFirewall, Reason: "Unreadable", Effect: Error, Message: "the firewall can't be read, so the lane is not connected: " + b.in.blind()}
	}
	return Condition{}
}

// buildBare wants what is left of a lane then.
func (b *builder) buildBare(l *Lane, bridge, reason string) {
	part := &Part{State: State{}}
	part.Add(l.Name, Netns{l.Name, true})
	for _, f := range []File{resolvConf(l.Name, nil, nil), nsswitch(l.Name, b.in.Host.Switch)} {
		if !b.isForeign(l.Name, f.Path) {
			part.Add(l.Name, f)
		}
	}
	if reason == "Shared" && !l.External {
		// To remove our bridge would be to take the port out, as often as somebody puts it in. What comes in
		// by that goes nowhere.
		part.Add(l.Name, Bridge{Name: bridge, Lane: l.Name, MTU: defaultMTU, Up: true})
		part.Add(l.Name, ownSwitches(bridge, b.untouched(l.Name, bridge))...)
		b.fw.closed(l.Name, bridge)
	}
	b.want.Parts[l.Name] = part
}

// foreignFile is a file of a lane's that another program wrote; empty: there is none.
func (b *builder) foreignFile(lane string) string {
	for _, path := range []string{SwitchPath(lane), ResolvConfPath(lane)} {
		if b.isForeign(lane, path) {
			return path
		}
	}
	return ""
}

func (b *builder) isForeign(lane, path string) bool {
	_, foreign := b.in.Host.Files[path]
	return foreign && !b.in.Memory.Lanes[lane].Files
}

// connected tells whether a lane's namespace is connected to the host as it is to be.
func (b *builder) connected(st *LaneStatus) bool {
	for _, o := range b.in.Have.Parts[st.Lane.Name].of(kindBridge) {
		if v, ok := o.(Veth); ok && v.Name == st.Alloc.Veth {
			return v.Netns == st.Lane.Name && v.Bridge == st.Alloc.Bridge
		}
	}
	return false
}

// defaultMTU is for a lane that waits; Ethernet's.
const defaultMTU = 1500

// servers returns the DNS servers that a lane asks.
func (b *builder) servers(st *LaneStatus, u *Uplink) []netip.Addr {
	if len(st.Lane.DNS) > 0 {
		return st.Lane.DNS
	}
	e := b.exit(u)
	st.Conditions = append(st.Conditions, e.aboutDNS...)
	return e.dns
}

// resolvers leaves out what can't be asked from inside a lane: an address of the host or of a
// lane would be answered by the host, and asked by its ways; a loopback is the lane's own;
// and IPv6 has no way out yet.
func (b *builder) resolvers(u *Uplink) (good []netip.Addr, about []Condition) {
	for _, a := range u.DNS {
		switch why := b.unaskable(a, u); {
		case why != "":
			about = append(about, Condition{
				Type: AboutDNS, Reason: "ServerLeftOut", Effect: Up,
				Message: fmt.Sprintf("%s names the DNS server %v, which is %s: it is left out", u.Interface, a, why),
			})
		case a.Is4() && !a.IsLoopback():
			good = append(good, a)
		}
	}
	if len(good) == 0 {
		about = append(about, Condition{
			Type: AboutDNS, Reason: "NoServers", Effect: Degraded,
			Message: fmt.Sprintf("%s has no DNS servers that a lane can ask, so names do not resolve in the lane", u.Interface),
			Hint:    "set dns in the lane's file",
		})
	}
	return good, about
}

// unaskable says why nobody should ask a server; empty: it is a server like any.
func (b *builder) unaskable(a netip.Addr, u *Uplink) string {
	for name, link := range b.in.Host.Links {
		if slices.ContainsFunc(link.Addrs, func(p netip.Prefix) bool { return p.Addr() == a }) {
			return "an address of this host's " + name
		}
	}
	for _, alloc := range b.allocs {
		if alloc.Subnet.IsValid() && alloc.Subnet.Contains(a) {
			return "an address of a lane"
		}
	}
	switch {
	case !a.Is4():
	case a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "no server's address"
	case slices.ContainsFunc(u.Addresses, func(p netip.Prefix) bool {
		return p.Addr().Is4() && p.Bits() < 31 && (broadcast(p) == a || p.Masked().Addr() == a)
	}):
		return "a network's address"
	}
	return ""
}

// exit is what all lanes that leave by one uplink have in common.
type exit struct {
	iface    string
	mtu      int
	routes   []Route // of a lane's table, still without its number
	search   []string
	dns      []netip.Addr
	siblings []string // the uplink's, whose ARP would draw its packets to them
	aboutDNS []Condition
}

// exit returns an uplink's. That of the last decision is still it when nothing of it has changed.
func (b *builder) exit(u *Uplink) *exit {
	e, ok := b.now.exits[u.Interface]
	if !ok {
		e = &exit{
			iface: u.Interface, mtu: b.in.Host.Links[u.Interface].MTU, routes: u.tableRoutes(), search: u.Search,
			siblings: siblings(u, b.in.Host),
		}
		e.dns, e.aboutDNS = b.resolvers(u)
		if last := b.last.exits[u.Interface]; last != nil && reflect.DeepEqual(last, e) {
			e = last
		}
		b.now.exits[u.Interface] = e
	}
	return e
}

// siblings returns the other interfaces that have an address in one of u's
// on-link prefixes.
func siblings(u *Uplink, h *Host) []string {
	shares := func(p netip.Prefix) bool {
		return p.Bits() < 32 && slices.ContainsFunc(u.Addresses, func(a netip.Prefix) bool {
			return a.Addr().Is4() && a.Bits() < 32 && a.Contains(p.Addr())
		})
	}
	var out []string
	for name, link := range h.Links {
		if name != u.Interface && slices.ContainsFunc(link.Addrs, shares) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// mainRoute returns the interface that the main table sends p to.
func (b *builder) mainRoute(p netip.Prefix) string {
	dev, bits, metric := "", -1, uint32(0)
	for _, r := range b.in.Host.Routes {
		if r.Table == MainTable && r.Dst.Contains(p.Addr()) && (r.Dst.Bits() > bits || r.Dst.Bits() == bits && r.Metric < metric) {
			dev, bits, metric = r.Dev, r.Dst.Bits(), r.Metric
		}
	}
	return dev
}
