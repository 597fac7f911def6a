package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"uplane/policy"
)

// settings is what one file says, on top of what it started from.
type settings struct {
	lane     policy.Lane
	firewall string
}

// builtin is what a lane is that says nothing. It is not complete: an uplink is
// missing.
var builtin = settings{
	lane:     policy.Lane{IPv6: policy.IPv6Auto, Enabled: true},
	firewall: "auto",
}

// key is one key of a configuration file: how to read it and how to write it.
type key struct {
	name   string
	about  string // for the manual, as is what goes without the key:
	absent string
	want   string // what is allowed; follows "use " in errors
	read   func(s *settings, v value, fail failFunc)
	show   func(s settings) string // as a TOML value
	// own says why uplane.toml cannot hold the key; empty: it can.
	own string
}

// failFunc reports that the value at a place is wrong.
type failFunc func(at value, err error)

// vague is an error that does not say what is allowed: the key's want follows.
type vague string

func (v vague) Error() string { return string(v) }

func vaguef(format string, args ...any) error { return vague(fmt.Sprintf(format, args...)) }

// Longest lists. All are far beyond use, but for DNS: resolv.conf(5) has a
// MAXNS of 3, and a server that is silently not asked would be a surprise.
const (
	maxUplinks = 16
	maxDNS     = 3
	maxAllow   = 64
)

// minAllowBits is the prefix length from which an allowed network is a network
// rather than a way around the lane: VPNs write the default route as two halves.
const minAllowBits = 8

const onlyOne = "no two lanes can share one; set it in a lane's own file"

// keys are the keys of a lane file, in the order in which they are written.
// uplane.toml holds the same ones, except for those that belong to one lane.
var keys = []key{
	{
		name:   "uplink",
		about:  "Where the lane leaves, in order of preference. A lane needs one, here or in uplane.toml.",
		absent: "none",
		want:   `a selector such as "wlp6s0", "ssid:Home" or "type:wifi", or a list of them in order of preference`,
		read: func(s *settings, v value, fail failFunc) {
			s.lane.Uplink = readList(v, maxUplinks, policy.ParseSelector, fail)
			if len(v.list()) == 0 {
				fail(v, vague("the list is empty"))
			}
		},
		show: func(s settings) string { return quoteList(s.lane.Uplink, true, policy.Selector.String) },
	},
	{
		name:   "subnet",
		about:  "The lane's own addresses; the first is the host's, the second the lane's.",
		absent: "the next free /24 from 10.0.1.0/24 on that collides with nothing on the host",
		want:   `an IPv4 prefix such as "10.0.1.0/24"`,
		read: func(s *settings, v value, fail failFunc) {
			s.lane.Subnet = readString(v, parseSubnet, fail)
		},
		show: func(s settings) string { return quote(showPrefix(s.lane.Subnet)) },
		own:  onlyOne,
	},
	{
		name:   "table",
		about:  "Its routing table.",
		absent: "the next free one from 100 on",
		want:   "a number from 1 to 4294967295 except 253-255",
		read: func(s *settings, v value, fail failFunc) {
			s.lane.Table = readUint32(v, policy.CheckTable, fail)
		},
		show: func(s settings) string { return strconv.FormatUint(uint64(s.lane.Table), 10) },
		own:  onlyOne,
	},
	{
		name:   "mark",
		about:  "Also mark its packets, and route packets that others mark so. With a mask, only its bits of a mark count.",
		absent: "none",
		want:   `a number from 1 to 4294967295 such as 100, or with a mask such as "0x64/0xff"`,
		read:   readMark,
		show:   func(s settings) string { return showMark(s.lane.Mark, s.lane.MarkMask) },
		own:    onlyOne,
	},
	{
		name:   "bridge",
		about:  "The bridge that the host has for it.",
		absent: "true",
		want:   `an interface name such as "br0", or false for none, or true for ul-NAME`,
		read:   readBridge,
		show: func(s settings) string {
			switch {
			case s.lane.NoBridge:
				return "false"
			case s.lane.Bridge == "":
				return "true"
			}
			return quote(s.lane.Bridge)
		},
	},
	{
		name:   "dns",
		about:  "The servers that it asks for names.",
		absent: "the uplink's",
		want:   `a list of addresses such as ["9.9.9.9"]; empty for the uplink's`,
		read: func(s *settings, v value, fail failFunc) {
			s.lane.DNS = readList(v, maxDNS, parseDNS, fail)
		},
		show: func(s settings) string { return quoteList(s.lane.DNS, false, netip.Addr.String) },
	},
	{
		name:   "allow",
		about:  "Networks that it may reach beside its uplink, by the main table, and \"host\" for the host itself.",
		absent: "none",
		want:   `a list of IPv4 prefixes such as ["192.168.50.0/24"], with "host" for the host itself; empty for none`,
		read: func(s *settings, v value, fail failFunc) {
			all := readList(v, maxAllow, parseAllow, fail)
			s.lane.Allow, s.lane.AllowHost = nil, slices.Contains(all, theHost)
			for _, p := range all {
				if p != theHost {
					s.lane.Allow = append(s.lane.Allow, p)
				}
			}
		},
		show: func(s settings) string { return quoteList(allowed(&s.lane), false, func(s string) string { return s }) },
	},
	{
		name:   "ipv6",
		about:  "IPv6 in the lane. So far it is off either way: nothing leaves by it.",
		absent: `"auto"`,
		want:   `"auto" or "off"`,
		read: func(s *settings, v value, fail failFunc) {
			s.lane.IPv6 = readString(v, oneOf(policy.IPv6Auto, policy.IPv6Off), fail)
		},
		show: func(s settings) string { return quote(string(s.lane.IPv6)) },
	},
	{
		name:   "enabled",
		about:  "Whether the lane is wanted when nobody has said up or down since the boot.",
		absent: "true",
		want:   "true or false",
		read: func(s *settings, v value, fail failFunc) {
			if wrongKind(v, fail, unstable.Bool) {
				return
			}
			s.lane.Enabled = v.text == "true"
		},
		show: func(s settings) string { return strconv.FormatBool(s.lane.Enabled) },
	},
}

// firewall is the one key that uplane.toml has and a lane file has not.
var firewall = key{
	name:   "firewall",
	about:  "What the firewall is made with: a table of nftables, or iptables rules as one would type them.",
	absent: `"auto", which is nftables where the kernel has it`,
	want:   `"auto", "iptables" or "nftables"`,
	read: func(s *settings, v value, fail failFunc) {
		s.firewall = readString(v, oneOf("auto", "iptables", "nftables"), fail)
	},
	show: func(s settings) string { return quote(s.firewall) },
}

// keyNamed finds a key of a lane file, or the key firewall.
func keyNamed(name string) (key, bool) {
	if name == firewall.name {
		return firewall, true
	}
	i := slices.IndexFunc(keys, func(k key) bool { return k.name == name })
	if i < 0 {
		return key{}, false
	}
	return keys[i], true
}

// keyNames lists the keys of uplane.toml, or those of a lane file.
func keyNames(defaults bool) string {
	var names []string
	for _, k := range keys {
		if !defaults || k.own == "" {
			names = append(names, k.name)
		}
	}
	if defaults {
		names = append(names, firewall.name)
	}
	return strings.Join(names, ", ")
}

func readBridge(s *settings, v value, fail failFunc) {
	s.lane.Bridge, s.lane.NoBridge = "", v.text == "false"
	if wrongKind(v, fail, unstable.String, unstable.Bool) || v.kind == unstable.Bool {
		return
	}
	s.lane.NoBridge = false
	s.lane.Bridge = readString(v, parseBridge, fail)
}

// readString gives parse the string v.
func readString[T any](v value, parse func(string) (T, error), fail failFunc) (got T) {
	if wrongKind(v, fail, unstable.String) {
		return got
	}
	got, err := parse(v.text)
	if err != nil {
		fail(v, err)
	}
	return got
}

// readList gives parse every string of the list v. The same twice is refused:
// it is a slip, and would be the same kernel object twice.
func readList[T comparable](v value, most int, parse func(string) (T, error), fail failFunc) []T {
	items := v.list()
	if len(items) > most {
		fail(v, fmt.Errorf("the list has %d items: use %d at most", len(items), most))
		return nil
	}
	var got []T
	for _, item := range items {
		if wrongKind(item, fail, unstable.String) {
			continue
		}
		it, err := parse(item.text)
		switch {
		case err != nil:
			fail(item, err)
		case slices.Contains(got, it):
			fail(item, fmt.Errorf("%q is in the list twice: use it once", item.text))
		default:
			got = append(got, it)
		}
	}
	return got
}

// readUint32 reads v in any notation that TOML has for whole numbers.
func readUint32(v value, check func(uint32) error, fail failFunc) uint32 {
	if wrongKind(v, fail, unstable.Integer) {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(v.text, "+"), 0, 32)
	if err != nil {
		fail(v, vaguef("%.40s is out of range", v.text))
		return 0
	}
	if err := check(uint32(n)); err != nil {
		fail(v, err)
	}
	return uint32(n)
}

// wrongKind tells whether v is of none of the kinds, and reports that.
func wrongKind(v value, fail failFunc, kinds ...unstable.Kind) bool {
	if slices.Contains(kinds, v.kind) {
		return false
	}
	fail(v, vaguef("%s is of the wrong type", kindWords[v.kind]))
	return true
}

// readMark reads a number, or "VALUE/MASK" as iptables prints it.
func readMark(s *settings, v value, fail failFunc) {
	s.lane.Mark, s.lane.MarkMask = 0, 0
	if v.kind != unstable.String {
		s.lane.Mark = readUint32(v, func(n uint32) error { return checkMark(n, allBits) }, fail)
		return
	}
	value, mask, _ := strings.Cut(v.text, "/")
	n, err := parseBits(value)
	m, merr := parseBits(mask)
	if err != nil || merr != nil {
		fail(v, vaguef("invalid mark %.40q", v.text))
		return
	}
	if err := checkMark(n, m); err != nil {
		fail(v, err)
	}
	if s.lane.Mark = n; m != allBits {
		s.lane.MarkMask = m
	}
}

// allBits as a mask is none.
const allBits = ^uint32(0)

func parseBits(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 0, 32)
	return uint32(n), err
}

func checkMark(value, mask uint32) error {
	switch {
	case value == 0:
		return errors.New("invalid mark 0: leave the key out for no mark")
	case value&^mask != 0:
		return fmt.Errorf("invalid mark %#x/%#x: the value has bits outside of the mask; did you mean %#x/%#x?", value, mask, value, value|mask)
	case value&policy.Witness != 0 || mask != allBits && mask&policy.Witness != 0:
		return fmt.Errorf("invalid mark: bit %#x is Uplane's own, by which it knows lanes' packets; use a mark and a mask without it", policy.Witness)
	}
	return nil
}

// showMark writes a mark as readMark reads it.
func showMark(value, mask uint32) string {
	if mask == 0 {
		return strconv.FormatUint(uint64(value), 10)
	}
	return quote(fmt.Sprintf("%#x/%#x", value, mask))
}

func parseSubnet(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, vaguef("invalid subnet %.40q", s)
	}
	return p, policy.CheckSubnet(p)
}

func parseBridge(s string) (string, error) {
	// The kernel has sysctl folders of these names that stand for every
	// interface, and lo is never free.
	if s == "all" || s == "default" || s == "lo" {
		return "", fmt.Errorf("invalid bridge %q: the kernel keeps that name for itself", s)
	}
	return s, policy.CheckInterfaceName(s)
}

func parseDNS(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, vaguef("invalid address %.40q", s)
	case a.IsLoopback():
		return a, fmt.Errorf("invalid address %s: a lane has its own loopback, where no server listens", s)
	case a.Zone() != "" || a.IsLinkLocalUnicast():
		return a, fmt.Errorf("invalid address %s: a link-local one means nothing inside a lane", s)
	case a.IsUnspecified() || a.IsMulticast() || a.Is4In6() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return a, fmt.Errorf("invalid address %s: no server can have it", s)
	}
	return a, nil
}

// theHost stands for "host" among the networks of allow, of which none is as large.
var theHost = netip.MustParsePrefix("0.0.0.0/0")

// allowed are the items of the key allow.
func allowed(l *policy.Lane) []string {
	var items []string
	for _, p := range l.Allow {
		items = append(items, p.String())
	}
	if l.AllowHost {
		items = append(items, "host")
	}
	return items
}

func parseAllow(s string) (netip.Prefix, error) {
	if s == "host" {
		return theHost, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
			return p, fmt.Errorf("invalid network %q: did you mean %s/32?", s, a)
		}
		return p, vaguef("invalid network %.40q", s)
	}
	switch a := p.Addr(); {
	case !a.Is4():
		return p, fmt.Errorf("invalid network %s: it is not IPv4", s)
	case p != p.Masked():
		return p, fmt.Errorf("invalid network %s: host bits are set; did you mean %v?", s, p.Masked())
	case p.Bits() < minAllowBits:
		return p, fmt.Errorf("invalid network %s: so much would lead around the lane; the prefix length must be %d to 32", s, minAllowBits)
	case a.IsLoopback() || a.IsMulticast() || a.As4()[0] == 0 || a.As4()[0] >= 240:
		return p, fmt.Errorf("invalid network %s: no host in it can be reached", s)
	}
	return p, nil
}

// oneOf makes a parser that takes the given words.
func oneOf[T ~string](words ...T) func(string) (T, error) {
	return func(s string) (T, error) {
		if slices.Contains(words, T(s)) {
			return T(s), nil
		}
		return "", vaguef("invalid value %.40q", s)
	}
}

// showPrefix writes the zero prefix as an empty string.
func showPrefix(p netip.Prefix) string {
	if p == (netip.Prefix{}) {
		return ""
	}
	return p.String()
}
