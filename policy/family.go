package policy

import "net/netip"

// Family is an address family. Everything a lane is made of exists per family.
type Family uint8

// The families. Zero is both, where an object may be of both.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns an address's family.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// String is the family as nft names it: ipv4 or ipv6.
func (f Family) String() string {
	if f == IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

// ip is the ip command for a family in a namespace; empty is the host's.
func (f Family) ip(netns string) string {
	if f == IPv6 {
		return ip(netns) + " -6"
	}
	return ip(netns)
}

var (
	default4 = netip.MustParsePrefix("0.0.0.0/0")
	default6 = netip.MustParsePrefix("::/0")
)

// Default is the family's default route's destination.
func (f Family) Default() netip.Prefix {
	if f == IPv6 {
		return default6
	}
	return default4
}
