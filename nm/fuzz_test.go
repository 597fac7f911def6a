package nm

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/godbus/dbus/v5"

	"uplane/policy"
)

// FuzzDecode feeds object trees with properties of the right names and any type
// and value through decoding and assembling. Nothing may panic, and whatever
// comes out must be fit for the kernel, for files and for terminals.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09"))
	f.Add([]byte(strings.Repeat("\x02\x01\x64\x03\x11\x09\xff\x07", 40)))
	f.Fuzz(func(t *testing.T, data []byte) {
		g := &generator{data: data}
		tr := newTree()
		var prev []policy.Uplink
		for !g.done() {
			path, iface := pick(g, fuzzPaths), pick(g, fuzzIfaces)
			switch g.byte() % 8 {
			case 0, 1, 2:
				tr.change(path, iface, g.props(3))
			case 3:
				tr.remove(path, []string{iface})
			default:
				tr.add(path, map[string]props{iface: g.props(3), pick(g, fuzzIfaces): g.props(3)})
			}
			tr.missing()
			next := tr.uplinks(prev)
			check(t, next)
			if again := tr.uplinks(prev); !equal(next, again) {
				t.Fatalf("two answers:\n%s\n%s", describe(next), describe(again))
			}
			prev = next
		}
	})
}

func check(t *testing.T, uplinks []policy.Uplink) {
	t.Helper()
	for i, u := range uplinks {
		switch {
		case policy.CheckInterfaceName(u.Interface) != nil, u.Interface == "lo":
			t.Fatalf("interface %q", u.Interface)
		case i > 0 && uplinks[i-1].Interface >= u.Interface:
			t.Fatalf("%q after %q", u.Interface, uplinks[i-1].Interface)
		case u.Phase == policy.PhaseDown && (u.Addresses != nil || u.Routes != nil || u.DNS != nil || u.Search != nil):
			t.Fatalf("down, but %+v", u)
		}
		for _, s := range []string{u.Type, u.Connection, u.UUID, u.SSID} {
			if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
				t.Fatalf("unfit text %q", s)
			}
		}
		for _, a := range u.Addresses {
			if !a.IsValid() || a.Addr().IsUnspecified() || a.Addr().Is4In6() || a.Addr().Zone() != "" {
				t.Fatalf("address %v", a)
			}
		}
		for _, r := range u.Routes {
			if !r.Dst.IsValid() || r.Dst != r.Dst.Masked() || r.Via.IsValid() && (r.Via.Is4() != r.Dst.Addr().Is4() || r.Via.IsUnspecified()) {
				t.Fatalf("route %+v", r)
			}
		}
		for _, a := range u.DNS {
			if !a.IsValid() || a.Zone() != "" || a.IsUnspecified() {
				t.Fatalf("name server %v", a)
			}
		}
		for _, name := range u.Search {
			if !isDomain(name) {
				t.Fatalf("search domain %q", name)
			}
		}
	}
}

// FuzzSSID: any bytes can be a network's name.
func FuzzSSID(f *testing.F) {
	f.Add([]byte("Caf\xe9\x1b[2J"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := decodeSSID(data)
		if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) || (s == "") != (len(data) == 0) {
			t.Fatalf("%q", s)
		}
	})
}

var (
	fuzzPaths  = []dbus.ObjectPath{dev, conn, ip4, ip6, ap1, dev + "0", managerPath, noObject, ""}
	fuzzIfaces = []string{
		ifaceDevice, ifaceActive, ifaceIP4, ifaceIP6, ifaceAccessPoint, ifaceManager, ifaceGeneric, ifaceModem, "x",
	}
	fuzzKeys = []string{
		"Interface", "IpInterface", "DeviceType", "State", "Real", "ActiveConnection", "Ip4Config", "Ip6Config", "Id", "Uuid",
		"SpecificObject", "AddressData", "RouteData", "Gateway", "NameserverData", "Nameservers", "Searches", "Domains", "Ssid",
		"Startup", "CurrentCapabilities", "TypeDescription", "address", "dest", "prefix", "next-hop", "metric", "table", "type",
	}
	fuzzTexts = []string{
		"", "lo", "wlp6s0", "enp7s0", "a b", "192.0.2.1", "0.0.0.0", "2001:db8::1", "::", "::ffff:192.0.2.1", "fe80::1%lo",
		"unicast", "local", "lan.example", "-x", "~.", "a\nb", "\x1b[2J", "\xff", "é", "\ufffd",
	}
	fuzzNumbers = []uint32{0, 1, 2, 8, 14, 20, 24, 30, 32, 33, 40, 64, 70, 100, 110, 128, 129, 254, 500, 1 << 31, 1<<32 - 1}
)

// generator makes values from a fuzzer's bytes; zeros when they have run out.
type generator struct{ data []byte }

func (g *generator) done() bool { return len(g.data) == 0 }

func (g *generator) byte() byte {
	if g.done() {
		return 0
	}
	b := g.data[0]
	g.data = g.data[1:]
	return b
}

func pick[T any](g *generator, from []T) T { return from[int(g.byte())%len(from)] }

func (g *generator) list(n byte) int { return int(g.byte() % n) }

func (g *generator) props(depth int) props {
	p := props{}
	for range g.list(8) {
		p[pick(g, fuzzKeys)] = g.variant(depth)
	}
	return p
}

func (g *generator) variant(depth int) dbus.Variant {
	switch g.byte() % 16 {
	case 0:
		return dbus.Variant{} // what a broken library could hand us
	case 1:
		return dbus.MakeVariant(g.byte()%2 == 0)
	case 2:
		return dbus.MakeVariant(g.byte())
	case 3:
		return dbus.MakeVariant(int32(pick(g, fuzzNumbers)))
	case 4, 5, 6:
		return dbus.MakeVariant(pick(g, fuzzNumbers))
	case 7, 8, 9:
		return dbus.MakeVariant(pick(g, fuzzTexts))
	case 10:
		return dbus.MakeVariant(pick(g, fuzzPaths))
	case 11:
		return dbus.MakeVariant(slices.Repeat([]string{pick(g, fuzzTexts), pick(g, fuzzTexts)}, g.list(20)))
	case 12:
		six := netip.MustParseAddr("2001:db8::1").As16()
		return dbus.MakeVariant([][]byte{{}, six[:], {1, 2, 3, g.byte()}, make([]byte, 16)}[:g.list(5)])
	case 13:
		text := []byte(pick(g, fuzzTexts))
		return dbus.MakeVariant(append(text, g.byte()))
	default:
		if depth == 0 {
			return dbus.MakeVariant([]any{})
		}
		dicts := make([]props, g.list(4))
		for i := range dicts {
			dicts[i] = g.props(depth - 1)
		}
		return dbus.MakeVariant(dicts)
	}
}
