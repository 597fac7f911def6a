package dispatcher

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Told is what an event says of its interface's addresses. It goes into messages
// and nowhere else: on a renewal NetworkManager 1.52 sends the old gateway beside
// the new router, and on a reapply every version does.
type Told struct {
	Addresses []netip.Prefix // IP4_ADDRESS_0 …
	Gateway   netip.Addr     // IP4_GATEWAY
	Routers   []netip.Addr   // DHCP4_ROUTERS
	DNS       []netip.Addr   // IP4_NAMESERVERS
}

// maxTold bounds each list; a lease of 576 bytes has room for some hundred.
const maxTold = 8

func parseTold(env map[string]string) Told {
	t := Told{
		Gateway: parseAddr(env["IP4_GATEWAY"]),
		Routers: parseAddrs(env["DHCP4_ROUTERS"]),
		DNS:     parseAddrs(env["IP4_NAMESERVERS"]),
	}
	n, _ := strconv.Atoi(env["IP4_NUM_ADDRESSES"])
	for i := range min(n, maxTold) {
		// "192.168.50.4/24 192.168.50.1": the address, then the gateway once more.
		address, _, _ := strings.Cut(env[fmt.Sprintf("IP4_ADDRESS_%d", i)], " ")
		if p, err := netip.ParsePrefix(address); err == nil && p.Addr().Is4() {
			t.Addresses = append(t.Addresses, p)
		}
	}
	return t
}

// parseAddr returns the zero address for what is none, or means none.
func parseAddr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

func parseAddrs(s string) []netip.Addr {
	var out []netip.Addr
	for word := range strings.FieldsSeq(s) {
		if a := parseAddr(word); a.IsValid() && len(out) < maxTold {
			out = append(out, a)
		}
	}
	return out
}

// String has only what was told.
func (t Told) String() string {
	var parts []string
	for _, a := range t.Addresses {
		parts = append(parts, "address "+a.String())
	}
	if t.Gateway.IsValid() {
		parts = append(parts, "gateway "+t.Gateway.String())
	}
	for _, a := range t.Routers {
		parts = append(parts, "router "+a.String())
	}
	for _, a := range t.DNS {
		parts = append(parts, "name server "+a.String())
	}
	return strings.Join(parts, ", ")
}
