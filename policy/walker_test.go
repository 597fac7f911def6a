package policy

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"
)

// walker leads a model through random worlds, as a daemon leads the kernel.
type walker struct {
	*rapid.T
	world
	m     *model
	judge func(Moment) error // of what there is after every operation; nil: nothing
	blind bool               // the firewall could not be seen when lanes changed last
	past  []Decision         // since one was carried out as a whole
	// tampered is what others have changed since all was well last.
	tampered Tampering
}

func newWalker(t *rapid.T) *walker {
	w := &walker{T: t, world: world{host: hostOf(), firewall: Nftables, now: dawn}, past: []Decision{{}}}
	w.m = newModel(w.host)
	w.value = w.m.value
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

// manager does what NetworkManager does to the bridges of lanes: whenever it activates a
// profile it takes the ports out and puts the spanning tree protocol in.
func (w *walker) manager() {
	for _, o := range w.m.sorted() {
		v, ok := o.(Veth)
		if !ok || !w.m.links[v.Bridge] {
			continue
		}
		if w.m.state().drops(v.Name) && chance(w.T, "activated again", 30) {
			v.Bridge = ""
			w.m.objects[v.key()] = v
		} else if chance(w.T, "spanning tree", 30) {
			w.m.switches[stpKey(v.Bridge)] = "1"
		}
	}
}

// takeBack makes bridges ours that NetworkManager took over and that no profile has any more.
func (w *walker) takeBack() {
	for _, name := range slices.Sorted(maps.Keys(w.host.Links)) {
		link := w.host.Links[name]
		if !link.Made || slices.ContainsFunc(w.lanes, func(l Lane) bool { return (l.External || w.held[l.Name]) && l.Bridge == name }) {
			continue
		}
		delete(w.host.Links, name)
		delete(w.m.links, name)
		w.m.put("", Bridge{Name: name, MTU: link.MTU, Up: link.Running})
		for _, a := range link.Addrs {
			w.m.put("", Addr{Link: name, Prefix: a})
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
	w.m.rules = slices.DeleteFunc(slices.Clone(w.m.rules), func(r HostRule) bool { return r.Protocol == ProtoStatic })
	if chance(w.T, "foreign objects", 30) {
		w.host.Routes = append(w.host.Routes, HostRoute{Table: pick(w.T, "table", uint32(52), 100, 200), Dst: pick(w.T, "to", default4, pfx("10.77.0.0/16")), Dev: "lo", Metric: 50})
		w.m.rules = insertRule(w.m.rules, HostRule{Protocol: ProtoStatic, Rule: Rule{
			Priority: pick(w.T, "priority", uint32(0), 0, 100), Family: IPv4, Mask: pick(w.T, "mask", uint32(0), 0xffffffff), Mark: 7,
			From: pick(w.T, "from", netip.Prefix{}, netip.Prefix{}, pfx("10.0.1.0/24")), Table: pick(w.T, "table", uint32(52), 100, MainTable),
		}})
		if name := pick(w.T, "netns", "games", "other"); w.m.objects[netnsKey(name)] == nil {
			w.host.Netns = map[string]bool{name: true}
		}
		if path := ResolvConfPath(pick(w.T, "file", "steam", "other")); w.m.objects[(File{Path: path}).key()] == nil {
			w.host.Files = map[string]string{path: "nameserver 192.0.2.53\n"}
		}
	}
	if chance(w.T, "another program's firewall", 30) {
		w.host.Drops = map[string]bool{IPTables: true}
	}
	w.host.Forwards = chance(w.T, "a router", 20)
	w.m.route(w.host.Forwards)
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

// next draws what changes.
func (w *walker) next() {
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
		w.held = map[string]bool{pick(w.T, "held", laneNames...): true}
	}
	w.problems = nil
	if chance(w.T, "the firewall can't be read", 5) {
		w.problems = map[Edge]string{EdgeFirewall: "no such table"}
	}
	w.host.Tracked = map[netip.Prefix]bool{}
	for _, p := range slices.SortedFunc(maps.Keys(w.memory.Draining), netip.Prefix.Compare) {
		if chance(w.T, "tracked", 50) {
			w.host.Tracked[p] = chance(w.T, "live", 50)
		}
	}
	w.now = w.now.Add(time.Minute)
	w.manager()
}

// look makes the world what the model is at this moment.
func (w *walker) look() {
	w.have = w.seen(w.m.state())
	w.host.Rules = slices.Clone(w.m.rules)
	w.host.Sysctls = map[string]string{}
	for key := range w.m.switches {
		if v, ok := w.m.value(key); ok {
			w.host.Sysctls[key] = v
		}
	}
	for key := range w.asked {
		if v, ok := w.m.value(key); ok {
			w.host.Sysctls[key] = v
		}
	}
	for _, o := range w.m.objects {
		if !isLink(o) {
			continue
		}
		for _, key := range OwnSwitches(o.key().name) {
			if v, ok := w.m.value(key); ok {
				w.host.Sysctls[key] = v
			}
		}
	}
}

// plan decides about what there is.
func (w *walker) plan() Decision {
	w.takeBack()
	w.look()
	in := w.input()
	d := w.decide()
	in.Memory.built = nil
	in.Asked, in.Have = w.asked, w.input().Have
	if all := Decide(in); !reflect.DeepEqual(all.Ops, d.Ops) || !maps.Equal(all.Want.All(), d.Want.All()) {
		w.Fatalf("with nothing of the last decision:\n%s\ninstead of\n%s", shell(all.Ops), shell(d.Ops))
	}
	return d
}

// carry carries out operations, with check after each.
func (w *walker) carry(ops []Op, check func() error) {
	for i, batch := range batches(ops) {
		for _, op := range batch {
			err := w.m.foreign(op)
			if op.Verb == Release {
				w.released(op.Object.(Bridge))
			}
			if err == nil {
				err = w.m.apply(op)
			}
			if err != nil {
				w.Fatalf("operation %d of\n%s\n%v", i, shell(ops), err)
			}
		}
		if !felt(batch) {
			continue
		}
		if err := check(); err != nil {
			w.Fatalf("after %q of\n%s\n%v", shell(batch), shell(ops), err)
		}
	}
}

// felt tells whether packets may notice operations.
func felt(batch []Op) bool {
	return slices.ContainsFunc(batch, func(op Op) bool {
		switch op.Object.(type) {
		case File, Netns, Conntrack, Sockets:
			return op.Verb == Remove
		}
		return true
	})
}

// batches parts operations as a daemon carries them out: iptables' chains change all together, in
// one iptables-restore, when the first of their rules does.
func batches(ops []Op) [][]Op {
	var out [][]Op
	chains := -1
	for _, op := range ops {
		if _, ok := op.Object.(ChainRule); ok && chains >= 0 {
			out[chains] = append(out[chains], op)
			continue
		} else if ok {
			chains = len(out)
		}
		out = append(out, []Op{op})
	}
	return out
}

// released makes NetworkManager take over a bridge of ours as it is.
func (w *walker) released(b Bridge) {
	link := HostLink{MTU: b.MTU, Running: b.Up, Bridge: true, Made: true}
	for _, o := range w.m.sorted() {
		if a, ok := o.(Addr); ok && a.Netns == "" && a.Link == b.Name {
			link.Addrs = append(link.Addrs, a.Prefix)
		}
	}
	w.host.Links[b.Name] = link
}

// converge carries out a decision, which must come out as it wants.
func (w *walker) converge(d Decision, check func() error) {
	w.carry(d.Ops, check)
	w.look()
	if have, want := w.seen(w.input().Have.All()), w.seen(d.Want.All()); len(minus(want, have)) > 0 || len(minusSwitches(have, want)) > 0 {
		w.Fatalf("after\n%s\nmissing: %v\nextra: %v", shell(d.Ops), minus(want, have), minusSwitches(have, want))
	}
	w.blind = w.problems != nil
	w.host.Tracked = nil // what has been drained is forgotten only now
	again := w.decide()
	missing, extra := minusSwitches(again.Want.All(), d.Want.All()), minusSwitches(d.Want.All(), again.Want.All()) // restored ones are forgotten
	if len(again.Ops)+len(missing)+len(extra) > 0 {
		w.Fatalf("after\n%s\nagain:\n%s\nwhat is wanted got %v and lost %v", shell(d.Ops), shell(again.Ops), missing, extra)
	}
}

// seen leaves out what can't be looked at.
func (w *walker) seen(s State) State {
	if w.problems == nil {
		return s
	}
	out := maps.Clone(s)
	maps.DeleteFunc(out, func(o Object, _ string) bool { return IsFilter(o) })
	return out
}

// minusSwitches is minus, less switches, which stay.
func minusSwitches(a, b State) []Object {
	return slices.DeleteFunc(minus(a, b), func(o Object) bool { _, ok := o.(Sysctl); return ok })
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

// Tampering is what part of what is ours somebody else has changed.
type Tampering string

// The parts. Each is healed without a moment in which a lane is open, as long as the others are whole.
const (
	Untampered       Tampering = ""
	TamperedFirewall Tampering = "firewall"
	TamperedRouting  Tampering = "routing"
	TamperedLinks    Tampering = "links"
	TamperedAll      Tampering = "everything"
)

// part is what an object is part of.
func part(o Object) Tampering {
	switch o := o.(type) {
	case Table, Element, Chain, ChainRule, Door:
		return TamperedFirewall
	case Rule:
		return TamperedRouting
	case Route:
		if o.Netns == "" {
			return TamperedRouting
		}
	}
	return TamperedLinks
}

// drift is one thing that somebody else does to an object of ours, or a stale
// one from another time.
func (w *walker) drift(which Tampering) {
	m := w.m
	if which == TamperedAll && (len(m.objects) == 0 || chance(w.T, "stale", 25)) {
		w.stale()
		return
	}
	if which == TamperedLinks && len(m.switches) > 0 && chance(w.T, "a switch", 30) {
		key := pick(w.T, "switch", slices.Sorted(maps.Keys(m.switches))...)
		m.switches[key] = pick(w.T, "value", "0", "2")
		return
	}
	if which == TamperedFirewall && chance(w.T, "flush ruleset", 50) {
		m.drop(func(o Object) bool { return part(o) != TamperedFirewall })
		return
	}
	all := slices.DeleteFunc(m.sorted(), func(o Object) bool { return which != TamperedAll && part(o) != which })
	if len(all) == 0 {
		return
	}
	o := pick(w.T, "object", all...)
	if chance(w.T, "removed", 40) {
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
	case Table:
		x.Sound = false
		o = x
	case Chain:
		x.Jumped = chance(w.T, "jumped", 50)
		o = x
	case ChainRule:
		x.XTRule = XTRule{Other: "-j ACCEPT"}
		o = x
	case File:
		x.Content = FileTag + " old\n"
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
		for _, o := range m.sorted() {
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
				if x.Netns == v.Netns && x.Netns != "" && x.Type == Unicast {
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
			w.m.put("", o)
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
		for _, o := range w.m.sorted() {
			if b, ok := o.(Bridge); ok {
				add(Addr{"", b.Name, pfx("10.6.0.1/24")})
				break
			}
		}
	case "route":
		add(Route{Table: 100, Dst: pfx("10.7.0.0/24"), Type: Unreachable}, Route{Table: 333, Dst: default4, Metric: 5, Via: ipa("203.0.113.1"), OnLink: true, Dev: "lo"})
	case "rule":
		add(Rule{Family: IPv4, From: pfx("10.0.1.0/24"), Table: 333}, Rule{Priority: 5100, Family: IPv4, From: pfx("10.0.1.0/24"), To: pfx("10.8.0.0/16"), Table: MainTable})
	case "chain":
		add(Chain{Table: "mangle", Name: "UPLANE-OUTPUT", Hook: "OUTPUT"}, ChainRule{"mangle", "UPLANE-OUTPUT", 1, XTRule{In: "lo", Target: TargetMark, Mark: 1, Mask: 1}})
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
