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
		var lanes []policy.Profile
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
			for _, path := range tr.unread {
				if p := tr.profiles[path]; p != nil && g.byte()%2 == 0 {
					*p = decodeProfile(g.settings())
				}
			}
			tr.unread = nil
			lanes = tr.lanes(lanes)
			checkProfiles(t, lanes)
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

// checkProfiles: texts are fit for terminals, and the order is one.
func checkProfiles(t *testing.T, profiles []policy.Profile) {
	t.Helper()
	for i, p := range profiles {
		texts := []string{p.UUID, p.Name, p.Interface, p.Lane, p.Method}
		for name, value := range p.Keys {
			texts = append(texts, name, value)
		}
		for _, s := range texts {
			if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) || len(s) > 4*maxUserText {
				t.Fatalf("unfit text %q", s)
			}
		}
		if i > 0 && p.Name < profiles[i-1].Name || p.Lane == "" || len(p.Keys) > maxUserKeys {
			t.Fatalf("%+v", p)
		}
	}
}

// settings makes a profile's.
func (g *generator) settings() settings {
	s := settings{}
	for range g.list(6) {
		section := map[string]any{}
		for range g.list(6) {
			section[pick(g, []string{"id", "uuid", "type", "interface-name", "method", "address-data", "data"})] = g.variant(2).Value()
		}
		s[pick(g, []string{"connection", "ipv4", "user"})] = section
	}
	if g.byte()%2 == 0 {
		s["connection"] = map[string]any{"type": "bridge", "id": pick(g, fuzzTexts), "uuid": pick(g, fuzzTexts), "interface-name": pick(g, []string{"ul-steam", "ul-", "br0"})}
		data := map[string]string{}
		for range g.list(5) {
			data[pick(g, []string{"org.uplane.lane", "org.uplane.lanes", "org.uplane.uplink", "org.uplane.", "org.example.x"})] = pick(g, fuzzTexts)
		}
		s["user"] = map[string]any{"data": data}
	}
	return s
}

// FuzzProfile feeds a profile's settings, as a user writes them, through decoding.
func FuzzProfile(f *testing.F) {
	f.Add("steam", "ul-steam", "steam", "wlp6s0, type:gsm", "home;games", "10.0.1.1", uint32(24))
	f.Add("a\nb", "ul-", "../x", "\x1b[2J", ",;, ", "::1", uint32(999))
	f.Fuzz(func(t *testing.T, id, iface, lane, uplink, lanes, address string, bits uint32) {
		p := decodeProfile(settings{
			"connection": {"id": id, "uuid": id, "type": "bridge", "interface-name": iface},
			"user":       {"data": map[string]string{"org.uplane.lane": lane, "org.uplane.uplink": uplink, "org.uplane.lanes": lanes, "org.uplane." + id: uplink}},
			"ipv4":       {"method": iface, "address-data": []map[string]dbus.Variant{v("address", address, "prefix", bits)}},
		})
		if p.Lane != "" {
			checkProfiles(t, []policy.Profile{p.Profile})
		}
		for _, name := range p.lanes {
			if name == "" || strings.ContainsFunc(name, unicode.IsControl) {
				t.Fatalf("%q", p.lanes)
			}
		}
		if a := p.Address; a.IsValid() && (!a.Addr().Is4() || a.Bits() > 32) {
			t.Fatalf("%v", a)
		}
	})
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
	fuzzPaths  = []dbus.ObjectPath{dev, conn, ip4, ip6, ap1, dev + "0", managerPath, noObject, "", home1, home1 + "2"}
	fuzzIfaces = []string{
		ifaceDevice, ifaceActive, ifaceIP4, ifaceIP6, ifaceAccessPoint, ifaceManager, ifaceGeneric, ifaceModem, "x", ifaceProfile,
	}
	fuzzKeys = []string{
		"Interface", "IpInterface", "DeviceType", "State", "Real", "ActiveConnection", "Ip4Config", "Ip6Config", "Id", "Uuid",
		"SpecificObject", "AddressData", "RouteData", "Gateway", "NameserverData", "Nameservers", "Searches", "Domains", "Ssid",
		"Startup", "CurrentCapabilities", "TypeDescription", "Connection", "Flags", "address", "dest", "prefix", "next-hop", "metric", "table", "type",
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
