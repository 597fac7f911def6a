package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// takeOver finds the bridges of ours that NetworkManager has taken over, by
// activating a lane's profile on a bridge that the lane had made for itself. It returns
// a state and a host in which they are NetworkManager's, and the operations
// that make that true. (A bridge that is not taken over yet is just removed:
// NetworkManager then makes its own.)
func takeOver(have Setup, h *Host, lanes []Lane, held map[string]string) (Setup, *Host, []Op) {
	taken := map[string]bool{}
	for _, l := range lanes {
		if l.External && held[l.Name] == "" {
			taken[l.Bridge] = true
		}
	}
	if len(taken) == 0 {
		return have, h, nil
	}
	var ops []Op
	for o, lane := range have.Parts.each(kindBridge) {
		if b, ok := o.(Bridge); ok && taken[b.Name] {
			ops = append(ops, Op{Verb: Release, Object: b, Lane: lane})
		}
	}
	if len(ops) == 0 {
		return have, h, nil
	}
	h = h.clone()
	for _, op := range ops {
		b := op.Object.(Bridge)
		link := HostLink{MTU: b.MTU, Running: b.Up, Bridge: true}
		gone := State{b: op.Lane}
		for o, lane := range have.Parts.each(kindAddr) {
			if a, ok := o.(Addr); ok && a.Netns == "" && a.Link == b.Name {
				gone[a] = lane
				link.Addrs = append(link.Addrs, a.Prefix)
			}
		}
		for o, lane := range gone {
			have.Parts = have.Parts.edit(lane, func(s State) { delete(s, o) })
		}
		slices.SortFunc(link.Addrs, netip.Prefix.Compare)
		h.Links[b.Name] = link
	}
	slices.SortFunc(ops, func(a, b Op) int { return compareKeys(a.Object.key(), b.Object.key()) })
	return have, h, ops
}

// takeBack finds the bridges that NetworkManager had taken over and that no profile
// has any more, and returns a state and a host in which they are ours.
func takeBack(have Setup, h *Host, profiles []ProfileLane) (Setup, *Host) {
	back := map[string]bool{}
	for name, link := range h.Links {
		if link.Made && !slices.ContainsFunc(profiles, func(p ProfileLane) bool { return p.Interface == name && !p.Leaving }) {
			back[name] = true
		}
	}
	if len(back) == 0 {
		return have, h
	}
	h = h.clone()
	ours := State{}
	for name := range back {
		link := h.Links[name]
		delete(h.Links, name)
		ours.Add("", Bridge{Name: name, MTU: link.MTU, Up: link.Running})
		for _, a := range link.Addrs {
			ours.Add("", Addr{Link: name, Prefix: a})
		}
	}
	have.Parts = have.Parts.With("", ours)
	h.Routes = slices.DeleteFunc(h.Routes, func(r HostRoute) bool { return back[r.Dev] })
	return have, h
}

// clone is a copy whose links and routes may be changed.
func (h *Host) clone() *Host {
	c := *h
	c.Links, c.Routes = maps.Clone(h.Links), slices.Clone(h.Routes)
	return &c
}

// address is what an external lane's bridge has, or as long as it has none, what
// its profile says.
func (l *Lane) address(h *Host) netip.Prefix {
	for _, a := range h.Links[l.Bridge].Addrs {
		if a.Addr().Is4() {
			return a
		}
	}
	return netip.PrefixFrom(l.Gateway, l.Subnet.Bits())
}

// externalSubnet is that of its bridge, or why there is none.
func (l *Lane) externalSubnet(h *Host) (subnet netip.Prefix, clash string) {
	address := l.address(h)
	fix := fmt.Sprintf("use nmcli connection modify with ipv4.method manual and, say, ipv4.addresses 10.0.1.1/24, then nmcli device reapply %s", l.Bridge)
	if !address.IsValid() {
		return netip.Prefix{}, fmt.Sprintf("bridge %s has no IPv4 address: %s", l.Bridge, fix)
	}
	subnet = address.Masked()
	if err := CheckSubnet(subnet); err != nil {
		return netip.Prefix{}, fmt.Sprintf("bridge %s has %v: %v: %s", l.Bridge, address, err, fix)
	}
	if address.Addr() == subnet.Addr() || address.Addr() == broadcast(subnet) {
		return netip.Prefix{}, fmt.Sprintf("bridge %s has %v, which is no host's address: %s", l.Bridge, address, fix)
	}
	return subnet, ""
}

// broadcast is the last address of an IPv4 prefix.
func broadcast(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}

// ends returns the addresses of the lane's two ends: the first of the subnet and
// the second, unless NetworkManager gave the bridge another.
func (l *Lane) ends(subnet netip.Prefix, h *Host) (gateway, inner netip.Prefix) {
	first := subnet.Addr().Next()
	gw := first
	if l.External {
		gw = l.address(h).Addr()
	}
	in := gw.Next()
	if in == broadcast(subnet) {
		in = first
	}
	return netip.PrefixFrom(gw, subnet.Bits()), netip.PrefixFrom(in, subnet.Bits())
}

// unready says why an external lane can't be built yet; empty: it can.
func (b *builder) unready(l *Lane) string {
	if _, exists := b.in.Host.Links[l.Bridge]; l.External && !exists {
		return fmt.Sprintf("NetworkManager has not made bridge %s yet", l.Bridge)
	}
	return ""
}

// addressed adds that an external lane's bridge lacks the address that its profile has.
func (b *builder) addressed(st *LaneStatus) {
	l := &st.Lane
	if gateway, _ := l.ends(st.Alloc.Subnet, b.in.Host); l.External && !slices.Contains(b.in.Host.Links[l.Bridge].Addrs, gateway) {
		st.add(Condition{
			Type: AboutBridge, Reason: "NoAddress", Effect: Degraded,
			Message: fmt.Sprintf("bridge %s does not have its address %v", l.Bridge, gateway), Hint: "nmcli device reapply " + l.Bridge,
		})
	}
}

// held says why a lane keeps no more than its namespace for now; empty: nothing does.
func (b *builder) held(l *Lane) string { return cmp.Or(b.sources.Held[l.Name], b.unready(l)) }
