package policy

import (
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
}

// Phase of a lane, as the user reads it.
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

// Build returns the state of the kernel that the lanes want, and how each lane is.
func Build(in Input) (State, []LaneStatus) {
	b := builder{in: &in, want: make(State), chains: newChains(), sysctls: make(map[string]string)}
	statuses := make([]LaneStatus, 0, len(in.Lanes))
	for _, l := range in.Lanes {
		statuses = append(statuses, b.lane(l))
	}
	b.chains.into(b.want)
	b.restore()
	for k, v := range b.sysctls {
		b.want.Add(Sysctl{k, v})
	}
	return b.want, statuses
}

type builder struct {
	in      *Input
	want    State
	chains  *chains
	sysctls map[string]string
}

// lane builds one lane, in the order of the hand recipe.
func (b *builder) lane(l Lane) LaneStatus {
	st := LaneStatus{Lane: l, Alloc: b.in.Allocs[l.Name]}
	if reason := b.foreign(l); reason != "" {
		st.State, st.Reason = Error, reason
		return st
	}
	if reason := b.in.Clashes[l.Name]; reason != "" {
		// Without a veth nothing leaves; the namespace stays for the programs in it.
		st.State, st.Reason = Error, reason
		st.Want = []Object{Netns{l.Name, true}, resolvConf(l.Name, nil, nil)}
		b.want.Add(st.Want...)
		return st
	}
	st.Uplink, st.Reason = b.pick(l)
	st.State = Waiting
	mtu, search := defaultMTU, []string(nil)
	if st.Uplink != nil {
		st.State = Up
		mtu = b.in.Host.Links[st.Uplink.Interface].MTU
		st.DNS, search = servers(st.Uplink.DNS), st.Uplink.Search
	}
	if len(l.DNS) > 0 {
		st.DNS = l.DNS
	}
	if st.State == Up && len(st.DNS) == 0 {
		st.State = Degraded
		st.Reason = fmt.Sprintf("%s has no DNS servers, so names do not resolve in the lane: set dns in the lane's file", st.Uplink.Interface)
	}
	if st.Uplink == nil {
		search = nil
	}

	a := st.Alloc
	gateway := netip.PrefixFrom(a.Subnet.Addr().Next(), a.Subnet.Bits())
	inner := netip.PrefixFrom(gateway.Addr().Next(), a.Subnet.Bits())
	outer := a.Bridge // the host's interface of the lane
	if outer == "" {
		outer = a.Veth
	}

	own := []Object{
		Netns{l.Name, true},
		Veth{Name: a.Veth, Lane: l.Name, Netns: l.Name, Inner: InnerLink, Bridge: a.Bridge, MTU: mtu, Up: true, InnerUp: true},
		Addr{"", outer, gateway},
		Addr{l.Name, InnerLink, inner},
		Route{Netns: l.Name, Table: MainTable, Dst: default4, Via: gateway.Addr(), Dev: InnerLink},
		Route{Table: a.Table, Dst: default4, Metric: FloorMetric, Unreachable: true},
		Route{Table: a.Table, Dst: a.Subnet, Dev: outer},
		Rule{Priority: LanePriority, From: a.Subnet, Table: a.Table},
		Rule{Priority: LanePriority, To: a.Subnet, Table: a.Table},
		resolvConf(l.Name, st.DNS, search),
	}
	if a.Bridge != "" {
		own = append(own, Bridge{a.Bridge, l.Name, mtu, true})
	}
	if l.Mark != 0 {
		own = append(own, Rule{Priority: MarkPriority, Mark: l.Mark, Table: a.Table})
	}
	for _, p := range l.Allow {
		own = append(own, Rule{Priority: AllowPriority, From: a.Subnet, To: p, Table: MainTable})
	}
	if st.Uplink != nil {
		own = append(own, uplinkRoutes(st.Uplink, a)...)
	}
	st.Want = own
	b.want.Add(own...)

	b.chains.lane(l, a.Subnet, outer, st.Uplink)
	b.forwarding(l, outer, st.Uplink)
	return st
}

var default4 = netip.MustParsePrefix("0.0.0.0/0")

// defaultMTU is for a lane that waits; Ethernet's.
const defaultMTU = 1500

// foreign says what of another's stands where the lane has to be.
func (b *builder) foreign(l Lane) string {
	switch h := b.in.Host; {
	case h.Netns[l.Name]:
		return fmt.Sprintf("namespace %s exists and is not ours: remove it (ip netns del %s) or name the lane otherwise", l.Name, l.Name)
	case h.Files[ResolvConfPath(l.Name)]:
		return fmt.Sprintf("%s exists and is not ours: remove it or name the lane otherwise", ResolvConfPath(l.Name))
	}
	if l.Mark != 0 {
		for _, r := range b.in.Host.Rules {
			if r.Mark == l.Mark {
				return fmt.Sprintf("mark %d is in use by the ip rule with priority %d: choose another mark", l.Mark, r.Priority)
			}
		}
	}
	return ""
}

// pick returns the uplink that l leaves by, or why there is none. The order of
// l's selectors decides; within one, the present uplink stays.
func (b *builder) pick(l Lane) (*Uplink, string) {
	var reasons []string
	for _, sel := range l.Uplink {
		var found *Uplink
		matched := false
		for i := range b.in.Uplinks {
			u := &b.in.Uplinks[i]
			if !sel.Matches(u) {
				continue
			}
			matched = true
			if why := u.unusable(b.in.Host); why != "" {
				reasons = append(reasons, why)
			} else if found == nil || u.Interface == b.in.Current[l.Name] {
				found = u
			}
		}
		if found != nil {
			return found, ""
		}
		if !matched {
			reasons = append(reasons, "nothing matches "+sel.String())
		}
	}
	slices.Sort(reasons)
	return nil, "no uplink: " + strings.Join(slices.Compact(reasons), ", ")
}

// servers leaves out what can't be asked from inside a lane: a loopback
// resolver is the host's, and IPv6 has no way out yet.
func servers(all []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return !a.Is4() || a.IsLoopback() })
}

// uplinkRoutes is table 100's part that follows the uplink: its prefixes, every
// other route of it, and the default.
func uplinkRoutes(u *Uplink, a Allocation) []Object {
	onLink, via := u.routes4()
	var out []Object
	covered := func(gw netip.Addr) bool {
		return slices.ContainsFunc(onLink, func(p netip.Prefix) bool { return p.Contains(gw) })
	}
	for _, p := range onLink {
		if p != a.Subnet {
			out = append(out, Route{Table: a.Table, Dst: p, Dev: u.Interface})
		}
	}
	for dst, gw := range via {
		if dst != a.Subnet {
			out = append(out, Route{Table: a.Table, Dst: dst, Via: gw, Dev: u.Interface, OnLink: !covered(gw)})
		}
	}
	if gw, ok := u.Gateway(); ok {
		out = append(out, Route{Table: a.Table, Dst: default4, Via: gw, Dev: u.Interface, OnLink: gw.IsValid() && !covered(gw)})
	}
	return out
}

// forwarding switches forwarding on for exactly the interfaces through which
// the lane's packets come in, never for the host; keeps IPv6 off the lane's own
// interface; and stops the uplink's siblings in one subnet from answering ARP
// for it, which would draw the lane's downloads to the wrong card.
func (b *builder) forwarding(l Lane, outer string, u *Uplink) {
	b.sysctls[ipv4Conf(outer, "forwarding")] = "1"
	if b.in.Host.IPv6 {
		b.sysctls["net/ipv6/conf/"+outer+"/disable_ipv6"] = "1"
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
	for name, link := range b.in.Host.Links {
		if name != u.Interface && slices.ContainsFunc(link.Addrs, func(p netip.Prefix) bool { return sharesSegment(u, p) }) {
			b.sysctls[ipv4Conf(name, "arp_ignore")] = "1"
			b.sysctls[ipv4Conf(name, "arp_announce")] = "2"
		}
	}
}

func ipv4Conf(link, name string) string { return "net/ipv4/conf/" + link + "/" + name }

// sharesSegment tells whether p is an address in one of u's on-link prefixes.
func sharesSegment(u *Uplink, p netip.Prefix) bool {
	return slices.ContainsFunc(u.Addresses, func(a netip.Prefix) bool {
		return a.Addr().Is4() && a.Bits() < 32 && p.Bits() < 32 && a.Masked().Contains(p.Addr())
	})
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
