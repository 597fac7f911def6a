package policy

import (
	"cmp"
	"slices"
)

// Idle tells connected uplinks apart: main is the one that the host's own
// packets leave by, nil when there is none, and idle are the others, which a lane
// may have, the best first: Wi-Fi, then other cards by the metric of their default
// route. Tunnels are neither, for they leave by one of them.
func Idle(uplinks []Uplink) (main *Uplink, idle []*Uplink) {
	for i := range uplinks {
		u := &uplinks[i]
		if _, ok := u.Gateway(); ok && u.Phase == PhaseActive && !u.tunnel() {
			idle = append(idle, u)
		}
	}
	if len(idle) == 0 {
		return nil, nil
	}
	slices.SortFunc(idle, func(a, b *Uplink) int {
		return cmp.Or(cmp.Compare(a.metric(), b.metric()), cmp.Compare(a.Interface, b.Interface))
	})
	main, idle = idle[0], idle[1:]
	slices.SortStableFunc(idle, func(a, b *Uplink) int { return cmp.Compare(notWiFi(a), notWiFi(b)) })
	return main, idle
}

func notWiFi(u *Uplink) int {
	if u.Type == "wifi" {
		return 0
	}
	return 1
}

// tunnel tells whether u's packets leave the host by another uplink.
func (u *Uplink) tunnel() bool {
	return slices.Contains([]string{"tun", "wireguard", "vpn", "ip-tunnel", "vxlan"}, u.Type)
}

// metric is that of the IPv4 default route; there is one.
func (u *Uplink) metric() uint32 {
	best := ^uint32(0)
	for i := range u.Routes {
		if r := &u.Routes[i]; r.is4() && r.Dst.Bits() == 0 {
			best = min(best, r.Metric)
		}
	}
	return best
}
