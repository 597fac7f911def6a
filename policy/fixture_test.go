package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

var (
	pfx = netip.MustParsePrefix
	ipa = netip.MustParseAddr
)

// wifi and wired are the uplinks of the hand recipe's machine.
func wifi() Uplink {
	return Uplink{
		Interface: "wlp6s0", Type: "wifi", Connection: "homewifi", UUID: "11111111-aaaa-4bbb-8ccc-0123456789ab", SSID: "Home",
		Phase:     PhaseActive,
		Addresses: []netip.Prefix{pfx("192.168.50.4/24")},
		Routes:    []UplinkRoute{{Dst: default4, Via: ipa("192.168.50.1"), Metric: 600}, {Dst: pfx("192.168.50.0/24"), Metric: 600}},
		DNS:       []netip.Addr{ipa("192.168.50.1")},
		Search:    []string{"lan"},
	}
}

func wired() Uplink {
	return Uplink{
		Interface: "enp7s0", Type: "ethernet", Connection: "office", UUID: "22222222-aaaa-4bbb-8ccc-0123456789ab",
		Phase:     PhaseActive,
		Addresses: []netip.Prefix{pfx("192.168.1.10/24")},
		Routes:    []UplinkRoute{{Dst: default4, Via: ipa("192.168.1.1"), Metric: 100}, {Dst: pfx("192.168.1.0/24"), Metric: 100}},
		DNS:       []netip.Addr{ipa("192.168.1.1")},
	}
}

// hostOf is the machine whose uplinks are us, each running and with its routes
// in the main table, as NetworkManager puts them there.
func hostOf(us ...Uplink) *Host {
	h := &Host{Links: map[string]HostLink{"lo": {Index: 1, MTU: 65536, Running: true, Addrs: []netip.Prefix{pfx("127.0.0.1/8")}}}, IPv6: true}
	for i, u := range us {
		h.Links[u.Interface] = HostLink{Index: i + 2, MTU: 1500, Running: true, Addrs: slices.Clone(u.Addresses)}
		for _, r := range u.Routes {
			proto := ProtoDHCP
			if !r.Via.IsValid() {
				proto = ProtoKernel
			}
			h.Routes = append(h.Routes, HostRoute{Table: MainTable, Dst: r.Dst, Via: r.Via, Dev: u.Interface, Metric: r.Metric, Protocol: proto})
		}
	}
	return h
}

func lane(name string, uplinks ...string) Lane {
	l := Lane{Name: name, IPv6: IPv6Auto, Enabled: true}
	for _, u := range uplinks {
		sel, err := ParseSelector(u)
		if err != nil {
			panic(err)
		}
		l.Uplink = append(l.Uplink, sel)
	}
	return l
}

// world is a machine with its uplinks and lanes.
type world struct {
	lanes   []Lane
	uplinks []Uplink
	host    *Host
	allocs  map[string]Allocation
	current map[string]string
	saved   map[string]string
	held    map[string]string
	meddle  func(State) // what others did to the state meanwhile
}

func newWorld(lanes ...Lane) *world {
	us := []Uplink{wifi(), wired()}
	return &world{lanes: lanes, uplinks: us, host: hostOf(us...)}
}

// build allocates and builds, and remembers what a daemon would.
func (w *world) build() (State, []LaneStatus) {
	var up, idle []Lane
	for _, l := range w.lanes {
		if w.held[l.Name] == "" {
			up = append(up, l)
		} else {
			idle = append(idle, l)
		}
	}
	allocs, clashes := Allocate(up, idle, w.allocs, w.host)
	w.allocs = allocs
	s, statuses := Build(Input{Lanes: w.lanes, Uplinks: w.uplinks, Host: w.host, Allocs: allocs, Clashes: clashes, Current: w.current, Saved: w.saved, Held: w.held})
	w.current = make(map[string]string)
	for _, st := range statuses {
		if st.Uplink != nil {
			w.current[st.Lane.Name] = st.Uplink.Interface
		}
	}
	return s, statuses
}

func (w *world) status(t testing.TB) LaneStatus {
	t.Helper()
	_, st := w.build()
	if len(st) != 1 {
		t.Fatalf("%d statuses, want 1", len(st))
	}
	return st[0]
}

func laneN(i int) Lane { return lane(fmt.Sprintf("lane%04d", i), "type:wifi") }
