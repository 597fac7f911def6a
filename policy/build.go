package policy

import (
	"cmp"
	"fmt"
	"net/netip"
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

const objectsPerLane = 24 // about

// builder makes the desired state of lanes.
type builder struct {
	in      *Input
	sources *Sources
	uplinks []Uplink // as the kernel has them at this moment
	allocs  map[string]Allocation
	clashes map[string]string

	want     State
	switches map[string]string   // sysctls that lanes need, by key
	unknown  []string            // those of them whose present value nobody has read yet
	saved    map[string]string   // what they were before us
	exits    map[string]exit     // by uplink
	ports    map[string][]string // others' links by the link that they are ports of
	released map[string]bool     // bridges of ours that have become NetworkManager's
	ruled    []ruledLane
	answers  map[netip.Addr]answer
	fw       firewall
}

// build makes one lane, in the order of the hand recipe.
func (b *builder) build(l Lane) LaneStatus {
	st := LaneStatus{Lane: l, Alloc: b.allocs[l.Name]}
	if b.in.Host.Netns[l.Name] {
		st.add(Condition{
			Type: AboutNamespace, Reason: "NotOurs", Effect: Error,
			Message: fmt.Sprintf("namespace %s exists and is not ours", l.Name),
			Hint:    fmt.Sprintf("remove it (ip netns del %s) or name the lane otherwise", l.Name),
		})
		return st
	}
	if b.bare(&st) {
		return st
	}
	a := st.Alloc
	u, why := b.choose(&l)
	st.Uplink = u
	mtu, search := defaultMTU, []string(nil)
	if u != nil {
		mtu = b.in.Host.Links[u.Interface].MTU
		search = u.Search
		st.DNS = b.servers(&st, u)
	} else {
		st.add(why)
		st.DNS = l.DNS
	}
	gateway, inner := l.ends(a.Subnet, b.in.Host)
	b.addressed(&st, gateway)
	outer := cmp.Or(a.Bridge, a.Veth) // the host's interface of the lane

	b.want.Add(l.Name,
		Netns{l.Name, true},
		Veth{Name: a.Veth, Lane: l.Name, Netns: l.Name, Inner: InnerLink, Bridge: a.Bridge, MTU: mtu, Up: true, InnerUp: true},
		Addr{l.Name, InnerLink, inner},
		Route{Table: a.Table, Dst: default4, Metric: FloorMetric, Type: Unreachable},
		Route{Table: a.Table, Dst: a.Subnet, Dev: outer},
		Route{Table: LanesTable, Dst: a.Subnet, Dev: outer},
		Route{Table: LanesTable, Dst: a.Subnet, Metric: FloorMetric, Type: Blackhole},
		resolvConf(l.Name, st.DNS, search),
		nsswitch(l.Name, b.in.Host.Switch),
	)
	b.inside(&l, u, gateway.Addr())
	if !l.External {
		b.want.Add(l.Name, Addr{"", outer, gateway})
		if a.Bridge != "" {
			b.want.Add(l.Name, Bridge{Name: a.Bridge, Lane: l.Name, MTU: mtu, Up: true})
		}
	}
	if l.Mark != 0 {
		b.want.Add(l.Name, Rule{Priority: frontPriority, Family: IPv4, Mark: l.Mark, Mask: l.markMask(), Table: a.Table})
	}
	for _, p := range l.Allow {
		b.want.Add(l.Name, Route{Table: a.Table, Dst: p, Type: Throw})
	}
	if u != nil {
		for _, r := range b.exit(u).routes {
			if r.Table = a.Table; r.Dst == a.Subnet || slices.Contains(l.Allow, r.Dst) {
				continue
			}
			if r.Via.IsValid() && slices.ContainsFunc(l.Allow, func(p netip.Prefix) bool { return p.Contains(r.Via) }) {
				r.OnLink = true // what led to the gateway is thrown
			}
			b.want.Add(l.Name, r)
		}
	}
	b.ruled = append(b.ruled, ruledLane{l.Name, a.Subnet, a.Table, l.Allow, !l.External && !l.Subnet.IsValid()})
	b.answer(u, a.Table)
	b.forwarding(&l, outer, u)
	b.fw.lane(&l, a.Subnet, outer, a.Veth, u, b.in.Host)
	if r := b.in.Host.ahead(a.Subnet); r != nil {
		st.add(Condition{
			Type: AboutRules, Reason: "RuleAhead", Effect: Degraded,
			Message: fmt.Sprintf("the ip rule %q of another program stands in front of the lane's and takes its packets, which are dropped", r.text()),
			Hint:    "remove it, or let its program start before the lane does",
		})
	}
	return st
}

// inside is how the lane's namespace sends. Without a way out programs get the error from their
// own socket at once, not by an ICMP message that may be limited.
func (b *builder) inside(l *Lane, u *Uplink, gateway netip.Addr) {
	r := Route{Netns: l.Name, Table: MainTable, Dst: default4}
	if u != nil {
		r.Via, r.Dev = gateway, InnerLink
		b.want.Add(l.Name, r)
		return
	}
	r.Type = Unreachable
	b.want.Add(l.Name, r)
	for _, p := range l.Allow {
		b.want.Add(l.Name, Route{Netns: l.Name, Table: MainTable, Dst: p, Via: gateway, Dev: InnerLink})
	}
}

// bare tells whether a lane keeps no more than its namespace, and why: without a
// veth nothing leaves, and what programs in the lane hold stays.
func (b *builder) bare(st *LaneStatus) bool {
	l := &st.Lane
	why := Condition{}
	shared := b.shared(l)
	switch held, clash := b.held(l), b.clashes[l.Name]; {
	case held != "":
		why = Condition{Type: AboutUplink, Reason: "Held", Effect: Waiting, Message: held}
	case clash != "":
		why = Condition{Type: AboutNumbers, Reason: "Taken", Effect: Error, Message: clash}
	case shared != "":
		why = Condition{Type: AboutBridge, Reason: "Shared", Effect: Error, Message: shared}
	case b.in.blind() != "" && !b.connected(st):
		// A lane that is there goes on. A new one would reach what the host serves.
		why = Condition{Type: AboutFirewall, Reason: "Unreadable", Effect: Error, Message: "the firewall can't be read, so the lane is not connected: " + b.in.blind()}
	}
	own := []Object{Netns{l.Name, true}}
	for _, f := range []File{resolvConf(l.Name, nil, nil), nsswitch(l.Name, b.in.Host.Switch)} {
		if _, foreign := b.in.Host.Files[f.Path]; foreign && !b.in.Memory.Lanes[l.Name].Files {
			why = Condition{
				Type: AboutNamespace, Reason: "FileNotOurs", Effect: Error,
				Message: f.Path + " exists and is not ours", Hint: "remove it or name the lane otherwise",
			}
			continue
		}
		own = append(own, f)
	}
	if why.Effect == "" {
		return false
	}
	st.add(why)
	b.want.Add(l.Name, own...)
	if why.Reason == "Shared" && !l.External {
		// To remove our bridge would be to take the port out, as often as somebody puts it in. What comes in
		// by that goes nowhere.
		b.want.Add(l.Name, Bridge{Name: st.Alloc.Bridge, Lane: l.Name, MTU: defaultMTU, Up: true})
		b.fw.closed(l.Name, st.Alloc.Bridge)
		b.forwarding(&Lane{Name: l.Name}, st.Alloc.Bridge, nil)
	}
	return true
}

// connected tells whether a lane's namespace is connected to the host as it is to be.
func (b *builder) connected(st *LaneStatus) bool {
	for o := range b.in.Have {
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
	routes   []Route  // of a lane's table, still without its number
	siblings []string // the uplink's, whose ARP would draw its packets to them
	dns      []netip.Addr
	aboutDNS []Condition
}

func (b *builder) exit(u *Uplink) exit {
	e, ok := b.exits[u.Interface]
	if !ok {
		e = exit{routes: u.tableRoutes(), siblings: siblings(u, b.in.Host)}
		e.dns, e.aboutDNS = b.resolvers(u)
		b.exits[u.Interface] = e
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
