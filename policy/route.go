package policy

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
)

// MainTable is the kernel's main routing table.
const MainTable = 254

// FloorMetric is the worst metric there is: the floor's route is only ever taken
// when nothing else is left.
const FloorMetric = math.MaxUint32

// RouteType is what a route does with a packet.
type RouteType string

// The types of route. The last two are floors: from the lane, an ICMP error at
// once instead of another way out; to the lane, silence, as the host would send
// that error to the internet by its own default.
const (
	Unicast     RouteType = ""
	Unreachable RouteType = "unreachable"
	Blackhole   RouteType = "blackhole"
	// Throw ends the look-up in this table; the rules go on.
	Throw RouteType = "throw"
)

// Route is a route of ours, with protocol 117.
type Route struct {
	Netns  string // empty: the host's
	Table  uint32
	Dst    netip.Prefix
	Metric uint32
	Type   RouteType  // empty: unicast
	Dev    string     // the interface; only of unicast
	Via    netip.Addr // the gateway; zero: on-link
	OnLink bool       // the gateway is reachable though no prefix covers it
}

func (r Route) key() key {
	return key{kind: kindRoute, netns: r.Netns, prefix: r.Dst, number: [5]uint32{r.Table, r.Metric}}
}

// rank tells the floor, prefixes and gateways apart for the order of building:
// the kernel takes a gateway only when a prefix already leads to it.
func (r Route) rank() kind {
	switch {
	case r.Type != Unicast && r.Netns == "":
		return kindFloor
	case r.Type != Unicast:
		return kindRoute // its namespace is there by then
	case !r.Via.IsValid():
		return kindOnLink
	}
	return kindRoute
}

func (r Route) dependsOn() []key {
	switch {
	case r.Type == Unicast:
	case r.Netns == "":
		return nil
	default:
		return []key{netnsKey(r.Netns)}
	}
	return linkIn(r.Netns, r.Dev)
}

func (r Route) String() string {
	var b strings.Builder
	if r.Type != Unicast {
		b.WriteString(string(r.Type) + " ")
	}
	if r.Dst.Bits() == 0 {
		b.WriteString("default")
	} else {
		b.WriteString(r.Dst.String())
	}
	if r.Via.IsValid() {
		fmt.Fprintf(&b, " via %s", r.Via)
	}
	if r.Dev != "" {
		fmt.Fprintf(&b, " dev %s", r.Dev)
	}
	if r.OnLink {
		b.WriteString(" onlink")
	}
	if r.Table != MainTable {
		fmt.Fprintf(&b, " table %d", r.Table)
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	fmt.Fprintf(&b, " proto %d", Protocol)
	return b.String()
}

func (r Route) add() []string {
	return []string{FamilyOf(r.Dst.Addr()).ip(r.Netns) + " route add " + r.String()}
}
func (r Route) replace(Object) []string {
	return []string{FamilyOf(r.Dst.Addr()).ip(r.Netns) + " route replace " + r.String()}
}
func (r Route) remove() []string {
	return []string{FamilyOf(r.Dst.Addr()).ip(r.Netns) + " route del " + r.String()}
}
