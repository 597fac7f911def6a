package policy

import (
	"net/netip"
	"strings"
	"testing"
)

func TestIdle(t *testing.T) {
	up := func(name, kind string, metric uint32) Uplink {
		return Uplink{Interface: name, Type: kind, Phase: PhaseActive, Routes: []UplinkRoute{
			{Dst: netip.MustParsePrefix("10.0.0.0/8"), Metric: 1},
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.1"), Metric: metric},
		}}
	}
	down := up("wlp7s0", "wifi", 1)
	down.Phase = PhaseDown
	local := up("enp9s0", "ethernet", 1)
	local.Routes = local.Routes[:1]
	for _, tt := range []struct {
		uplinks []Uplink
		want    string // main, then the idle ones
	}{
		{nil, ""},
		{[]Uplink{down, local}, ""},
		{[]Uplink{up("wlp6s0", "wifi", 600)}, "wlp6s0"},
		{[]Uplink{up("wlp6s0", "wifi", 600), down, up("enp7s0", "ethernet", 100), local}, "enp7s0 wlp6s0"},
		{[]Uplink{up("wlp6s0", "wifi", 100), up("enp7s0", "ethernet", 600)}, "wlp6s0 enp7s0"},
		{[]Uplink{up("enp8s0", "ethernet", 200), up("wwan0", "gsm", 150), up("wlp6s0", "wifi", 600), up("enp7s0", "ethernet", 100)}, "enp7s0 wlp6s0 wwan0 enp8s0"},
		{[]Uplink{up("tun0", "tun", 50), up("wg0", "wireguard", 40), up("wlp6s0", "wifi", 600), up("enp7s0", "ethernet", 100)}, "enp7s0 wlp6s0"},
		{[]Uplink{up("b", "ethernet", 100), up("a", "ethernet", 100)}, "a b"},
	} {
		main, idle := Idle(tt.uplinks)
		var got []string
		if main != nil {
			got = append(got, main.Interface)
		}
		for _, u := range idle {
			got = append(got, u.Interface)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("have %q, want %q", got, tt.want)
		}
	}
}
