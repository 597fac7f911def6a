package nm

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"uplane/policy"
)

// v makes properties from keys and values in turn.
func v(keysAndValues ...any) props {
	p := props{}
	for i := 0; i < len(keysAndValues); i += 2 {
		p[keysAndValues[i].(string)] = dbus.MakeVariant(keysAndValues[i+1])
	}
	return p
}

func route(dst string, bits int, more ...any) props {
	p := v(more...)
	p["dest"], p["prefix"] = dbus.MakeVariant(dst), dbus.MakeVariant(uint32(bits))
	return p
}

func TestRoutes(t *testing.T) {
	tests := []struct {
		name    string
		ip6     bool
		gateway string
		data    []props
		want    string
	}{
		{name: "nothing"},
		{
			name: "the default of RouteData has its metric", gateway: "192.0.2.1",
			data: []props{
				route("192.0.2.0", 24, "metric", uint32(600)),
				route("0.0.0.0", 0, "next-hop", "192.0.2.1", "metric", uint32(600)),
			},
			want: "0.0.0.0/0 via 192.0.2.1 metric 600; 192.0.2.0/24 metric 600",
		},
		{
			name: "the gateway alone", gateway: "192.0.2.1",
			data: []props{route("192.0.2.0", 24)},
			want: "0.0.0.0/0 via 192.0.2.1 metric 0; 192.0.2.0/24 metric 0",
		},
		{
			name: "point to point", data: []props{route("0.0.0.0", 0, "metric", uint32(700))},
			want: "0.0.0.0/0 metric 700",
		},
		{
			name: "an unspecified next hop is none",
			data: []props{route("0.0.0.0", 0, "next-hop", "0.0.0.0")},
			want: "0.0.0.0/0 metric 0",
		},
		{
			name: "ipv4.route-table: no gateway, all routes in one table",
			data: []props{
				route("192.0.2.0", 24, "table", uint32(500)),
				route("0.0.0.0", 0, "next-hop", "192.0.2.1", "table", uint32(500)),
			},
			want: "0.0.0.0/0 via 192.0.2.1 metric 0; 192.0.2.0/24 metric 0",
		},
		{
			name: "somebody's table beside the main one", gateway: "192.0.2.1",
			data: []props{
				route("0.0.0.0", 0, "next-hop", "192.0.2.66", "table", uint32(101)),
				route("198.51.100.0", 24, "next-hop", "192.0.2.66", "table", uint32(101)),
				route("0.0.0.0", 0, "next-hop", "192.0.2.1", "metric", uint32(600)),
			},
			want: "0.0.0.0/0 via 192.0.2.1 metric 600",
		},
		{
			name: "somebody's table, and the main default cut off", gateway: "192.0.2.1",
			data: []props{route("0.0.0.0", 0, "next-hop", "192.0.2.66", "table", uint32(101))},
			want: "0.0.0.0/0 via 192.0.2.1 metric 0",
		},
		{
			name: "two tables with a default: the best default's",
			data: []props{
				route("0.0.0.0", 0, "next-hop", "192.0.2.1", "metric", uint32(600), "table", uint32(100)),
				route("192.0.2.0", 24, "table", uint32(100)),
				route("0.0.0.0", 0, "next-hop", "192.0.2.2", "metric", uint32(100), "table", uint32(200)),
				route("192.0.2.0", 25, "table", uint32(200)),
			},
			want: "0.0.0.0/0 via 192.0.2.2 metric 100; 192.0.2.0/25 metric 0",
		},
		{
			name: "a table without a default",
			data: []props{route("192.0.2.0", 24, "table", uint32(100)), route("198.51.100.0", 24)},
			want: "198.51.100.0/24 metric 0",
		},
		{
			name: "host bits, duplicates and order",
			data: []props{route("198.51.100.7", 24), route("192.0.2.9", 24), route("192.0.2.0", 24)},
			want: "192.0.2.0/24 metric 0; 198.51.100.0/24 metric 0",
		},
		{
			name: "other types of route",
			data: []props{
				route("192.0.2.1", 32, "type", "local"), route("198.51.100.0", 24, "type", "blackhole"),
				route("192.0.2.2", 32, "type", uint32(2)), route("203.0.113.0", 24, "type", "unicast"),
				route("224.0.0.0", 4),
			},
			want: "203.0.113.0/24 metric 0",
		},
		{
			name: "nonsense", gateway: "fe80::1",
			data: []props{
				nil, v("dest", 5, "prefix", "24"), route("2001:db8::", 32), route("192.0.2.0", 33), route("192.0.2.0", -1),
				route("192.0.2", 24), route("::ffff:192.0.2.0", 24), v("dest", "192.0.2.0"),
				route("192.0.2.0", 24, "next-hop", "elsewhere"), route("192.0.2.0", 24, "next-hop", uint32(1)),
				route("192.0.2.0", 24, "next-hop", "2001:db8::1"), route("192.0.2.0", 24, "next-hop", "224.0.0.1"),
			},
		},
		{
			name: "IPv6", ip6: true, gateway: "fe80::1",
			data: []props{
				route("2001:db8:1::", 64, "metric", uint32(100)), route("fe80::", 64, "metric", uint32(1024)),
				route("::", 0, "next-hop", "fe80::1", "metric", uint32(100)), route("ff00::", 8),
				route("fe80::%eth0", 64), route("0.0.0.0", 0),
			},
			want: "::/0 via fe80::1 metric 100; 2001:db8:1::/64 metric 100; fe80::/64 metric 1024",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := &config{ip6: test.ip6}
			c.update(v("Gateway", test.gateway, "RouteData", test.data))
			var lines []string
			for _, r := range c.out {
				via := ""
				if r.Via.IsValid() {
					via = " via " + r.Via.String()
				}
				lines = append(lines, fmt.Sprintf("%v%s metric %d", r.Dst, via, r.Metric))
			}
			if got := strings.Join(lines, "; "); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// A config keeps what a signal does not mention and what it mentions in vain.
func TestPartialUpdate(t *testing.T) {
	c := &config{}
	c.update(v("AddressData", []props{v("address", "192.0.2.4", "prefix", uint32(24))}, "Gateway", "192.0.2.1",
		"NameserverData", []props{v("address", "192.0.2.53")}, "Searches", []string{"lan.example"}))
	before := *c
	c.update(v("Gateway", 7, "AddressData", "none", "NameserverData", []string{"192.0.2.1"}, "Searches", uint32(1), "RouteData", true))
	c.update(nil)
	if !slices.Equal(c.addresses, before.addresses) || c.gateway != before.gateway || !slices.Equal(c.dns, before.dns) ||
		!slices.Equal(c.searches, before.searches) || !slices.Equal(c.out, before.out) {
		t.Errorf("%+v became %+v", before, *c)
	}
	c.update(v("Gateway", "", "AddressData", []props{}, "NameserverData", []props{}, "Searches", []string{}))
	if c.addresses != nil || c.gateway.IsValid() || c.dns != nil || c.searches != nil || c.out != nil {
		t.Errorf("not cleared: %+v", *c)
	}
}

func TestBounds(t *testing.T) {
	var routes, addresses, servers []props
	var servers6 [][]byte
	var names []string
	for i := range 2000 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String()
		routes = append(routes, route(a, 32))
		addresses = append(addresses, v("address", a, "prefix", uint32(8)))
		servers = append(servers, v("address", a))
		servers6 = append(servers6, append(make([]byte, 14), byte(i>>8), byte(i)))
		names = append(names, fmt.Sprintf("n%d.example", i))
	}
	routes = append(routes, route("0.0.0.0", 0, "next-hop", "10.0.0.1"))
	c := &config{}
	c.update(v("RouteData", routes, "AddressData", addresses, "NameserverData", servers, "Searches", names))
	if len(c.out) != maxRoutes || c.out[0].Dst.Bits() != 0 || len(c.addresses) != maxAddresses ||
		len(c.dns) != maxServers || len(c.searches) != maxDomains {
		t.Error(len(c.out), c.out[0], len(c.addresses), len(c.dns), len(c.searches))
	}
	c = &config{ip6: true}
	c.update(v("Nameservers", servers6))
	if len(c.dns) != maxServers {
		t.Error(len(c.dns))
	}
}

func TestServers(t *testing.T) {
	c := &config{}
	c.update(v("NameserverData", []props{
		v("address", "192.0.2.53"), v("address", "192.0.2.53"), v("uri", "dns+tls://192.0.2.1"), v("address", "0.0.0.0"),
		v("address", "2001:db8::1"), v("address", "192.0.2.54\noptions"), v("address", "192.0.2.54"),
	}, "Nameservers", []uint32{1}))
	if fmt.Sprint(c.dns) != "[192.0.2.53 192.0.2.54]" {
		t.Error(c.dns)
	}
	six := netip.MustParseAddr("2001:db8::53").As16()
	mapped := netip.MustParseAddr("::ffff:192.0.2.1").As16()
	c = &config{ip6: true}
	c.update(v("Nameservers", [][]byte{{1, 2, 3, 4}, {}, mapped[:], six[:], six[:], make([]byte, 16), make([]byte, 17)}))
	if fmt.Sprint(c.dns) != "[2001:db8::53]" {
		t.Error(c.dns)
	}
}

func TestDomains(t *testing.T) {
	got := decodeDomains([]string{
		"lan.example", "lan.example", "_srv.Example", "a", "", "~lan.example", "~.", "-option", ".x", "a b", "a\nnameserver 192.0.2.66",
		"é.example", "xn--9ca.example", strings.Repeat("a.", 126) + "a", strings.Repeat("a.", 127) + "a",
	})
	want := []string{"lan.example", "_srv.Example", "a", "xn--9ca.example", strings.Repeat("a.", 126) + "a"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	c := &config{}
	c.update(v("Domains", []string{"lan.example"}))
	if !slices.Equal(c.search(), []string{"lan.example"}) {
		t.Error(c.search())
	}
	c.update(v("Searches", []string{"corp.example"}))
	if !slices.Equal(c.search(), []string{"corp.example"}) {
		t.Error(c.search())
	}
}

func TestSSID(t *testing.T) {
	for in, want := range map[string]string{
		"Home":              "Home",
		"Café ☕ 👩‍💻":        "Café ☕ 👩‍💻",
		"Caf\xe9":           "Café", // Latin-1
		"a\x1b[2Jb\x00\x7f": "a?[2Jb??",
		"line\nbreak\u0085": "line?break?",
		"\xff\x80\x1b":      "ÿ??",
		"\ufffd":            "?",
		"":                  "",
	} {
		got := decodeSSID([]byte(in))
		if got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
		if got == "" {
			continue
		}
		// What is shown can be selected.
		if sel, err := policy.ParseSelector("ssid:" + got); err != nil || !sel.Matches(&policy.Uplink{SSID: got}) {
			t.Errorf("%q: %v", got, err)
		}
	}
}

func TestModem(t *testing.T) {
	for capabilities, want := range map[uint32]string{0: "", 1: "", 2: "cdma", 4: "gsm", 2 | 8: "gsm", 64: "gsm"} {
		if got := decodeModem(capabilities); got != want {
			t.Errorf("%d: %q, want %q", capabilities, got, want)
		}
	}
}
