package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Uplink is a device NetworkManager manages, as far as a lane cares: who it is
// and which ways out it has. Addresses, routes and DNS servers may be of both
// families.
type Uplink struct {
	Interface  string
	Type       string // as nmcli names it: wifi, ethernet, gsm, bluetooth, …
	Connection string // the active profile's name
	UUID       string // the active profile's UUID
	SSID       string // Wi-Fi only

	Phase     Phase
	Addresses []netip.Prefix // with host bits, in NetworkManager's order
	Routes    []UplinkRoute  // the default included; the order does not matter
	DNS       []netip.Addr   // in order of preference
	Search    []string       // DNS search domains

	// Private: the active profile is some users' own (connection.permissions). Any user may make such a one, by any name.
	Private bool
	// Limited: the active profile names the lanes that this network serves, and it serves no other.
	Limited bool
	Lanes   []string // names, as the profile has them
}

// serves tells whether a lane may leave by u.
func (u *Uplink) serves(lane string) bool { return !u.Limited || slices.Contains(u.Lanes, lane) }

// unserving says that and why u serves another lane. What a private profile says is nobody else's business.
func (u *Uplink) unserving() string {
	if u.Private {
		return fmt.Sprintf("a private profile on %s does not serve it", u.Interface)
	}
	if len(u.Lanes) == 0 {
		return fmt.Sprintf("%s on %s serves no lane", u.Connection, u.Interface)
	}
	return fmt.Sprintf("%s on %s serves only %s", u.Connection, u.Interface, strings.Join(u.Lanes, ", "))
}

// Phase is how far a device is with its connection.
type Phase int

// The phases, from NetworkManager's device states.
const (
	PhaseDown     Phase = iota // no connection, or it is being taken down
	PhaseChanging              // between PREPARE and SECONDARIES: being (re)activated
	PhaseActive                // ACTIVATED
)

// UplinkRoute is one way out of an uplink.
type UplinkRoute struct {
	Dst    netip.Prefix // masked
	Via    netip.Addr   // zero: on-link
	Metric uint32
}

// is4 tells whether r is an IPv4 route with an IPv4 next hop, or none.
func (r *UplinkRoute) is4() bool { return r.of(netip.Addr.Is4) }

func (r *UplinkRoute) of(family func(netip.Addr) bool) bool {
	return family(r.Dst.Addr()) && (!r.Via.IsValid() || family(r.Via))
}

// before tells whether r is taken rather than o, of the same destination. The
// next hop decides only so that the order of routes does not.
func (r *UplinkRoute) before(o *UplinkRoute) bool {
	return cmp.Or(cmp.Compare(r.Metric, o.Metric), r.Via.Compare(o.Via)) < 0
}

// Gateway returns the next hop of the uplink's IPv4 default route with the
// lowest metric, and whether there is a default at all. A default without a next hop
// (point-to-point devices) gives a zero address and true.
func (u *Uplink) Gateway() (netip.Addr, bool) { return u.gateway(netip.Addr.Is4) }

// Gateway6 is Gateway for IPv6.
func (u *Uplink) Gateway6() (netip.Addr, bool) { return u.gateway(netip.Addr.Is6) }

func (u *Uplink) gateway(family func(netip.Addr) bool) (netip.Addr, bool) {
	var best *UplinkRoute
	for i := range u.Routes {
		r := &u.Routes[i]
		if r.Dst.Bits() == 0 && r.of(family) && (best == nil || r.before(best)) {
			best = r
		}
	}
	if best == nil {
		return netip.Addr{}, false
	}
	return best.Via, true
}
