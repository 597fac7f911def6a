// Package policy decides what a lane is in the kernel. It is pure: it knows no
// D-Bus, no netlink, no process and no clock, so every branch of it is tested
// without root.
//
// The way through it: [Decide] takes one [Input], everything that was seen at one
// moment, and returns a [Decision]: the desired [State], the [Op]s that lead there
// from the observed one, how each lane is and why, and what to remember.
package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Lane is what the user asks for: one lane file, with every default of
// uplane.toml already filled in.
type Lane struct {
	Name     string
	Uplink   []Selector     // in order of preference; never empty
	Subnet   netip.Prefix   // IPv4, masked; zero: automatic
	Table    uint32         // zero: automatic
	Mark     uint32         // zero: none
	MarkMask uint32         // the bits of a mark that count; zero: all
	Bridge   string         // name of the bridge; empty: ul-NAME
	NoBridge bool           // the address goes on the veth's host end instead
	DNS      []netip.Addr   // empty: the uplink's
	Allow    []netip.Prefix // reachable beside the uplink, by the main table
	// AllowHost: the lane may reach the host itself.
	AllowHost bool
	IPv6      IPv6Mode
	Enabled   bool

	// External: Bridge is NetworkManager's, which makes and deletes it and gives it its address.
	// What the bridge has counts; Subnet and Gateway are what its profile says, for as long as it
	// has none.
	External bool       `json:",omitzero"`
	Gateway  netip.Addr `json:",omitzero"`
}

// equal tells whether two lanes are defined alike, at a tenth of what reflection takes.
func (l *Lane) equal(o *Lane) bool {
	return l.Name == o.Name && slices.Equal(l.Uplink, o.Uplink) && l.Subnet == o.Subnet && l.Table == o.Table && l.Mark == o.Mark &&
		l.MarkMask == o.MarkMask && l.Bridge == o.Bridge && l.NoBridge == o.NoBridge && slices.Equal(l.DNS, o.DNS) &&
		slices.Equal(l.Allow, o.Allow) && l.AllowHost == o.AllowHost && l.IPv6 == o.IPv6 && l.Enabled == o.Enabled &&
		l.External == o.External && l.Gateway == o.Gateway
}

// markMask is what the rule by mark looks at; the witness bit is not the user's.
func (l *Lane) markMask() uint32 {
	if l.MarkMask == 0 {
		return ^uint32(Witness)
	}
	return l.MarkMask &^ Witness
}

// markText is the mark as a lane file has it.
func (l *Lane) markText() string {
	if l.MarkMask == 0 {
		return strconv.FormatUint(uint64(l.Mark), 10)
	}
	return fmt.Sprintf("%#x/%#x", l.Mark, l.MarkMask)
}

// SharesMark tells whether the mark of one packet can be both l's and o's.
func (l *Lane) SharesMark(o *Lane) bool {
	return l.Mark != 0 && o.Mark != 0 && sameMark(l.Mark, l.markMask(), o.Mark, o.markMask())
}

// sameMark tells whether a packet's mark can match two marks, each in the bits of its mask.
func sameMark(mark1, mask1, mark2, mask2 uint32) bool { return (mark1^mark2)&mask1&mask2 == 0 }

// IPv6Mode says what a lane does with IPv6.
type IPv6Mode string

// The values of the lane key ipv6.
const (
	IPv6Auto IPv6Mode = "auto"
	IPv6Off  IPv6Mode = "off"
)

// CheckLaneName returns an error that tells the allowed form unless name can be
// a lane's name. Lane names become file, namespace and object-path names.
func CheckLaneName(name string) error {
	if !spelled(name, 32, isLower, "_-", "_-") {
		return fmt.Errorf("invalid lane name %.40q: use 1 to 32 of a-z 0-9 _ -, the first a letter or digit", name)
	}
	return nil
}

// CheckInterfaceName returns an error unless the kernel would take name for a
// network interface and a shell line could carry it unquoted. It is stricter
// than the kernel's dev_valid_name, which allows any byte but '/', ':' and
// white space, but reserves all and default, which mean every interface among
// the sysctls.
func CheckInterfaceName(name string) error {
	switch name {
	case ".", "..", "all", "default":
		return fmt.Errorf("invalid interface name %q: the kernel keeps it for itself; use another", name)
	}
	if !spelled(name, 15, isLetter, "._-", "-") {
		return fmt.Errorf("invalid interface name %.40q: use 1 to 15 of a-z A-Z 0-9 . _ -, the first no dash", name)
	}
	return nil
}

// spelled tells whether s is 1 to most bytes long, all of them letters, digits
// or in others, and the first not in notFirst. A regular expression would say it
// shorter, but costs every start of "uplane run" 0.1 ms.
func spelled(s string, most int, letter func(byte) bool, others, notFirst string) bool {
	if s == "" || len(s) > most || strings.IndexByte(notFirst, s[0]) >= 0 {
		return false
	}
	for _, c := range []byte(s) {
		if !letter(c) && !('0' <= c && c <= '9') && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return true
}

func isLower(c byte) bool  { return 'a' <= c && c <= 'z' }
func isLetter(c byte) bool { return isLower(c | 0x20) }

// Lanes' tables and subnets must stay clear of what the kernel reserves.
const (
	minSubnetBits = 8
	maxSubnetBits = 30
)

// CheckTable returns an error unless a lane may use routing table n: 0 means
// "unspecified" to the kernel, 253 to 255 are default, main and local, and one is
// ours for all lanes together.
func CheckTable(n uint32) error {
	if n == LanesTable {
		return fmt.Errorf("invalid table %d: Uplane keeps the subnets of all lanes in it; use another", n)
	}
	if n == 0 || (n >= 253 && n <= 255) {
		return fmt.Errorf("invalid table %d: use 1 to 4294967295 except 253-255 (default, main, local)", n)
	}
	return nil
}

// CheckSubnet returns an error unless p can be a lane's subnet: IPv4 unicast
// space, masked, with room for the two ends of the lane. It need not be private:
// a lane may stand for a network that the administrator has.
func CheckSubnet(p netip.Prefix) error {
	switch {
	case !p.IsValid() || !p.Addr().Is4():
		return fmt.Errorf("invalid subnet %v: use an IPv4 prefix such as 10.0.1.0/24", p)
	case p != p.Masked():
		return fmt.Errorf("invalid subnet %v: host bits are set; did you mean %v?", p, p.Masked())
	case p.Bits() < minSubnetBits || p.Bits() > maxSubnetBits:
		return fmt.Errorf("invalid subnet %v: the prefix length must be %d to %d", p, minSubnetBits, maxSubnetBits)
	case p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().IsUnspecified() || p.Addr().IsLinkLocalUnicast() || p.Addr().As4()[0] >= 240 || p.Addr().As4()[0] == 0:
		return fmt.Errorf("invalid subnet %v: not unicast space; use a private one such as 10.0.1.0/24", p)
	}
	return nil
}
