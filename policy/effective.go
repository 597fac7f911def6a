package policy

import (
	"cmp"
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
	best := u.kernelDefault(h.Routes)
	u.Routes = slices.DeleteFunc(slices.Clone(u.Routes), func(r UplinkRoute) bool { return r.is4() && r.Dst.Bits() == 0 })
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

// KernelGateway returns the next hop of u's default among the kernel's routes, and whether there is a default.
func (u *Uplink) KernelGateway(routes []HostRoute) (netip.Addr, bool) {
	r := u.kernelDefault(routes)
	if r == nil {
		return netip.Addr{}, false
	}
	return r.Via, true
}

// kernelDefault is the default that NetworkManager wrote for u; nil: none.
func (u *Uplink) kernelDefault(routes []HostRoute) (best *HostRoute) {
	for i := range routes {
		r := &routes[i]
		if r.managed(u.Interface) && (best == nil || u.better(r, best)) {
			best = r
		}
	}
	return best
}

// managed tells whether r is an IPv4 default of NetworkManager's by an interface.
func (r *HostRoute) managed(iface string) bool {
	return r.Dev == iface && r.Dst.Bits() == 0 && r.Dst.Addr().Is4() && byManager(r.Protocol)
}

// leaves tells whether the kernel has an IPv4 default route of NetworkManager's by
// an interface.
func (h *Host) leaves(iface string) bool {
	return slices.ContainsFunc(h.Routes, func(r HostRoute) bool { return r.managed(iface) })
}

// byManager tells whether NetworkManager writes routes with protocol p.
func byManager(p int) bool { return p == ProtoDHCP || p == ProtoStatic || p == ProtoRA }

// better prefers the main table, then the lower metric, as the host's own
// look-up would, then what NetworkManager has not told of; the rest decides only
// so that the order of routes does not.
func (u *Uplink) better(a, b *HostRoute) bool {
	if (a.Table == MainTable) != (b.Table == MainTable) {
		return a.Table == MainTable
	}
	if c := cmp.Or(cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Table, b.Table)); c != 0 {
		return c < 0
	}
	if ta, tb := u.tells(a), u.tells(b); ta != tb {
		return tb
	}
	return a.Via.Compare(b.Via) < 0
}

// tells tells whether r is among what NetworkManager said of u.
func (u *Uplink) tells(r *HostRoute) bool {
	return slices.Contains(u.Routes, UplinkRoute{Dst: r.Dst, Via: r.Via, Metric: r.Metric})
}

// tableRoutes is the part of a lane's table that follows the uplink: its
// prefixes, its other routes and the default, by destination. Where the same
// destination comes twice, the lower metric wins.
func (u *Uplink) tableRoutes() []Route {
	best := make(map[netip.Prefix]UplinkRoute)
	for _, a := range u.Addresses {
		if a.Addr().Is4() && a.Bits() < 32 && a.Bits() > 0 {
			best[a.Masked()] = UplinkRoute{Dst: a.Masked()}
		}
	}
	for _, r := range u.Routes {
		if old, ok := best[r.Dst]; r.is4() && (!ok || r.before(&old)) {
			best[r.Dst] = r
		}
	}
	covered := func(gw netip.Addr) bool {
		for dst, r := range best {
			if !r.Via.IsValid() && dst.Bits() > 0 && dst.Contains(gw) {
				return true
			}
		}
		return false
	}
	out := make([]Route, 0, len(best))
	for _, r := range best {
		out = append(out, Route{Dst: r.Dst, Via: r.Via, Dev: u.Interface, OnLink: r.Via.IsValid() && !covered(r.Via)})
	}
	slices.SortFunc(out, func(a, b Route) int { return a.Dst.Compare(b.Dst) })
	return out
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
