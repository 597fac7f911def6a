package policy

import (
	"net/netip"
	"slices"
)

// Effective is u as the kernel has it at this moment. NetworkManager writes a
// new address or gateway to the kernel about a millisecond before it says so,
// and while it reactivates a device it says nothing of routes that are still
// there; so when fresh is set (the kernel just changed under this uplink) or
// the uplink is changing, its addresses and default come from the kernel.
// NetworkManager still decides which device is the uplink, and its other routes.
func (u Uplink) Effective(h *Host, fresh bool) Uplink {
	if u.Phase == PhaseDown || !(fresh || u.Phase == PhaseChanging) {
		return u
	}
	link, ok := h.Links[u.Interface]
	if !ok {
		return u
	}
	var best *HostRoute
	for i := range h.Routes {
		r := &h.Routes[i]
		if r.Dev == u.Interface && r.Dst.Bits() == 0 && r.Dst.Addr().Is4() && byManager(r.Protocol) &&
			(best == nil || better(r, best)) {
			best = r
		}
	}
	isDefault4 := func(r UplinkRoute) bool { return r.Dst.Bits() == 0 && r.Dst.Addr().Is4() }
	u.Routes = slices.DeleteFunc(slices.Clone(u.Routes), isDefault4)
	if best != nil {
		u.Routes = append(u.Routes, UplinkRoute{Dst: best.Dst, Via: best.Via, Metric: best.Metric})
	}
	u.Addresses = slices.DeleteFunc(slices.Clone(u.Addresses), func(p netip.Prefix) bool { return p.Addr().Is4() })
	for _, a := range link.Addrs {
		if a.Addr().Is4() {
			u.Addresses = append(u.Addresses, a)
		}
	}
	return u
}

// byManager tells whether NetworkManager writes routes with protocol p.
func byManager(p int) bool { return p == ProtoDHCP || p == ProtoStatic || p == ProtoRA }

// better prefers the main table, then the lower metric, as the host's own
// look-up would.
func better(a, b *HostRoute) bool {
	if (a.Table == MainTable) != (b.Table == MainTable) {
		return a.Table == MainTable
	}
	return a.Metric < b.Metric
}

// onLink returns u's on-link IPv4 prefixes and its other IPv4 routes but the default.
// Where the same destination comes twice, the lower metric wins.
func (u *Uplink) routes4() (onLink []netip.Prefix, via map[netip.Prefix]netip.Addr) {
	via = make(map[netip.Prefix]netip.Addr)
	best := make(map[netip.Prefix]uint32)
	for _, a := range u.Addresses {
		if a.Addr().Is4() && a.Bits() < 32 && a.Bits() > 0 {
			best[a.Masked()] = 0
			via[a.Masked()] = netip.Addr{}
		}
	}
	for _, r := range u.Routes {
		if !r.Dst.Addr().Is4() || r.Dst.Bits() == 0 || (r.Via.IsValid() && !r.Via.Is4()) {
			continue
		}
		if m, ok := best[r.Dst]; ok && m <= r.Metric {
			continue
		}
		best[r.Dst], via[r.Dst] = r.Metric, r.Via
	}
	for dst, gw := range via {
		if !gw.IsValid() {
			onLink = append(onLink, dst)
			delete(via, dst)
		}
	}
	return onLink, via
}

// unusable says why no lane can leave by u now; empty when one can.
func (u *Uplink) unusable(h *Host) string {
	link, ok := h.Links[u.Interface]
	switch {
	case !ok:
		return u.Interface + " is gone"
	case u.Phase == PhaseDown:
		return u.Interface + " is not connected"
	case !link.Running:
		return u.Interface + " has no carrier"
	}
	if _, ok := u.Gateway(); !ok {
		if u.Phase == PhaseChanging {
			return u.Interface + " is connecting"
		}
		return u.Interface + " has no IPv4 default route"
	}
	if !slices.ContainsFunc(u.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
		return u.Interface + " has no IPv4 address"
	}
	return ""
}
