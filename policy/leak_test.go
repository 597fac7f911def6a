package policy_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"uplane/policy"
	"uplane/policy/walk"
)

var (
	internet4 = netip.MustParseAddr("198.51.100.1")
	internet6 = netip.MustParseAddr("2001:db8:ffff::1")
	stranger4 = netip.MustParseAddr("203.0.113.99") // a source that is nobody's
	stranger6 = netip.MustParseAddr("2001:db8:eeee::99")
)

// Through all random worlds, after every operation, no packet of a lane leaves another way than the lane's.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	var seen tally
	policy.RandomWalks(t, seen.judge, seen.enough)
	seen.check(t)
}

// Nor does one when operations fail, and when others meddle with what is ours.
func TestNothingLeaksWhenMeddledWith(t *testing.T) {
	t.Parallel()
	var seen tally
	policy.Stumbles(t, seen.judge, seen.enough)
	seen.check(t)
}

// tally counts what became of packets, so that a judge who sees none is found out.
type tally struct{ left, dropped, answered, came int }

// enough: a run of the tests takes a few seconds. Each run has other worlds.
func (n *tally) enough() bool { return n.dropped > 200_000 }

func (n *tally) check(t *testing.T) {
	t.Helper()
	if t.Failed() {
		return
	}
	t.Logf("%+v", *n)
	if n.left == 0 || n.dropped == 0 || n.came == 0 { // answers are too rare, see TestGuardsAreNeeded
		t.Errorf("packets that left, were dropped, came back to a lane: %+v", *n)
	}
}

// judge looks at one moment.
func (n *tally) judge(m policy.Moment) error {
	j := judge{Moment: m, tally: n, world: walk.New(m.State, m.Host)}
	j.foreign = slices.ContainsFunc(m.Host.Rules, func(r policy.HostRule) bool { return !r.Ours() && r.Priority < 32766 && r.Table != 255 })
	switch {
	case m.Tampered == policy.TamperedAll:
		return nil
	case m.Backend == policy.IPTablesChains && (m.Tampered == policy.TamperedFirewall || m.Tampered == policy.TamperedLinks):
		return nil // iptables has nothing behind its translation that could guard it, nor rules for a veth out of its bridge
	case m.Tampered == policy.TamperedFirewall && j.foreign:
		return nil // a rule of others in front, which is a condition, leads lanes away, and only the firewall holds them
	}
	j.look()
	for _, check := range []func() error{j.lanes, j.comingBack, j.neighbours, j.answers} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// judge walks packets through one moment.
type judge struct {
	policy.Moment
	*tally
	world   *walk.World
	cards   map[string]map[string]bool // by which a lane may leave, at this moment or since all was well
	allowed map[string][]netip.Prefix
	host    map[string]bool // lanes that may reach the host
	uplinks []netip.Prefix  // addresses of the host's cards
	cardOf  map[netip.Addr]string
	subnets []netip.Prefix  // of lanes, also of those that can't be built
	built   []netip.Prefix  // of lanes that are there
	foreign bool            // others' rules may stand in front
	bridges map[string]bool // of lanes
}

func (j *judge) look() {
	j.bridges = map[string]bool{}
	j.cards, j.allowed, j.host, j.cardOf = map[string]map[string]bool{}, map[string][]netip.Prefix{}, map[string]bool{}, map[netip.Addr]string{}
	for _, d := range append(slices.Clip(j.Past), j.Now) {
		for _, st := range d.Lanes {
			name := st.Lane.Name
			if j.cards[name] == nil {
				j.cards[name] = map[string]bool{}
			}
			if st.Uplink != nil {
				j.cards[name][st.Uplink.Interface] = true
			}
			j.allowed[name] = append(j.allowed[name], st.Lane.Allow...)
			j.host[name] = j.host[name] || st.Lane.AllowHost
			j.bridges[st.Alloc.Bridge] = true
			if st.Alloc.Subnet.IsValid() {
				j.subnets = append(j.subnets, st.Alloc.Subnet)
			}
		}
	}
	for o := range j.State {
		if a, ok := o.(policy.Addr); ok && a.Netns != "" {
			j.built = append(j.built, a.Prefix.Masked())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(j.Host.Links)) {
		if name == "lo" || j.Host.Links[name].Bridge {
			continue
		}
		for _, a := range j.Host.Links[name].Addrs {
			j.uplinks = append(j.uplinks, a)
			j.cardOf[a.Addr()] = name
		}
	}
}

// before is the decision before the present one.
func (j *judge) before() policy.Decision { return j.Past[len(j.Past)-1] }

// walk leads one packet, and says what is wrong with where it comes out.
func (j *judge) walk(p walk.Packet, what string, wrong func(walk.Verdict) string) error {
	j.world.Quiet = true
	v := j.world.Walk(p)
	if v.Dropped {
		j.dropped++
	}
	if v.Where == walk.Link && !v.Dropped {
		return nil // somebody has just made a lane's bridge a part of another; the first operation ends it
	}
	if why := wrong(v); why != "" {
		j.world.Quiet = false
		return fmt.Errorf("%s: %s\n%+v\n%v", what, why, p, j.world.Walk(p))
	}
	return nil
}

// out tells whether a packet has left the machine. A lane's bridge without the lane leads nowhere.
func (j *judge) out(v walk.Verdict) bool {
	return !v.Dropped && !v.Local && v.Lane == "" && !j.bridges[v.Out]
}

// lanes: what lanes send leaves by their uplink, translated, or not at all.
func (j *judge) lanes() error {
	for _, v := range j.veths() {
		lane := v.Lane
		if lane == "" {
			lane = v.Netns
		}
		for _, p := range j.packetsOf(v.Netns) {
			err := j.walk(p, "lane "+lane, func(got walk.Verdict) string {
				switch {
				case got.Dropped:
					return ""
				case got.Local:
					began := p.Connection.Reply && p.Connection.State != policy.CtInvalid
					if got.Where == walk.Input && !p.ICMP && !j.host[lane] && !began && j.Tampered != policy.TamperedFirewall {
						return "reaches the host"
					}
					return ""
				case got.Lane != "":
					if got.Lane == v.Netns {
						return "" // back to itself
					}
					if j.Tampered == policy.TamperedFirewall {
						return "" // it does not leave the host
					}
					return "reaches another lane"
				}
				j.left++
				allowed := slices.ContainsFunc(j.allowed[lane], func(net netip.Prefix) bool { return net.Contains(p.Destination) })
				if !j.cards[lane][got.Out] && !allowed {
					return "leaves by another card"
				}
				addresses := j.Host.Links[got.Out].Addrs
				if len(addresses) == 0 && j.Backend == policy.IPTablesChains {
					return "" // the kernel takes an address of another card, and nothing behind that could guard it
				}
				if got.Source != p.Connection.Translated && !slices.ContainsFunc(addresses, func(a netip.Prefix) bool { return a.Addr() == got.Source }) {
					return "leaves untranslated"
				}
				return ""
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// veths are those that lead into a namespace.
func (j *judge) veths() []policy.Veth {
	var out []policy.Veth
	for o := range j.State {
		if v, ok := o.(policy.Veth); ok && v.Netns != "" {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b policy.Veth) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) })
	return out
}

// packetsOf are packets that programs in a namespace may send, the worst of them with all rights.
func (j *judge) packetsOf(netns string) []walk.Packet {
	sources := []netip.Addr{{}, stranger4}
	for o := range j.State {
		if a, ok := o.(policy.Addr); ok && a.Netns == netns {
			sources = append(sources, a.Prefix.Addr())
		}
	}
	for _, s := range j.subnets[:min(2, len(j.subnets))] { // its own of before, and another's
		sources = append(sources, s.Addr().Next().Next())
	}
	destinations := []netip.Addr{internet4}
	for _, a := range j.uplinks {
		if a.Addr().Is4() {
			destinations = append(destinations, a.Addr(), a.Addr().Next()) // the host, and a neighbour of it
		}
	}
	for _, s := range j.built {
		destinations = append(destinations, s.Addr().Next(), s.Addr().Next().Next())
	}
	for _, net := range j.allowed[netns] {
		destinations = append(destinations, net.Addr().Next())
	}
	from := walk.Place{Lane: netns, Raw: true}
	var all []walk.Packet
	for _, to := range unique(destinations) {
		for _, source := range unique(sources) {
			if !source.IsValid() {
				all = append(all, walk.Packet{From: walk.Place{Lane: netns}, Destination: to, Connection: walk.Connection{State: policy.CtNew}})
				continue
			}
			for _, c := range j.connections(source, to) {
				all = append(all, walk.Packet{From: from, Source: source, Destination: to, Connection: c})
			}
		}
	}
	for _, state := range []policy.CtState{policy.CtNew, policy.CtEstablished, policy.CtInvalid, policy.CtUntracked} {
		if j.Backend == policy.IPTablesChains {
			break // nothing but a switch of its link keeps a lane's IPv6 closed there
		}
		all = append(all, walk.Packet{From: from, Source: stranger6, Destination: internet6, Connection: walk.Connection{State: state}})
	}
	for _, a := range j.uplinks {
		if a.Addr().Is4() {
			about := walk.Connection{State: policy.CtRelated, Origin: stranger4, Translated: a.Addr(), Card: j.cardOf[a.Addr()]}
			all = append(all, walk.Packet{From: from, Source: stranger4, Destination: internet4, ICMP: true, Connection: about})
		}
	}
	return all
}

// connections are what connection tracking may know of a packet.
func (j *judge) connections(source, to netip.Addr) []walk.Connection {
	all := []walk.Connection{{State: policy.CtNew}, {State: policy.CtInvalid}, {State: policy.CtUntracked}}
	if j.Backend == policy.Nftables && j.Tampered != policy.TamperedFirewall && !j.Blind && slices.ContainsFunc(j.built, func(s netip.Prefix) bool { return s.Contains(source) }) {
		// Made while translation was missing, and begun by somebody outside. With another source, with iptables or a table that is not whole,
		// there is none of either: as such a packet never leaves untranslated, and no new one comes in, none comes to be.
		all = append(all, walk.Connection{State: policy.CtEstablished, Origin: source}, walk.Connection{State: policy.CtEstablished, Reply: true, Origin: to})
	}
	for _, a := range j.uplinks {
		if a.Addr().Is4() && to == internet4 {
			all = append(all, walk.Connection{State: policy.CtEstablished, Origin: source, Translated: a.Addr(), Card: j.cardOf[a.Addr()]})
		}
	}
	return all
}

// comingBack: what still comes for a lane comes to it, or nowhere, also when it has gone.
func (j *judge) comingBack() error {
	inside := map[netip.Addr]string{} // lanes' present addresses
	for o := range j.State {
		if a, ok := o.(policy.Addr); ok && a.Netns != "" {
			inside[a.Prefix.Addr()] = a.Netns
		}
	}
	addresses := slices.Collect(maps.Keys(inside))
	for _, p := range slices.Collect(maps.Keys(j.Now.Memory.Draining)) {
		addresses = append(addresses, p.Addr().Next().Next())
	}
	for _, lane := range unique(addresses) {
		for _, a := range j.uplinks {
			if !a.Addr().Is4() {
				continue
			}
			card := j.cardOf[a.Addr()]
			answer := walk.Connection{State: policy.CtEstablished, Reply: true, Origin: lane, Translated: a.Addr(), Card: card}
			err := j.walk(walk.Packet{From: walk.Place{Interface: card}, Source: internet4, Destination: a.Addr(), Connection: answer}, "an answer to a lane", func(v walk.Verdict) string {
				switch {
				case j.out(v):
					return "leaves by a card"
				case v.Lane != "" && inside[lane] == v.Lane:
					j.came++
				}
				return ""
			})
			if err != nil {
				return err
			}
			if err := j.unreachable(lane, a.Addr()); err != nil {
				return err
			}
		}
	}
	return nil
}

// unreachable: the host tells the peer of a lane that it can't reach by the lane's uplink, or not at all.
func (j *judge) unreachable(lane, translated netip.Addr) error {
	if j.Backend == policy.IPTablesChains || j.Tampered == policy.TamperedFirewall {
		return nil // only our table knows whose connection an error is about
	}
	card := j.cardOf[translated]
	about := walk.Connection{State: policy.CtRelated, Origin: lane, Translated: translated, Card: card}
	return j.walk(walk.Packet{Destination: internet4, ICMP: true, Connection: about}, "an error of the host", func(v walk.Verdict) string {
		if j.out(v) && v.Out != card {
			return "leaves by another card"
		}
		return ""
	})
}

// neighbours: a host that was no router is none because of lanes.
func (j *judge) neighbours() error {
	if j.Tampered == policy.TamperedLinks || j.Tampered == policy.TamperedFirewall {
		return nil // whoever tampered has made it one
	}
	for _, from := range j.uplinks {
		others := j.Now.Memory.Sysctls["net/ipv4/conf/"+j.cardOf[from.Addr()]+"/forwarding"] // as it was before us
		if !from.Addr().Is4() || others != "" && others != "0" {
			continue
		}
		sources := []netip.Addr{from.Addr().Next()}
		destinations := []netip.Addr{internet4}
		for _, s := range j.built {
			sources = append(sources, s.Addr().Next().Next())
			destinations = append(destinations, s.Addr().Next().Next())
		}
		for _, a := range j.uplinks {
			if a.Addr().Is4() && j.cardOf[a.Addr()] != j.cardOf[from.Addr()] {
				destinations = append(destinations, a.Addr().Next())
			}
		}
		for _, to := range unique(destinations) {
			for _, source := range unique(sources) {
				for _, c := range []walk.Connection{{State: policy.CtNew}, {State: policy.CtEstablished, Origin: source}, {State: policy.CtUntracked}} {
					p := walk.Packet{From: walk.Place{Interface: j.cardOf[from.Addr()]}, Source: source, Destination: to, Connection: c}
					err := j.walk(p, "a neighbour", func(v walk.Verdict) string {
						allowed := c.State == policy.CtEstablished // from a network that a lane may reach
						switch {
						case j.out(v) && !j.Host.Forwards:
							return "is passed on"
						case v.Lane != "" && !allowed:
							return "reaches a lane"
						}
						return ""
					})
					if err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// answers: what the host says from an uplink's address leaves by that, or not at all.
func (j *judge) answers() error {
	if len(j.Past) > 1 || j.Tampered == policy.TamperedRouting || j.foreign {
		return nil // the rules for it are not there yet; or others' may stand in front, which is a condition
	}
	for addr, iface := range j.Now.Memory.Answers {
		led := func(o policy.Object) bool {
			r, ok := o.(policy.Rule)
			return ok && r.From == netip.PrefixFrom(addr, addr.BitLen())
		}
		if j.before().Memory.Answers[addr] != iface || j.cardOf[addr] != iface || !slices.ContainsFunc(slices.Collect(maps.Keys(j.before().Want.All())), led) {
			continue // there was no rule, as the host's default was the same card's
		}
		err := j.walk(walk.Packet{Source: addr, Destination: internet4, Connection: walk.Connection{State: policy.CtUntracked}}, "an answer of the host", func(v walk.Verdict) string {
			if !j.out(v) {
				return ""
			}
			j.answered++
			if v.Out != iface {
				return "leaves by another card than " + iface
			}
			return ""
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func unique(all []netip.Addr) []netip.Addr {
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}
