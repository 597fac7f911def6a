package nm

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/Wifx/gonetworkmanager/v3"
	"github.com/godbus/dbus/v5"

	"uplane/policy"
)

// props are an object's properties, or those of them that have changed.
type props = map[string]dbus.Variant

// Bounds on what one configuration may bring. NetworkManager itself shows at
// most 100 routes of a device.
const (
	maxAddresses = 64
	maxRoutes    = 512
	maxServers   = 16
	maxDomains   = 32
)

// assign sets *dst to a property if it is there and of dst's type. A property of
// another type is as good as absent. A string is copied: godbus has all strings of a message in
// one piece of 4 KiB, which lives as long as one of them (with a thousand lanes, whose links NetworkManager
// shows, that was 41 MiB).
func assign[T any](dst *T, p props, key string) {
	v, ok := p[key].Value().(T)
	if !ok {
		return
	}
	*dst = v
	switch s := any(dst).(type) {
	case *string:
		*s = strings.Clone(*s)
	case *dbus.ObjectPath:
		*s = dbus.ObjectPath(strings.Clone(string(*s)))
	}
}

// convert sets *dst to what decode makes of a property, if that is there and of
// the type that decode takes.
func convert[T, D any](dst *D, p props, key string, decode func(T) D) {
	if v, ok := p[key].Value().(T); ok {
		*dst = decode(v)
	}
}

// device is a Device object.
type device struct {
	iface   string // of the hardware: enp7s0, cdc-wdm0, a Bluetooth address
	ipIface string // of its IP traffic: enp7s0, wwan0, ppp0; often empty while it has none
	kind    gonetworkmanager.NmDeviceType
	word    string // the type's name if kind alone does not tell it
	state   gonetworkmanager.NmDeviceState
	reason  gonetworkmanager.NmDeviceStateReason
	virtual bool // not in the kernel: a profile for a bridge that nobody has made yet
	active  dbus.ObjectPath
	ip4     dbus.ObjectPath
	ip6     dbus.ObjectPath

	// ran: its state has been PREPARE or more since NetworkManager started.
	ran bool
}

func (d *device) update(p props) {
	assign(&d.iface, p, "Interface")
	assign(&d.ipIface, p, "IpInterface")
	convert(&d.kind, p, "DeviceType", func(n uint32) gonetworkmanager.NmDeviceType { return gonetworkmanager.NmDeviceType(n) })
	convert(&d.state, p, "State", func(n uint32) gonetworkmanager.NmDeviceState { return gonetworkmanager.NmDeviceState(n) })
	convert(&d.reason, p, "StateReason", decodeReason)
	convert(&d.virtual, p, "Real", func(real bool) bool { return !real })
	assign(&d.active, p, "ActiveConnection")
	assign(&d.ip4, p, "Ip4Config")
	assign(&d.ip6, p, "Ip6Config")
	d.ran = d.ran || d.state >= gonetworkmanager.NmDeviceStatePrepare
}

// decodeReason reads the pair of a state and its reason.
func decodeReason(pair []any) gonetworkmanager.NmDeviceStateReason {
	if len(pair) == 2 {
		if reason, ok := pair[1].(uint32); ok {
			return gonetworkmanager.NmDeviceStateReason(reason)
		}
	}
	return gonetworkmanager.NmDeviceStateReasonUnknown
}

// phase is how far a lane cares about the state. The second result is false for
// a device that NetworkManager leaves alone.
func (d *device) phase() (policy.Phase, bool) {
	switch s := d.state; {
	case s == gonetworkmanager.NmDeviceStateActivated:
		return policy.PhaseActive, true
	case s >= gonetworkmanager.NmDeviceStatePrepare && s < gonetworkmanager.NmDeviceStateActivated:
		return policy.PhaseChanging, true
	default:
		return policy.PhaseDown, s > gonetworkmanager.NmDeviceStateUnmanaged
	}
}

// decodeModem is the type of a modem as nmcli names it, from its capabilities
// (NMDeviceModemCapabilities: 2 is CDMA; 4 GSM, 8 LTE, 64 5G).
func decodeModem(capabilities uint32) string {
	switch {
	case capabilities&(4|8|64) != 0:
		return "gsm"
	case capabilities&2 != 0:
		return "cdma"
	}
	return ""
}

// active is a Connection.Active object: a profile in use.
type active struct {
	id, uuid   string
	connection dbus.ObjectPath // the profile
	state      gonetworkmanager.NmActiveConnectionState
	// specific is the access point of a Wi-Fi connection.
	specific dbus.ObjectPath
}

func (a *active) update(p props) {
	convert(&a.id, p, "Id", printable)
	convert(&a.uuid, p, "Uuid", printable)
	assign(&a.specific, p, "SpecificObject")
	assign(&a.connection, p, "Connection")
	convert(&a.state, p, "State", func(n uint32) gonetworkmanager.NmActiveConnectionState {
		return gonetworkmanager.NmActiveConnectionState(n)
	})
}

// config is an IP4Config or IP6Config object. Its slices are handed out, so an
// update replaces and never changes them.
type config struct {
	ip6       bool
	addresses []netip.Prefix
	gateway   netip.Addr
	routes    []tableRoute
	dns       []netip.Addr
	searches  []string
	domains   []string

	out []policy.UplinkRoute // from gateway and routes
}

func (c *config) update(p props) {
	convert(&c.addresses, p, "AddressData", c.decodeAddresses)
	convert(&c.routes, p, "RouteData", c.decodeRoutes)
	// Empty when there is none, and then it must not stay.
	convert(&c.gateway, p, "Gateway", func(s string) netip.Addr {
		addr, _ := c.decodeAddr(s)
		return addr
	})
	if c.ip6 {
		convert(&c.dns, p, "Nameservers", decodeServers6)
	} else {
		convert(&c.dns, p, "NameserverData", c.decodeServers4)
	}
	convert(&c.searches, p, "Searches", decodeDomains)
	convert(&c.domains, p, "Domains", decodeDomains)
	c.out = waysOut(c.routes, c.gateway)
}

// search is what NetworkManager itself would write to resolv.conf: the search
// list if there is one, else the domain.
func (c *config) search() []string {
	if len(c.searches) > 0 {
		return c.searches
	}
	return c.domains
}

// decodeAddr reads an address of the configuration's family.
func (c *config) decodeAddr(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	if err != nil || addr.Is6() != c.ip6 || addr.Is4In6() || addr.Zone() != "" {
		return netip.Addr{}, false
	}
	return addr, true
}

// decodePrefix reads the keys address or dest and prefix of a dictionary.
func (c *config) decodePrefix(p props, key string) (netip.Prefix, bool) {
	var text string
	var bits uint32
	assign(&text, p, key)
	addr, ok := c.decodeAddr(text)
	if !ok {
		return netip.Prefix{}, false
	}
	if bits, ok = p["prefix"].Value().(uint32); !ok || bits > uint32(addr.BitLen()) {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr, int(bits)), true
}

func (c *config) decodeAddresses(data []map[string]dbus.Variant) []netip.Prefix {
	var addresses []netip.Prefix
	for _, entry := range data {
		prefix, ok := c.decodePrefix(entry, "address")
		if ok && !prefix.Addr().IsUnspecified() && len(addresses) < maxAddresses {
			addresses = append(addresses, prefix)
		}
	}
	return addresses
}

// tableRoute is a route with its table; mainTable if NetworkManager names none.
type tableRoute struct {
	policy.UplinkRoute
	table uint32
}

const mainTable = 254

func (c *config) decodeRoutes(data []map[string]dbus.Variant) []tableRoute {
	var routes []tableRoute
	for _, entry := range data {
		if kind, ok := entry["type"]; ok && kind.Value() != any("unicast") {
			continue
		}
		dst, ok := c.decodePrefix(entry, "dest")
		if !ok || dst.Addr().IsMulticast() {
			continue
		}
		route := tableRoute{policy.UplinkRoute{Dst: dst.Masked()}, mainTable}
		if hop, ok := entry["next-hop"]; ok {
			text, _ := hop.Value().(string)
			if route.Via, ok = c.decodeAddr(text); !ok || route.Via.IsMulticast() {
				continue // taken as on-link it would be another route
			}
			if route.Via.IsUnspecified() {
				route.Via = netip.Addr{}
			}
		}
		assign(&route.Metric, entry, "metric")
		assign(&route.table, entry, "table")
		routes = append(routes, route)
	}
	// NetworkManager's order changes when a route is replaced. The default, the
	// least specific, comes first, so that no bound cuts it off.
	slices.SortFunc(routes, compareRoutes)
	routes = slices.Compact(routes)
	return routes[:min(len(routes), maxRoutes)]
}

func compareRoutes(a, b tableRoute) int {
	return cmp.Or(
		cmp.Compare(a.Dst.Bits(), b.Dst.Bits()),
		a.Dst.Addr().Compare(b.Dst.Addr()),
		cmp.Compare(a.Metric, b.Metric),
		cmp.Compare(a.table, b.table),
		a.Via.Compare(b.Via),
	)
}

// waysOut selects the routes that are the profile's: those of the main table
// and, if there is no default among them, those of the table of the best default,
// for that is where ipv4.route-table puts them. NetworkManager shows routes of
// every table that the kernel has for the device and that it could have made
// itself, so also what others have put into tables of their own; a default in the
// main table says that they are not the profile's. (It does not show our own
// routes: it does not look at protocol 117.) The gateway is the main table's, for
// when the routes do not tell the default.
func waysOut(routes []tableRoute, gateway netip.Addr) []policy.UplinkRoute {
	table := uint32(mainTable)
	isDefault := func(r tableRoute) bool { return r.Dst.Bits() == 0 }
	inMain := func(r tableRoute) bool { return r.table == mainTable && isDefault(r) }
	if i := slices.IndexFunc(routes, isDefault); i >= 0 && !gateway.IsValid() && !slices.ContainsFunc(routes, inMain) {
		table = routes[i].table // the first is the one with the lowest metric
	}
	var out []policy.UplinkRoute
	if gateway.IsValid() && !gateway.IsUnspecified() && !slices.ContainsFunc(routes, inMain) {
		out = append(out, policy.UplinkRoute{Dst: netip.PrefixFrom(zeroAddr(gateway), 0), Via: gateway})
	}
	for _, r := range routes {
		if r.table == mainTable || r.table == table {
			out = append(out, r.UplinkRoute)
		}
	}
	return slices.Compact(out)
}

// zeroAddr is 0.0.0.0 or ::, whichever is of addr's family.
func zeroAddr(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func (c *config) decodeServers4(data []map[string]dbus.Variant) []netip.Addr {
	var servers []netip.Addr
	for _, entry := range data {
		var text string
		assign(&text, entry, "address")
		if addr, ok := c.decodeAddr(text); ok {
			servers = appendServer(servers, addr)
		}
	}
	return servers
}

// decodeServers6 reads what IPv6 has instead of NameserverData.
func decodeServers6(data [][]byte) []netip.Addr {
	var servers []netip.Addr
	for _, bytes := range data {
		if addr, ok := netip.AddrFromSlice(bytes); ok && addr.Is6() && !addr.Is4In6() {
			servers = appendServer(servers, addr)
		}
	}
	return servers
}

// appendServer keeps the order of preference.
func appendServer(servers []netip.Addr, addr netip.Addr) []netip.Addr {
	if len(servers) == maxServers || addr.IsUnspecified() || addr.IsMulticast() || slices.Contains(servers, addr) {
		return servers
	}
	return append(servers, addr)
}

// decodeDomains keeps what may stand in a resolv.conf, and so drops routing-only
// domains (~lan) as well as injected lines.
func decodeDomains(names []string) []string {
	var domains []string
	for _, name := range names {
		if len(domains) < maxDomains && isDomain(name) && !slices.Contains(domains, name) {
			domains = append(domains, strings.Clone(name))
		}
	}
	return domains
}
