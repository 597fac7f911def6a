package policy

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

func TestEffective(t *testing.T) {
	route := func(r HostRoute) HostRoute {
		if r.Dst == (netip.Prefix{}) {
			r.Dst = default4
		}
		if r.Table == 0 {
			r.Table = MainTable
		}
		if r.Dev == "" {
			r.Dev = "wlp6s0"
		}
		return r
	}
	other := UplinkRoute{Dst: pfx("172.30.0.0/16"), Via: ipa("192.168.50.2")}
	six := UplinkRoute{Dst: pfx("::/0"), Via: ipa("fe80::1")}
	for name, c := range map[string]struct {
		phase   Phase
		fresh   bool
		routes  []HostRoute
		kernels bool       // the kernel's word counts
		gateway netip.Addr // if so; zero: there is no default
	}{
		"at rest":      {PhaseActive, false, []HostRoute{{Via: ipa("192.168.50.254"), Protocol: ProtoDHCP}}, false, netip.Addr{}},
		"fresh":        {PhaseActive, true, []HostRoute{{Via: ipa("192.168.50.254"), Protocol: ProtoDHCP}}, true, ipa("192.168.50.254")},
		"reactivated":  {PhaseChanging, false, []HostRoute{{Via: ipa("192.168.50.254"), Protocol: ProtoStatic}}, true, ipa("192.168.50.254")},
		"disconnected": {PhaseDown, true, []HostRoute{{Via: ipa("192.168.50.254"), Protocol: ProtoDHCP}}, false, netip.Addr{}},
		"no default":   {PhaseActive, true, nil, true, netip.Addr{}},
		"another's default": {PhaseActive, true, []HostRoute{{Via: ipa("192.168.50.9"), Protocol: 3}, {Via: ipa("192.168.1.1"), Dev: "enp7s0", Protocol: ProtoDHCP},
			{Dst: pfx("0.0.0.0/1"), Via: ipa("192.168.50.8"), Protocol: ProtoDHCP}, {Dst: pfx("::/0"), Via: ipa("fe80::1"), Protocol: ProtoRA}}, true, netip.Addr{}},
		"the lower metric":        {PhaseActive, true, []HostRoute{{Via: ipa("192.168.50.3"), Metric: 700, Protocol: ProtoDHCP}, {Via: ipa("192.168.50.2"), Metric: 600, Protocol: ProtoDHCP}, {Via: ipa("192.168.50.4"), Metric: 800, Protocol: ProtoDHCP}}, true, ipa("192.168.50.2")},
		"the main table":          {PhaseActive, true, []HostRoute{{Table: 52, Via: ipa("192.168.50.3"), Protocol: ProtoDHCP}, {Via: ipa("192.168.50.2"), Metric: 600, Protocol: ProtoDHCP}, {Table: 52, Via: ipa("192.168.50.4"), Protocol: ProtoDHCP}}, true, ipa("192.168.50.2")},
		"the newer of two":        {PhaseActive, true, []HostRoute{{Via: ipa("192.168.50.1"), Metric: 600, Protocol: ProtoDHCP}, {Via: ipa("192.168.50.2"), Metric: 600, Protocol: ProtoDHCP}}, true, ipa("192.168.50.2")},
		"the newer, other order":  {PhaseActive, true, []HostRoute{{Via: ipa("192.168.50.2"), Metric: 600, Protocol: ProtoDHCP}, {Via: ipa("192.168.50.1"), Metric: 600, Protocol: ProtoDHCP}}, true, ipa("192.168.50.2")},
		"a profile's route-table": {PhaseActive, true, []HostRoute{{Table: 53, Via: ipa("192.168.50.2"), Protocol: ProtoDHCP}, {Table: 52, Via: ipa("192.168.50.3"), Protocol: ProtoDHCP}}, true, ipa("192.168.50.3")},
	} {
		t.Run(name, func(t *testing.T) {
			u := wifi()
			u.Phase = c.phase
			u.Routes = append(u.Routes, other, six)
			u.Addresses = append(u.Addresses, pfx("2001:db8::4/64"))
			h := hostOf(u)
			h.Links["wlp6s0"] = HostLink{Addrs: []netip.Prefix{pfx("192.168.50.77/24"), pfx("fe80::1/64")}, Running: true}
			h.Routes = nil
			for _, r := range c.routes {
				h.Routes = append(h.Routes, route(r))
			}
			before := u
			before.Routes, before.Addresses = slices.Clone(u.Routes), slices.Clone(u.Addresses)
			got := u.Effective(h, c.fresh)
			if !reflect.DeepEqual(u, before) {
				t.Errorf("the uplink itself became %v", u)
			}
			if !c.kernels {
				if !reflect.DeepEqual(got, u) {
					t.Errorf("got %v", got)
				}
				return
			}
			gw, ok := got.Gateway()
			if gw != c.gateway || ok != c.gateway.IsValid() {
				t.Errorf("gateway %v, %v", gw, ok)
			}
			if want := []netip.Prefix{pfx("2001:db8::4/64"), pfx("192.168.50.77/24")}; !slices.Equal(got.Addresses, want) {
				t.Errorf("addresses %v", got.Addresses)
			}
			if !slices.Contains(got.Routes, other) || !slices.Contains(got.Routes, six) {
				t.Errorf("routes %v", got.Routes)
			}
		})
	}
	u := wifi()
	if got := u.Effective(hostOf(), true); !reflect.DeepEqual(got, u) {
		t.Errorf("without the link: %v", got)
	}
}

func TestGateway(t *testing.T) {
	for name, c := range map[string]struct {
		routes []UplinkRoute
		via    netip.Addr
		ok     bool
	}{
		"none":               {nil, netip.Addr{}, false},
		"no default":         {[]UplinkRoute{{Dst: pfx("0.0.0.0/1"), Via: ipa("192.0.2.1")}}, netip.Addr{}, false},
		"IPv6":               {[]UplinkRoute{{Dst: pfx("::/0"), Via: ipa("fe80::1")}}, netip.Addr{}, false},
		"IPv4 over IPv6":     {[]UplinkRoute{{Dst: default4, Via: ipa("fe80::1")}}, netip.Addr{}, false},
		"point to point":     {[]UplinkRoute{{Dst: default4}}, netip.Addr{}, true},
		"the lower metric":   {[]UplinkRoute{{Dst: default4, Via: ipa("192.0.2.1"), Metric: 2}, {Dst: default4, Via: ipa("192.0.2.9"), Metric: 1}}, ipa("192.0.2.9"), true},
		"equal, either way":  {[]UplinkRoute{{Dst: default4, Via: ipa("192.0.2.9")}, {Dst: default4, Via: ipa("192.0.2.1")}}, ipa("192.0.2.1"), true},
		"equal, other order": {[]UplinkRoute{{Dst: default4, Via: ipa("192.0.2.1")}, {Dst: default4, Via: ipa("192.0.2.9")}}, ipa("192.0.2.1"), true},
	} {
		u := Uplink{Routes: c.routes}
		if via, ok := u.Gateway(); via != c.via || ok != c.ok {
			t.Errorf("%s: %v, %v", name, via, ok)
		}
	}
	u := Uplink{Routes: []UplinkRoute{{Dst: default4, Via: ipa("192.0.2.1")}, {Dst: pfx("::/0"), Via: ipa("fe80::1")}}}
	if via, ok := u.Gateway6(); via != ipa("fe80::1") || !ok {
		t.Errorf("IPv6: %v, %v", via, ok)
	}
}

func TestTableRoutes(t *testing.T) {
	u := Uplink{
		Interface: "w",
		Addresses: []netip.Prefix{pfx("192.0.2.4/24"), pfx("198.51.100.7/32"), pfx("2001:db8::1/64"), pfx("192.0.2.5/24")},
		Routes: []UplinkRoute{
			{Dst: default4, Via: ipa("192.0.2.1"), Metric: 600},
			{Dst: default4, Via: ipa("192.0.2.2"), Metric: 700},
			{Dst: pfx("192.0.2.0/24"), Via: ipa("192.0.2.3"), Metric: 600}, // the address says on-link
			{Dst: pfx("192.0.2.0/28"), Via: ipa("192.0.2.77")},
			{Dst: pfx("203.0.113.0/24"), Via: ipa("192.0.2.9"), Metric: 5},
			{Dst: pfx("203.0.113.0/24"), Via: ipa("192.0.2.8"), Metric: 4},
			{Dst: pfx("10.3.0.0/16"), Via: ipa("10.9.9.9")}, // nothing leads there
			{Dst: pfx("10.4.0.1/32")},
			{Dst: pfx("10.5.0.0/16"), Via: ipa("10.4.0.1")}, // by the host route
			{Dst: pfx("10.6.0.0/16"), Via: ipa("fe80::1")},
			{Dst: pfx("::/0"), Via: ipa("fe80::1")},
		},
	}
	want := []Route{
		{Dst: default4, Dev: "w", Via: ipa("192.0.2.1")},
		{Dst: pfx("10.3.0.0/16"), Dev: "w", Via: ipa("10.9.9.9"), OnLink: true},
		{Dst: pfx("10.4.0.1/32"), Dev: "w"},
		{Dst: pfx("10.5.0.0/16"), Dev: "w", Via: ipa("10.4.0.1")},
		{Dst: pfx("192.0.2.0/24"), Dev: "w"},
		{Dst: pfx("192.0.2.0/28"), Dev: "w", Via: ipa("192.0.2.77")},
		{Dst: pfx("203.0.113.0/24"), Dev: "w", Via: ipa("192.0.2.8")},
	}
	if got := u.tableRoutes(); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	u.Routes = []UplinkRoute{{Dst: default4}, {Dst: pfx("10.3.0.0/16"), Via: ipa("192.0.9.9")}}
	u.Addresses = nil
	want = []Route{{Dst: default4, Dev: "w"}, {Dst: pfx("10.3.0.0/16"), Dev: "w", Via: ipa("192.0.9.9"), OnLink: true}}
	if got := u.tableRoutes(); !slices.Equal(got, want) {
		t.Errorf("point to point: %v", got)
	}
}
