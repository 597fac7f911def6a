package policy

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPick(t *testing.T) {
	second := wifi()
	second.Interface, second.SSID, second.UUID = "wlan1", "Cafe", "33333333-aaaa-4bbb-8ccc-0123456789ab"
	for name, c := range map[string]struct {
		uplinks []string
		current string
		change  func(*world)
		want    string // the interface, or why there is none
	}{
		"by interface":            {[]string{"enp7s0"}, "", nil, "enp7s0"},
		"by type, the first":      {[]string{"type:wifi"}, "", nil, "wlp6s0"},
		"by type, the present":    {[]string{"type:wifi"}, "wlan1", nil, "wlan1"},
		"the order decides":       {[]string{"ssid:Cafe", "enp7s0"}, "enp7s0", nil, "wlan1"},
		"the first that is there": {[]string{"ssid:Nowhere", "enp7s0"}, "", nil, "enp7s0"},
		"the present is unusable": {[]string{"type:wifi"}, "wlan1", func(w *world) { w.uplinks[2].Phase = PhaseDown }, "wlp6s0"},
		"the present is no match": {[]string{"type:wifi"}, "enp7s0", nil, "wlp6s0"},
		"being reactivated":       {[]string{"wlp6s0"}, "", func(w *world) { w.uplinks[0].Phase = PhaseChanging }, "wlp6s0"},
		"nothing matches":         {[]string{"ssid:Nowhere", "wwan0"}, "", nil, "no uplink: nothing matches ssid:Nowhere (wlp6s0 is on Home, wlan1 is on Cafe), nothing matches wwan0"},
		"the radio is off":        {[]string{"ssid:Nowhere"}, "", func(w *world) { w.uplinks[0].Phase, w.uplinks[2].SSID = PhaseDown, "" }, "no uplink: nothing matches ssid:Nowhere (wlp6s0 is not connected, wlan1 is not connected)"},
		"not connected":           {[]string{"wlp6s0", "type:wifi"}, "", func(w *world) { w.uplinks[0].Phase, w.uplinks[2].Phase = PhaseDown, PhaseDown }, "no uplink: wlan1 is not connected, wlp6s0 is not connected"},
		"no carrier": {[]string{"wlp6s0"}, "", func(w *world) {
			l := w.host.Links["wlp6s0"]
			l.Running = false
			w.host.Links["wlp6s0"] = l
		}, "no uplink: wlp6s0 has no carrier"},
		"gone":       {[]string{"wlp6s0"}, "", func(w *world) { delete(w.host.Links, "wlp6s0") }, "no uplink: wlp6s0 is gone"},
		"no default": {[]string{"wlp6s0"}, "", func(w *world) { w.uplinks[0].Routes = w.uplinks[0].Routes[1:] }, "no uplink: wlp6s0 has no IPv4 default route"},
		"connecting": {[]string{"wlp6s0"}, "", func(w *world) { w.uplinks[0].Phase, w.host.Routes = PhaseChanging, nil }, "no uplink: wlp6s0 is connecting"},
		"no address": {[]string{"wlp6s0"}, "", func(w *world) { w.uplinks[0].Addresses = []netip.Prefix{pfx("2001:db8::1/64")} }, "no uplink: wlp6s0 has no IPv4 address"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(lane("steam", c.uplinks...))
			w.uplinks = append(w.uplinks, second)
			w.host = hostOf(w.uplinks...)
			w.memory.Lanes = map[string]LaneMemory{"steam": {Uplink: &Uplink{Interface: c.current}}}
			if c.change != nil {
				c.change(w)
			}
			st := w.status(t)
			got, state := st.Reason, Waiting
			if st.Uplink != nil {
				got, state = st.Uplink.Interface, Up
			}
			if got != c.want || st.State != state {
				t.Errorf("%s, %s (%s)", st.State, got, st.Reason)
			}
		})
	}
}

func TestDNS(t *testing.T) {
	for name, c := range map[string]struct {
		lane, uplink []netip.Addr
		search       []string
		state        LaneState
		want         string
	}{
		"the uplink's": {nil, []netip.Addr{ipa("192.168.50.1"), ipa("192.168.50.2")}, []string{"lan", "example.org"}, Up,
			"search lan example.org\nnameserver 192.168.50.1\nnameserver 192.168.50.2\n"},
		"the lane's":          {[]netip.Addr{ipa("9.9.9.9")}, []netip.Addr{ipa("192.168.50.1")}, nil, Up, "nameserver 9.9.9.9\n"},
		"what can't be asked": {nil, []netip.Addr{ipa("127.0.0.53"), ipa("2001:db8::53"), ipa("192.168.50.1")}, nil, Up, "nameserver 192.168.50.1\n"},
		"the host's own":      {nil, []netip.Addr{ipa("192.168.1.10"), ipa("192.168.50.1")}, nil, Up, "nameserver 192.168.50.1\n"},
		"none":                {nil, []netip.Addr{ipa("127.0.0.53")}, nil, Degraded, ""},
		"search from a bad network": {nil, []netip.Addr{ipa("192.168.50.1")}, []string{"a\nnameserver 203.0.113.66", "~corp.example", "it's", "-x ok", ".", "", "ok"}, Up,
			"search ok\nnameserver 192.168.50.1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(with(lane("steam", "wlp6s0"), func(l *Lane) { l.DNS = c.lane }))
			w.uplinks[0].DNS, w.uplinks[0].Search = c.uplink, c.search
			s, st := w.build()
			want := File{"/etc/netns/steam/resolv.conf", "# uplane:steam: follows its uplink; changes are overwritten\n" + c.want}
			if st[0].State != c.state || !s.Has(want) {
				t.Errorf("%s (%s)\n%s", st[0].State, st[0].Reason, s)
			}
			if c.state == Degraded && !strings.Contains(st[0].Reason, "wlp6s0 has no DNS servers") {
				t.Error(st[0].Reason)
			}
		})
	}
	w := newWorld(with(lane("steam", "wwan0"), func(l *Lane) { l.DNS = []netip.Addr{ipa("9.9.9.9")} }))
	if st := w.status(t); st.State != Waiting || !slices.Equal(st.DNS, []netip.Addr{ipa("9.9.9.9")}) {
		t.Errorf("waiting: %s, %v", st.State, st.DNS)
	}
}

// What others have where a lane belongs stays; the lane says so, and of its own
// only what programs in it hold stays.
func TestInTheWay(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		reason string
		want   []Object
	}{
		"namespace": {func(w *world) { w.host.Netns = map[string]bool{"steam": true} }, "namespace steam exists and is not ours: remove it (ip netns del steam)", nil},
		"file": {func(w *world) {
			w.host.Files = map[string]string{"/etc/netns/steam/resolv.conf": "nameserver 192.0.2.1\n"}
		}, "/etc/netns/steam/resolv.conf exists and is not ours",
			[]Object{Netns{"steam", true}, nsswitch("steam", "")}},
		"mark": {func(w *world) {
			w.host.Rules = append(w.host.Rules, rule(Rule{Priority: 32000, Mark: 100, Mask: 0xff, Table: 7}))
		}, "mark 100 is in use by the ip rule with priority 32000",
			[]Object{Netns{"steam", true}, resolvConf("steam", nil, nil), nsswitch("steam", "")}},
		"subnet": {func(w *world) { w.host.Links["x0"] = HostLink{Addrs: []netip.Prefix{pfx("10.0.1.9/24")}} }, "subnet 10.0.1.0/24 overlaps",
			[]Object{Netns{"steam", true}, resolvConf("steam", nil, nil), nsswitch("steam", "")}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(with(lane("steam", "wlp6s0"), func(l *Lane) { l.Mark, l.Subnet = 100, pfx("10.0.1.0/24") }))
			c.change(w)
			s, st := w.build()
			if st[0].State != Error || !strings.HasPrefix(st[0].Reason, c.reason) || !same(s, newState(c.want...)) {
				t.Errorf("%s (%s)\n%s", st[0].State, st[0].Reason, s)
			}
		})
	}
}

func TestMTU(t *testing.T) {
	w := newWorld(lane("steam", "wlp6s0"))
	l := w.host.Links["wlp6s0"]
	l.MTU = 1420
	w.host.Links["wlp6s0"] = l
	mtu := func() (out []int) {
		s, _ := w.build()
		for o := range s {
			switch o := o.(type) {
			case Veth:
				out = append(out, o.MTU)
			case Bridge:
				out = append(out, o.MTU)
			}
		}
		return out
	}
	if got := mtu(); !slices.Equal(got, []int{1420, 1420}) {
		t.Errorf("up: %v", got)
	}
	w.uplinks[0].Phase = PhaseDown
	if got := mtu(); !slices.Equal(got, []int{1500, 1500}) {
		t.Errorf("waiting: %v", got)
	}
}

// A route of the uplink to the lane's own subnet would take its replies away.
func TestOwnSubnet(t *testing.T) {
	w := newWorld(lane("steam", "wlp6s0"))
	w.uplinks[0].Routes = append(w.uplinks[0].Routes, UplinkRoute{Dst: pfx("10.0.1.0/24"), Via: ipa("192.168.50.2")})
	s, _ := w.build()
	n := 0
	for o := range s {
		if r, ok := o.(Route); ok && r.Dst == pfx("10.0.1.0/24") && r.Type == Unicast {
			n++
			if r.Dev != "ul-steam" {
				t.Error(r)
			}
		}
	}
	if n != 2 { // in its own table and that of all lanes
		t.Errorf("%d routes to it", n)
	}
}

// Neither the order of lanes nor that of an uplink's routes or the host's matters, and deciding changes nothing.
func TestDecideOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWalker(t)
		w.drawHost()
		w.drawLanes()
		w.look()
		want := Decide(w.input())
		if again := Decide(w.input()); !reflect.DeepEqual(again, want) {
			t.Fatalf("decided again:\n%s\nnot\n%s", shell(again.Ops), shell(want.Ops))
		}
		w.lanes = rapid.Permutation(w.lanes).Draw(t, "lanes")
		w.host.Routes = rapid.Permutation(w.host.Routes).Draw(t, "host routes")
		for i := range w.uplinks {
			w.uplinks[i].Routes = rapid.Permutation(w.uplinks[i].Routes).Draw(t, "routes")
		}
		got := Decide(w.input())
		if !maps.Equal(got.Want.All(), want.Want.All()) {
			t.Fatalf("another order makes:\n%s", shell(Diff(want.Want.All(), got.Want.All())))
		}
		for i := range got.Lanes {
			got.Lanes[i].Uplink, want.Lanes[i].Uplink = nil, nil
		}
		if !reflect.DeepEqual(got.Lanes, want.Lanes) {
			t.Fatalf("%v\n%v", want.Lanes, got.Lanes)
		}
	})
}
