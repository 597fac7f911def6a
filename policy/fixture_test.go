package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"
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
	h := &Host{
		Links:   map[string]HostLink{"lo": {Index: 1, MTU: 65536, Running: true, Addrs: []netip.Prefix{pfx("127.0.0.1/8")}}},
		Rules:   kernelRules(),
		Sysctls: map[string]string{},
		IPv6:    true,
	}
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

// kernelRules are those that every kernel starts with.
func kernelRules() []HostRule {
	var out []HostRule
	for _, f := range []Family{IPv4, IPv6} {
		out = append(out, rule(Rule{Family: f, Table: 255}), rule(Rule{Priority: 32766, Family: f, Table: MainTable}))
	}
	return append(out, rule(Rule{Priority: 32767, Family: IPv4, Table: 253}))
}

func rule(r Rule) HostRule { return HostRule{Rule: r, Protocol: ProtoKernel} }

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

// world is a machine with its uplinks and lanes, as far as decisions go.
type world struct {
	lanes    []Lane // those that are External are NetworkManager profiles, the others files
	uplinks  []Uplink
	host     *Host
	have     State // but for switches, which are host's
	memory   Memory
	firewall Backend
	problems map[Edge]string
	held     map[string]bool // lanes whose file says up and whose profile is down
	asked    map[string]bool
	// value is what a switch is, and whether there is such a one; nil: all are 0.
	value  func(key string) (string, bool)
	now    time.Time
	meddle func(State) // what others did to the state meanwhile
}

// dawn is when worlds begin.
var dawn = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func newWorld(lanes ...Lane) *world {
	us := []Uplink{wifi(), wired()}
	return &world{lanes: lanes, uplinks: us, host: hostOf(us...), firewall: Nftables, now: dawn}
}

// input is what a daemon would see of the world.
func (w *world) input() Input {
	in := Input{
		Now: w.now, NM: Snapshot{Uplinks: w.uplinks, Known: true, Running: true},
		Host: w.host, Asked: w.asked, Memory: w.memory, Firewall: w.firewall, Problems: w.problems,
	}
	have := maps.Clone(w.have)
	if have == nil {
		have = State{}
	}
	links := map[string]string{}
	for o, lane := range have {
		if isLink(o) {
			links[o.key().name] = lane
		}
	}
	for k, v := range w.host.Sysctls {
		s := Sysctl{k, v}
		have.Add(links[s.Link()], s)
	}
	in.Have = NewSetup(have)
	for _, l := range w.lanes {
		held := w.held[l.Name]
		if !l.External || held {
			file := l
			file.External, file.Gateway = false, netip.Addr{}
			in.Files.Lanes = append(in.Files.Lanes, FileLane{file, "/etc/uplane/lanes.d/" + l.Name + ".toml"})
		}
		if l.External || held {
			p := Profile{UUID: l.Name, Name: l.Name, Interface: l.Bridge, Lane: l.Name, Method: "manual", Active: !held}
			if p.Interface == "" {
				p.Interface = shorten(bridgePrefix, l.Name, 0)
			}
			if l.Gateway.IsValid() {
				p.Address = netip.PrefixFrom(l.Gateway, l.Subnet.Bits())
			}
			in.NM.Profiles = append(in.NM.Profiles, ProfileLane{Profile: p, Made: l})
		}
	}
	return in
}

// decide decides as a daemon does: when a decision needs the value of a switch, it looks
// at it and decides again.
func (w *world) decide() Decision {
	for range 4 {
		d := Decide(w.input())
		if len(d.Unknown) == 0 {
			w.memory = d.Memory
			return d
		}
		if w.asked == nil {
			w.asked = map[string]bool{}
		}
		for _, key := range d.Unknown {
			w.asked[key] = true
			v, exists := "0", true
			if w.value != nil {
				v, exists = w.value(key)
			}
			if _, known := w.host.Sysctls[key]; exists && !known {
				w.host.Sysctls[key] = v
			}
		}
	}
	panic("always another switch is unknown")
}

// build decides, and returns the state that is wanted.
func (w *world) build() (State, []LaneStatus) {
	d := w.decide()
	return d.Want.All(), d.Lanes
}

// settle makes what is wanted so.
func (w *world) settle() Decision {
	d := w.decide()
	w.adopt(d.Want.All())
	return d
}

// adopt makes want what there is.
func (w *world) adopt(want State) {
	w.have = State{}
	w.host.Rules = slices.DeleteFunc(w.host.Rules, func(r HostRule) bool { return r.Ours() })
	for _, op := range Diff(nil, want) {
		switch o := op.Object.(type) {
		case Sysctl:
			w.host.Sysctls[o.Key] = o.Value
			continue
		case Rule:
			w.host.Rules = insertRule(w.host.Rules, HostRule{Rule: o, Protocol: Protocol})
		}
		w.have[op.Object] = op.Lane
	}
}

// rehost gives the host the uplinks' present addresses and routes.
func (w *world) rehost() {
	old := w.host
	w.host = hostOf(w.uplinks...)
	w.host.Rules, w.host.Sysctls = old.Rules, old.Sysctls
}

// insertRule puts a rule where the kernel does: behind all of its priority.
func insertRule(rules []HostRule, r HostRule) []HostRule {
	i := 0
	for i < len(rules) && rules[i].Priority <= r.Priority {
		i++
	}
	return slices.Insert(slices.Clip(rules), i, r)
}

// status is that of the only lane.
func (w *world) status(t testing.TB) LaneStatus {
	t.Helper()
	_, st := w.build()
	if len(st) != 1 {
		t.Fatalf("%d statuses, want 1", len(st))
	}
	return st[0]
}

// remember makes the world remember that a lane got numbers.
func (w *world) remember(name string, a Allocation) {
	if w.memory.Lanes == nil {
		w.memory.Lanes = map[string]LaneMemory{}
	}
	l := w.memory.Lanes[name]
	l.Allocation = a
	w.memory.Lanes[name] = l
}

func laneN(i int) Lane { return lane(fmt.Sprintf("lane%04d", i), "type:wifi") }

func newState(objects ...Object) State {
	s := make(State)
	s.Add("", objects...)
	return s
}

// same tells whether two states have the same objects, whosever they are.
func same(a, b State) bool { return len(a) == len(b) && len(minus(a, b)) == 0 }
