package walk

import (
	"fmt"
	"net/netip"

	"uplane/policy"
)

// route is one route of a table, whoever made it.
type route struct {
	dst    netip.Prefix
	metric uint32
	kind   policy.RouteType
	dev    string
	text   string
}

func hostRoute(r policy.HostRoute) route {
	text := r.Dst.String()
	if r.Via.IsValid() {
		text += " via " + r.Via.String()
	}
	return route{dst: r.Dst, metric: r.Metric, dev: r.Dev, text: fmt.Sprintf("%s dev %s table %d", text, r.Dev, r.Table)}
}

// lookup returns the route that a table has for a destination: the longest prefix, then the lowest metric.
func lookup(table []route, to netip.Addr) *route {
	var best *route
	for i := range table {
		r := &table[i]
		if r.dst.Contains(to) && (best == nil || r.dst.Bits() > best.dst.Bits() || r.dst.Bits() == best.dst.Bits() && r.metric < best.metric) {
			best = r
		}
	}
	return best
}
