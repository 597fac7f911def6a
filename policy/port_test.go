package policy

import (
	"maps"
	"strings"
	"testing"
)

// With a port of somebody else's on its bridge a lane keeps its namespace and no more, and is back when that goes.
func TestForeignPort(t *testing.T) {
	bare := State{}
	bare.Add("steam", Netns{"steam", true}, resolvConf("steam", nil, nil), nsswitch("steam", ""))
	mine := maps.Clone(bare)
	mine.Add("steam", Bridge{Name: "ul-steam", Lane: "steam", MTU: 1500, Up: true},
		Sysctl{"net/ipv4/conf/ul-steam/forwarding", "1"}, Sysctl{"net/ipv4/conf/ul-steam/rp_filter", "1"}, Sysctl{"net/ipv6/conf/ul-steam/disable_ipv6", "1"},
		Table{true}, Element{Set: LaneLinks, In: "ul-steam"})
	port := func(names ...string) func(*Host) {
		return func(h *Host) {
			for _, n := range names {
				h.Links[n] = HostLink{MTU: 1500, Running: true, Master: "ul-steam"}
			}
		}
	}
	link := func(f func(*HostLink)) func(*Host) {
		return func(h *Host) {
			l := h.Links["ul-steam"]
			f(&l)
			h.Links["ul-steam"] = l
		}
	}
	for name, c := range map[string]struct {
		lane   Lane
		change func(*Host)
		reason string
		want   State
	}{
		"NetworkManager's": {profiled("10.0.1.1/24"), port("eth7"), "bridge ul-steam has a port that is not the lane's, eth7, by which it would leak: ip link set eth7 nomaster", bare},
		"several":          {profiled("10.0.1.1/24"), port("tap1", "eth7"), "not the lane's, eth7, tap1, by which", bare},
		"no bridge":        {profiled("10.0.1.1/24"), link(func(l *HostLink) { l.Bridge = false }), "ul-steam is no bridge: give the profile another interface-name", bare},
		"a port itself":    {profiled("10.0.1.1/24"), link(func(l *HostLink) { l.Master = "bond0" }), "bridge ul-steam is a port of bond0, by which the lane would leak: ip link set ul-steam nomaster", bare},
		"our own":          {lane("steam", "wlp6s0"), port("eth7"), "not the lane's, eth7, by which it would leak: ip link set eth7 nomaster", mine},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(c.lane)
			if c.lane.External {
				bridged(w.host, "10.0.1.1/24")
			}
			up, st := w.build()
			if st[0].State != Up {
				t.Fatalf("%s (%s)", st[0].State, st[0].Reason)
			}
			c.change(w.host)
			closed, st := w.build()
			if st[0].State != Error || !strings.Contains(st[0].Reason, c.reason) || !same(closed, c.want) {
				t.Errorf("%s (%s)\n%s", st[0].State, st[0].Reason, closed)
			}
			if ops := Diff(up, closed); ops[0].Verb != Remove || ops[0].Object != Object(findVeth(up)) {
				t.Errorf("not the veth first:\n%s", shell(ops))
			}
			// Its switches are as they were.
			w.memory.Sysctls = map[string]string{"net/ipv4/conf/ul-steam/forwarding": "0", "net/ipv6/conf/ul-steam/disable_ipv6": "0", stpKey("ul-steam"): "1"}
			w.host.Sysctls["net/ipv4/conf/ul-steam/forwarding"], w.host.Sysctls["net/ipv6/conf/ul-steam/disable_ipv6"] = "1", "1"
			w.host.Sysctls[stpKey("ul-steam")] = "0"
			closed, _ = w.build()
			if c.lane.External != closed.Has(Sysctl{"net/ipv6/conf/ul-steam/disable_ipv6", "0"}) || c.lane.External != closed.Has(Sysctl{stpKey("ul-steam"), "1"}) {
				t.Errorf("\n%s", closed)
			}
		})
	}
}

// Ports of other bridges are others' business, and a lane without a bridge has none.
func TestOtherPorts(t *testing.T) {
	none := lane("work", "wlp6s0")
	none.NoBridge = true
	w := newWorld(lane("steam", "wlp6s0"), none)
	w.host.Links["docker0"] = HostLink{MTU: 1500, Running: true, Bridge: true}
	w.host.Links["vethc"] = HostLink{MTU: 1500, Running: true, Master: "docker0"}
	if _, st := w.build(); st[0].State != Up || st[1].State != Up {
		t.Errorf("%s (%s), %s (%s)", st[0].State, st[0].Reason, st[1].State, st[1].Reason)
	}
}

// The golden files of lanes whose bridge got another port.
func TestGoldenPort(t *testing.T) {
	for name, l := range map[string]Lane{"port": lane("steam", "wlp6s0"), "profile-port": profiled("10.0.1.1/24")} {
		w := newWorld(l)
		if l.External {
			bridged(w.host, "10.0.1.1/24")
		}
		if l.External {
			w.host.Sysctls[stpKey("ul-steam")] = "1"
		}
		w.settle()
		w.host.Links["eth7"] = HostLink{MTU: 1500, Running: true, Master: "ul-steam"}
		d := w.decide()
		golden(t, name, w.header("somebody makes eth7 a port of the lane's bridge", d.Lanes)+shell(d.Ops))
	}
}
