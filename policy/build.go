package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Input is everything that decides how lanes look in the kernel.
type Input struct {
	Lanes   []Lane // those that are wanted
	Uplinks []Uplink
	Host    *Host
	Allocs  map[string]Allocation
	Clashes map[string]string // from Allocate
	Current map[string]string // lane to the interface it leaves by now: it stays when nothing better comes
	Saved   map[string]string // sysctls that we changed, and what was there before
	Held    map[string]string // lane to why it keeps no more than its namespace for now
}

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
	Lane   Lane
	State  LaneState
	Reason string // empty when up
	Uplink *Uplink
	Alloc  Allocation
	DNS    []netip.Addr
	Want   []Object // what is the lane's own; chains are shared
}

// Build returns the state of the kernel that the lanes want, and how each lane
// is, by name.
func Build(in Input) (State, []LaneStatus) {
	lanes := byName(in.Lanes)
	b := builder{in: &in, want: make(State, objectsPerLane*len(lanes)), sysctls: make(map[string]string, 2*len(lanes)), exits: make(map[string]exit), ports: in.Host.ports()}
	statuses := make([]LaneStatus, len(lanes))
	for i, l := range lanes {
		statuses[i] = b.lane(l)
	}
	b.chains.into(b.want)
	b.restore()
	for k, v := range b.sysctls {
		b.want.Add(Sysctl{k, v})
	}
	return b.want, statuses
}

const objectsPerLane = 16 // about

type builder struct {
	in      *Input
	want    State
	chains  chains
	sysctls map[string]string
	exits   map[string]exit     // by uplink
	ports   map[string][]string // others', by the link that they are ports of
}

// lane builds one lane, in the order of the hand recipe.
func (b *builder) lane(l Lane) LaneStatus {
	st := LaneStatus{Lane: l, Alloc: b.in.Allocs[l.Name]}
	if b.in.Host.Netns[l.Name] {
		st.State, st.Reason = Error, fmt.Sprintf("namespace %s exists and is not ours: remove it (ip netns del %s) or name the lane otherwise", l.Name, l.Name)
		return st
	}
	if b.bare(&st) {
		b.want.Add(st.Want...)
		return st
	}
	st.Uplink, st.Reason = b.pick(l)
	st.State = Waiting
	mtu, search := defaultMTU, []string(nil)
	if st.Uplink != nil {
		st.State = Up
		mtu = b.in.Host.Links[st.Uplink.Interface].MTU
		st.DNS, search = b.servers(st.Uplink.DNS), st.Uplink.Search
	}
	if len(l.DNS) > 0 {
		st.DNS = l.DNS
	}
	if st.State == Up && len(st.DNS) == 0 {
		st.State = Degraded
		st.Reason = fmt.Sprintf("%s has no DNS servers that a lane can ask, so names do not resolve in the lane: set dns in the lane's file", st.Uplink.Interface)
	}

	a := st.Alloc
	gateway, inner := l.ends(a.Subnet, b.in.Host)
	if why := b.unaddressed(&l, gateway); why != "" && st.State == Up {
		st.State, st.Reason = Degraded, why
	}
	outer := a.Bridge // the host's interface of the lane
	if outer == "" {
		outer = a.Veth
	}

	own := make([]Object, 0, objectsPerLane)
	own = append(own,
		Netns{l.Name, true},
		Veth{Name: a.Veth, Lane: l.Name, Netns: l.Name, Inner: InnerLink, Bridge: a.Bridge, MTU: mtu, Up: true, InnerUp: true},
		Addr{l.Name, InnerLink, inner},
		Route{Netns: l.Name, Table: MainTable, Dst: default4, Via: gateway.Addr(), Dev: InnerLink},
		Route{Table: a.Table, Dst: default4, Metric: FloorMetric, Type: Unreachable},
		Route{Table: a.Table, Dst: a.Subnet, Metric: FloorMetric, Type: Blackhole},
		Route{Table: a.Table, Dst: a.Subnet, Dev: outer},
		Rule{Priority: LanePriority, From: a.Subnet, Table: a.Table},
		Rule{Priority: LanePriority, To: a.Subnet, Table: a.Table},
		resolvConf(l.Name, st.DNS, search),
		nsswitch(l.Name, b.in.Host.Switch),
	)
	if !l.External {
		own = append(own, Addr{"", outer, gateway})
		if a.Bridge != "" {
			own = append(own, Bridge{Name: a.Bridge, Lane: l.Name, MTU: mtu, Up: true})
		}
	}
	if l.Mark != 0 {
		own = append(own, Rule{Priority: MarkPriority, Mark: l.Mark, Table: a.Table})
	}
	for _, p := range l.Allow {
		own = append(own, Rule{Priority: AllowPriority, From: a.Subnet, To: p, Table: MainTable})
	}
	if st.Uplink != nil {
		for _, r := range b.exit(st.Uplink).routes {
			if r.Table = a.Table; r.Dst != a.Subnet {
				own = append(own, r)
			}
		}
	}
	st.Want = own
	b.want.Add(own...)

	b.chains.lane(l, a.Subnet, outer, a.Veth, st.Uplink)
	b.forwarding(l, outer, st.Uplink)
	return st
}

// bare tells whether a lane keeps no more than its namespace, and why: without a
// veth nothing leaves, and what programs in the lane hold stays.
func (b *builder) bare(st *LaneStatus) bool {
	l := &st.Lane
	held, clash, shared := b.held(l), b.in.Clashes[l.Name], b.shared(l)
	st.State, st.Reason = Error, cmp.Or(clash, shared)
	if held != "" {
		st.State, st.Reason = Waiting, held
	}
	own := []Object{Netns{l.Name, true}}
	for _, f := range []File{resolvConf(l.Name, nil, nil), nsswitch(l.Name, b.in.Host.Switch)} {
		if b.in.Host.Files[f.Path] {
			st.State, st.Reason = Error, f.Path+" exists and is not ours: remove it or name the lane otherwise"
			continue
		}
		own = append(own, f)
	}
	if st.Reason == "" {
		return false
	}
	st.Want = own
	if st.Reason == shared && !l.External {
		// To remove our bridge would be to take the port out, as often as somebody puts it in. What comes in
		// by that goes nowhere.
		st.Want = append(st.Want, Bridge{Name: st.Alloc.Bridge, Lane: l.Name, MTU: defaultMTU, Up: true})
		b.chains.drop(st.Alloc.Bridge)
		b.forwarding(Lane{}, st.Alloc.Bridge, nil)
	}
	return true
}

var default4 = netip.MustParsePrefix("0.0.0.0/0")

// defaultMTU is for a lane that waits; Ethernet's.
const defaultMTU = 1500

// pick returns the uplink that l leaves by, or why there is none. The order of
// l's selectors decides; within one, the present uplink stays.
func (b *builder) pick(l Lane) (*Uplink, string) {
	var reasons []string
	for _, sel := range l.Uplink {
		var found *Uplink
		matched, private := false, ""
		for i := range b.in.Uplinks {
			u := &b.in.Uplinks[i]
			if !sel.Matches(u) {
				if sel.Kind == ByConnection && u.Private && u.Connection == sel.Value {
					private = u.Interface
				}
				continue
			}
			matched = true
			if why := u.unusable(b.in.Host); why != "" {
				reasons = append(reasons, why)
			} else if !u.serves(l.Name) {
				reasons = append(reasons, u.unserving())
			} else if found == nil || u.Interface == b.in.Current[l.Name] {
				found = u
			}
		}
		if found != nil {
			return found, ""
		}
		switch {
		case matched:
		case private != "":
			reasons = append(reasons, fmt.Sprintf("%v matches only a private profile on %s: select it by uuid:, or nmcli connection modify it with connection.permissions ''", sel, private))
		default:
			reasons = append(reasons, "nothing matches "+sel.String()+b.elsewhere(sel))
		}
	}
	slices.Sort(reasons)
	return nil, "no uplink: " + strings.Join(slices.Compact(reasons), ", ")
}

// elsewhere says where the radios are when the network that a lane is for is not there: that is the first thing to look at.
func (b *builder) elsewhere(sel Selector) string {
	if sel.Kind != BySSID {
		return ""
	}
	var radios []string
	for i := range b.in.Uplinks {
		switch u := &b.in.Uplinks[i]; {
		case u.Type != "wifi":
		case u.SSID == "" || u.Phase == PhaseDown:
			radios = append(radios, u.Interface+" is not connected")
		default:
			radios = append(radios, u.Interface+" is on "+u.SSID)
		}
	}
	if len(radios) == 0 {
		return ""
	}
	return " (" + strings.Join(radios, ", ") + ")"
}

// servers leaves out what can't be asked from inside a lane: a loopback resolver is
// the host's, as is one at another address of its own, which would ask by
// the host's ways; and IPv6 has no way out yet.
func (b *builder) servers(all []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return !a.Is4() || a.IsLoopback() || b.isOwn(a) })
}

// isOwn tells whether an address is one of the host's own.
func (b *builder) isOwn(a netip.Addr) bool {
	for _, link := range b.in.Host.Links {
		if slices.ContainsFunc(link.Addrs, func(p netip.Prefix) bool { return p.Addr() == a }) {
			return true
		}
	}
	return false
}

// exit is what all lanes that leave by one uplink have in common.
type exit struct {
	routes   []Route  // of a lane's table, still without its number
	siblings []string // the uplink's, whose ARP would draw its packets to them
}

func (b *builder) exit(u *Uplink) exit {
	e, ok := b.exits[u.Interface]
	if !ok {
		e = exit{u.tableRoutes(), siblings(u, b.in.Host)}
		b.exits[u.Interface] = e
	}
	return e
}

// forwarding switches forwarding on for exactly the interfaces through which
// the lane's packets come in, never for the host; keeps IPv6 off the lane's own
// interface, and the spanning tree protocol off NetworkManager's bridge, whose only
// port it would keep silent for 30 s; and stops the uplink's siblings in one subnet
// from answering ARP for it, which would draw the lane's downloads to the wrong card.
func (b *builder) forwarding(l Lane, outer string, u *Uplink) {
	b.sysctls[ipv4Conf(outer, "forwarding")] = "1"
	if b.in.Host.IPv6 {
		b.sysctls["net/ipv6/conf/"+outer+"/disable_ipv6"] = "1"
	}
	if l.External {
		b.sysctls[stpKey(outer)] = "0"
	}
	for _, p := range l.Allow {
		if dev := b.mainRoute(p); dev != "" {
			b.sysctls[ipv4Conf(dev, "forwarding")] = "1"
		}
	}
	if u == nil {
		return
	}
	b.sysctls[ipv4Conf(u.Interface, "forwarding")] = "1"
	for _, name := range b.exit(u).siblings {
		b.sysctls[ipv4Conf(name, "arp_ignore")] = "1"
		b.sysctls[ipv4Conf(name, "arp_announce")] = "2"
	}
}

func ipv4Conf(link, name string) string { return "net/ipv4/conf/" + link + "/" + name }

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

// restore wants back what was there before for every switch that no lane needs.
func (b *builder) restore() {
	for k, v := range b.in.Saved {
		if _, needed := b.sysctls[k]; needed {
			continue
		}
		if _, exists := b.in.Host.Links[(Sysctl{Key: k}).Link()]; exists {
			b.sysctls[k] = v
		}
	}
}
