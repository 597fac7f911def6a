package policy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// walker leads a model through random worlds, as a daemon leads the kernel.
type walker struct {
	*rapid.T
	world
	m *model
}

func newWalker(t *rapid.T) *walker {
	w := &walker{T: t, world: world{host: hostOf(), saved: map[string]string{}}}
	w.m = newModel(w.host)
	return w
}

func pick[T any](t *rapid.T, label string, from ...T) T {
	return rapid.SampledFrom(from).Draw(t, label)
}

func chance(t *rapid.T, label string, percent int) bool {
	return rapid.IntRange(0, 99).Draw(t, label) < percent
}

var laneNames = []string{"steam", "games", "a-long-lane-name-one", "a-long-lane-name-two", "ulv-steam"}

func (w *walker) drawLanes() {
	w.lanes = nil
	for _, name := range laneNames {
		if chance(w.T, "lane "+name, 50) {
			w.lanes = append(w.lanes, w.drawLane(name))
		}
	}
	w.lanes = rapid.Permutation(w.lanes).Draw(w.T, "order")
}

func (w *walker) drawLane(name string) Lane {
	l := lane(name, pick(w.T, "uplink", []string{"type:wifi"}, []string{"enp7s0"}, []string{"type:gsm", "ssid:Home"}, []string{"eth0", "type:ethernet"})...)
	l.Subnet = pick(w.T, "subnet", netip.Prefix{}, netip.Prefix{}, pfx("10.0.1.0/24"), pfx("10.0.7.0/30"), pfx("10.9.0.0/16"))
	l.Table = pick(w.T, "table", uint32(0), 0, 100, 200)
	l.Mark = pick(w.T, "mark", uint32(0), 0, 100, 7)
	l.Bridge = pick(w.T, "bridge", "", "", "br0", "ul-games")
	l.NoBridge = l.Bridge == "" && chance(w.T, "no bridge", 30)
	l.Allow = pick(w.T, "allow", nil, nil, []netip.Prefix{pfx("192.168.1.0/24")}, []netip.Prefix{pfx("192.168.50.0/24"), pfx("172.20.0.0/16")})
	l.DNS = pick(w.T, "dns", nil, []netip.Addr{ipa("9.9.9.9")})
	if chance(w.T, "a profile's", 30) {
		l.External, l.NoBridge = true, false
		l.Bridge = pick(w.T, "its bridge", "ul-steam", "ul-games", "br0", "docker0")
		if l.Subnet.IsValid() {
			l.Gateway = pick(w.T, "its address", l.Subnet.Addr().Next(), l.Subnet.Addr().Next().Next(), broadcast(l.Subnet))
		}
	}
	return l
}

// manager does what NetworkManager does to the bridges of lanes: it takes over one
// of ours when it activates a profile on it, and whenever it activates one it takes
// the ports out, and puts the spanning tree protocol in. (In the moment of a
// takeover the chain does not know of it yet, and the rules alone hold the lane.)
func (w *walker) manager() {
	chained := w.m.state()
	for _, op := range TakeOver(w.m.state(), w.host, w.lanes, w.held) {
		if err := w.m.apply(op); err != nil {
			w.Fatal(err)
		}
		for _, o := range w.m.objects {
			if s, ok := o.(Sysctl); ok && s.Link() == op.Object.(Bridge).Name {
				w.saved[s.Key] = "0" // it was ours from its birth
			}
		}
	}
	for k, o := range w.m.objects {
		if v, ok := o.(Veth); ok && w.m.links[v.Bridge] && chained.drops(v.Name) && chance(w.T, "activated again", 30) {
			v.Bridge = ""
			w.m.objects[k] = v
		} else if ok && w.m.links[v.Bridge] && chance(w.T, "spanning tree", 30) {
			stp := Sysctl{stpKey(v.Bridge), "1"}
			w.m.objects[stp.key()], w.saved[stp.Key] = stp, "1"
		}
	}
}

// drawHost draws the uplinks, and with them the machine.
func (w *walker) drawHost() {
	w.uplinks = nil
	for _, u := range []Uplink{
		{Interface: "wlp6s0", Type: "wifi", SSID: "Home"},
		{Interface: "enp7s0", Type: "ethernet"},
		{Interface: "eth0", Type: "ethernet"}, // also the name of every lane's inner end
		{Interface: "wwan0", Type: "gsm"},
	} {
		if chance(w.T, u.Interface, 80) {
			w.uplinks = append(w.uplinks, w.drawUplink(u))
		}
	}
	w.host = hostOf(w.uplinks...)
	seen := map[key]bool{} // the kernel has one route of a destination and metric
	w.host.Routes = slices.DeleteFunc(w.host.Routes, func(r HostRoute) bool {
		k := Route{Dst: r.Dst, Metric: r.Metric}.key()
		defer func() { seen[k] = true }()
		return seen[k]
	})
	for name, l := range w.host.Links {
		l.Running = chance(w.T, "running", 90)
		l.MTU = pick(w.T, "mtu", 1500, 1500, 1420)
		w.host.Links[name] = l
	}
	for _, name := range []string{"br0", "ul-steam", "ul-games", "docker0"} {
		if chance(w.T, "link "+name, 30) && w.m.objects[linkKey("", name)] == nil {
			w.host.Links[name] = HostLink{MTU: 1500, Bridge: chance(w.T, "bridge", 90), Master: pick(w.T, "master", "", "", "", "", "bond0"), Addrs: pick(w.T, "address", nil, []netip.Prefix{pfx("172.17.0.1/16")}, []netip.Prefix{pfx("10.0.1.9/24")}, []netip.Prefix{pfx("10.0.7.1/30")})}
			w.host.Routes = append(w.host.Routes, HostRoute{Table: MainTable, Dst: pfx("10.0.1.0/24"), Dev: name, Metric: uint32(425 + len(w.host.Routes))})
		}
	}
	for _, name := range []string{"tap0", "vethc"} {
		if chance(w.T, "port "+name, 20) {
			w.host.Links[name] = HostLink{MTU: 1500, Master: pick(w.T, "its bridge", "br0", "ul-steam", "ul-games", "docker0")}
		}
	}
	if chance(w.T, "foreign objects", 30) {
		w.host.Routes = append(w.host.Routes, HostRoute{Table: pick(w.T, "table", uint32(52), 100, 200), Dst: pfx("10.77.0.0/16"), Dev: "lo"})
		w.host.Rules = append(w.host.Rules, HostRule{Priority: 100, Mark: pick(w.T, "mark", uint32(0), 7), Table: pick(w.T, "table", uint32(52), 100)})
		w.host.Netns = map[string]bool{pick(w.T, "netns", "games", "other"): true}
		w.host.Files = map[string]bool{ResolvConfPath(pick(w.T, "file", "steam", "other")): true}
	}
	w.m.host(w.host)
}

func (w *walker) drawUplink(u Uplink) Uplink {
	u.Phase = pick(w.T, "phase", PhaseActive, PhaseActive, PhaseActive, PhaseChanging, PhaseDown)
	u.Addresses = pick(w.T, "addresses",
		[]netip.Prefix{pfx("192.168.50.4/24")},
		[]netip.Prefix{pfx("192.168.50.9/24"), pfx("192.168.51.9/25")},
		[]netip.Prefix{pfx("10.0.0.3/16")}, // a hotel
		[]netip.Prefix{pfx("100.64.0.1/32"), pfx("2001:db8::1/64")},
		nil)
	u.Routes = pick(w.T, "routes",
		[]UplinkRoute{{Dst: default4, Via: ipa("192.168.50.1"), Metric: 600}},
		[]UplinkRoute{{Dst: default4, Via: ipa("192.168.50.254"), Metric: 600}, {Dst: default4, Via: ipa("192.168.50.7"), Metric: 700}},
		[]UplinkRoute{{Dst: default4}}, // point to point
		[]UplinkRoute{{Dst: default4, Via: ipa("192.168.50.1")}, {Dst: pfx("172.30.0.0/16"), Via: ipa("192.168.50.2")}, {Dst: pfx("192.168.50.0/28"), Via: ipa("192.168.50.77")}},
		[]UplinkRoute{{Dst: default4, Via: ipa("10.0.0.1")}, {Dst: pfx("10.0.0.1/32")}, {Dst: pfx("::/0"), Via: ipa("fe80::1")}},
		nil)
	u.DNS = []netip.Addr{ipa("192.168.50.1"), ipa("127.0.0.53"), ipa("2001:db8::53")}
	return u
}

// next draws what changes and returns the state that is wanted then.
func (w *walker) next() State {
	if w.lanes == nil || chance(w.T, "other lanes", 40) {
		w.drawLanes()
	}
	if w.uplinks == nil || chance(w.T, "other host", 70) {
		w.drawHost()
	}
	if chance(w.T, "uplink's last address went", 20) {
		for name := range w.host.Links {
			w.m.dropRoutes("", name)
		}
	}
	w.held = nil
	if chance(w.T, "held", 10) {
		w.held = map[string]string{pick(w.T, "held", laneNames...): "for a reason"}
	}
	w.manager()
	s, _ := w.build()
	return s
}

// plan is Diff, with what a daemon does around it.
func (w *walker) plan(m *model, want State) []Op {
	have := m.observe(want)
	ops := Diff(have, want)
	for _, op := range ops {
		if s, ok := op.Object.(Sysctl); ok && m.links[s.Link()] {
			if _, known := w.saved[s.Key]; !known {
				w.saved[s.Key] = "0"
				if h, ok := op.Have.(Sysctl); ok {
					w.saved[s.Key] = h.Value
				}
			}
		}
	}
	return ops
}

// converge applies ops to m, which must come out as want, with check after each.
func (w *walker) converge(m *model, ops []Op, want State, check func() error) {
	for i, op := range ops {
		err := m.foreign(op)
		if err == nil {
			err = m.apply(op)
		}
		if err == nil {
			err = check()
		}
		if err != nil {
			w.Fatalf("operation %d of\n%s\n%v", i, shell(ops), err)
		}
	}
	if have := m.observe(want); !maps.Equal(have, want) {
		missing, extra := compare(have, want)
		w.Fatalf("after\n%s\nmissing: %v\nextra: %v", shell(ops), missing, extra)
	}
	if again := Diff(m.observe(want), want); len(again) > 0 {
		w.Fatalf("after\n%s\nagain:\n%s", shell(ops), shell(again))
	}
}

func shell(ops []Op) string {
	var b strings.Builder
	for _, op := range ops {
		for _, line := range op.Shell() {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

func always() error { return nil }

// subnets adds those of w's lanes to all.
func (w *walker) subnets(all map[string][]netip.Prefix) map[string][]netip.Prefix {
	for name, a := range w.allocs {
		all[name] = append(all[name], a.Subnet)
	}
	return all
}

// Lanes are led through one world after the other; whatever comes, the plan is
// accepted line by line, never lets a packet pass beside the floor, keeps a way
// out while there was one and will be one, and ends in what is wanted.
func TestWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWalker(t)
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			subnets, before := w.subnets(map[string][]netip.Prefix{}), w.allocs
			want := w.next()
			if ops := Diff(want, want); ops != nil {
				t.Fatalf("from a state to itself: %s", shell(ops))
			}
			w.subnets(subnets)
			var steady []uint32
			after := newModel(w.host)
			for o := range want {
				after.objects[o.key()] = o
			}
			for name, a := range w.allocs {
				if a.Table == before[name].Table && len(w.m.defaults(a.Table)) == 1 && len(after.defaults(a.Table)) == 1 {
					steady = append(steady, a.Table)
				}
			}
			w.converge(w.m, w.plan(w.m, want), want, func() error {
				for _, table := range steady {
					if d := w.m.defaults(table); len(d) != 1 {
						t.Fatalf("table %d has ways out %v", table, d)
					}
				}
				return w.m.open(subnets)
			})
			w.spared(want)
		}
		// And down: nothing is left but switches as they were.
		w.lanes = []Lane{}
		subnets := w.subnets(map[string][]netip.Prefix{})
		want, _ := w.build()
		w.converge(w.m, w.plan(w.m, want), want, func() error { return w.m.open(subnets) })
		for o := range want {
			if s, ok := o.(Sysctl); !ok || s.Value != w.saved[s.Key] {
				t.Fatalf("left behind: %v", o)
			}
		}
	})
}

// spared checks that nothing is done to a bridge that others use, too.
func (w *walker) spared(want State) {
	for o := range want {
		switch o := o.(type) {
		case Sysctl:
			arp := strings.Contains(o.Key, "/arp_") // that is for an uplink's sake
			if w.host.Links[o.Link()].Bridge && w.m.shared[o.Link()] && !arp && o.Value != w.saved[o.Key] {
				w.Fatalf("%v of a bridge that others use, too", o)
			}
		case Chain:
			for name := range w.host.Links {
				if w.host.Links[name].Bridge && w.m.shared[name] && strings.Contains(o.Rules+" ", " "+name+" ") {
					w.Fatalf("rules for %s, which others use, too:\n%s", name, o.Rules)
				}
			}
		}
	}
}

// Whatever others did to what is ours is healed, and from wherever a plan fails
// the next one goes on.
func TestDriftAndFailure(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWalker(t)
		for range rapid.IntRange(1, 3).Draw(t, "steps") {
			want := w.next()
			for range rapid.IntRange(0, 4).Draw(t, "drifts") {
				w.drift()
			}
			ops := w.plan(w.m, want)
			for i := range ops {
				m := w.m.clone()
				for _, op := range ops[:i] {
					if err := m.apply(op); err != nil {
						t.Fatalf("operation %d of\n%s\n%v", i, shell(ops), err)
					}
				}
				m.half(ops[i])
				w.converge(m, w.plan(m, want), want, always)
			}
			w.converge(w.m, ops, want, always)
		}
	})
}

// half does the first of the system calls that op is made of.
func (m *model) half(op Op) {
	if op.Verb != Add || m.accepts(op.Object) != nil {
		return
	}
	switch o := op.Object.(type) {
	case Netns:
		m.objects[o.key()] = Netns{Name: o.Name}
	case Bridge:
		m.objects[o.key()] = Bridge{Name: o.Name, MTU: o.MTU}
	case Veth:
		m.objects[o.key()] = Veth{Name: o.Name, Netns: o.Netns, Inner: o.Inner, MTU: o.MTU}
	case Chain:
		o.Jumped = false
		m.objects[o.key()] = o
	case File:
		o.Content = FileTag
		m.objects[o.key()] = o
	}
}

// drift is one thing that somebody else does to an object of ours, or a stale
// one from another time.
func (w *walker) drift() {
	m := w.m
	if len(m.objects) == 0 || chance(w.T, "stale", 25) {
		w.stale()
		return
	}
	all := slices.Collect(maps.Values(m.objects))
	if chance(w.T, "a link", 30) {
		all = slices.DeleteFunc(all, func(o Object) bool { return !isLink(o) })
	}
	if len(all) == 0 {
		return
	}
	sortObjects(all)
	o := pick(w.T, "object", all...)
	if _, ok := o.(Sysctl); !ok && chance(w.T, "removed", 40) {
		m.remove(o)
		return
	}
	switch x := o.(type) {
	case Netns:
		x.Up = false
		o = x
	case Bridge:
		x.Lane = pick(w.T, "lane", x.Lane, "games")
		x.MTU = pick(w.T, "mtu", x.MTU, 1280)
		x.Master = pick(w.T, "master", "", "", "bond0")
		if x.Up = chance(w.T, "up", 50); !x.Up {
			m.dropRoutes("", x.Name)
		}
		o = x
	case Veth:
		w.driftVeth(x)
		return
	case Route:
		if x.Type == Unicast {
			x.Via, x.OnLink = ipa("203.0.113.1"), true
		}
		o = x
	case Chain:
		x.Jumped = chance(w.T, "jumped", 50)
		x.Rules = pick(w.T, "rules", x.Rules, "", "-j ACCEPT", "-s 10.0.1.0/24 -o lo -j MASQUERADE")
		o = x
	case File:
		x.Content = FileTag + " old\n"
		o = x
	case Sysctl:
		x.Value = pick(w.T, "value", "0", "1", "2")
		o = x
	}
	m.objects[o.key()] = o
}

func (w *walker) driftVeth(v Veth) {
	m := w.m
	v.MTU = pick(w.T, "mtu", v.MTU, 0)
	switch pick(w.T, "veth", "moved", "renamed", "freed", "down") {
	case "moved":
		m.dropLink(v.Netns, v.Inner) // the kernel flushes it
		v.Netns, v.Inner, v.InnerUp = "", "", false
		for _, o := range m.objects {
			if n, ok := o.(Netns); ok && m.inner(n.Name, InnerLink) == nil && chance(w.T, "into "+n.Name, 50) {
				v.Netns, v.Inner = n.Name, InnerLink
				break
			}
		}
	case "renamed":
		for k, o := range m.objects {
			switch x := o.(type) {
			case Addr:
				if x.Netns == v.Netns && x.Netns != "" {
					delete(m.objects, k)
					x.Link = "eth9"
					m.objects[x.key()] = x
				}
			case Route:
				if x.Netns == v.Netns && x.Netns != "" {
					x.Dev = "eth9"
					m.objects[x.key()] = x
				}
			}
		}
		if v.Netns != "" {
			v.Inner = "eth9"
		}
	case "freed":
		v.Bridge = ""
	case "down":
		m.dropRoutes("", v.Name)
		m.dropRoutes(v.Netns, v.Inner)
		v.Up, v.InnerUp = false, false
	}
	m.objects[v.key()] = v
}

// stale puts something of ours in the model that no lane wants.
func (w *walker) stale() {
	add := func(objects ...Object) {
		for _, o := range objects {
			if w.m.objects[o.key()] != nil || w.m.accepts(o) != nil {
				return // nor what builds on it
			}
			w.m.objects[o.key()] = o
		}
	}
	switch pick(w.T, "stale", "lane", "bridge", "address", "route", "rule", "chain", "orphan", "veth where a bridge belongs") {
	case "lane":
		add(Netns{"stale", true}, Veth{Name: "ulv-stale", Lane: "stale", Netns: "stale", Inner: InnerLink, MTU: 1500, Up: true},
			Addr{"stale", InnerLink, pfx("10.0.1.2/24")}, Addr{"", "ulv-stale", pfx("10.0.1.1/24")},
			Route{Netns: "stale", Table: MainTable, Dst: default4, Via: ipa("10.0.1.1"), Dev: InnerLink},
			Route{Table: 100, Dst: pfx("10.0.1.0/24"), Dev: "ulv-stale"})
	case "bridge":
		add(Bridge{Name: "ul-stale", Lane: "stale", MTU: 1500, Up: true}, Addr{"", "ul-stale", pfx("10.5.0.1/24")}, Route{Table: 100, Dst: pfx("10.5.0.0/24"), Dev: "ul-stale"})
	case "address":
		for _, o := range w.m.objects {
			if b, ok := o.(Bridge); ok {
				add(Addr{"", b.Name, pfx("10.6.0.1/24")})
				break
			}
		}
	case "route":
		add(Route{Table: 100, Dst: pfx("10.7.0.0/24"), Type: Unreachable}, Route{Table: 333, Dst: default4, Metric: 5, Via: ipa("203.0.113.1"), OnLink: true, Dev: "lo"})
	case "rule":
		add(Rule{Priority: LanePriority, From: pfx("10.0.1.0/24"), Table: 333}, Rule{Priority: AllowPriority, From: pfx("10.0.1.0/24"), To: pfx("10.8.0.0/16"), Table: MainTable})
	case "chain":
		add(Chain{"mangle", PreroutingChain, "PREROUTING", false, "-i lo -j MARK --set-xmark 0x1/0xffffffff"})
	case "orphan":
		add(Netns{"orphan", false})
		if v := (Veth{Name: "ulv-orphan", Netns: "orphan", Inner: InnerLink}); w.m.objects[v.key()] == nil {
			add(v)
			w.m.objects[v.key()] = Veth{Name: "ulv-orphan"} // its namespace lost its name
		}
	case "veth where a bridge belongs":
		add(Netns{"stale", true}, Veth{Name: "ul-steam", Lane: "stale", Netns: "stale", Inner: "eth1"}, Addr{"", "ul-steam", pfx("10.0.1.1/24")})
	}
}
