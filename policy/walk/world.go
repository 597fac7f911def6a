// Package walk says what becomes of a packet: step by step through a lane's namespace, the
// host's firewall and its routing, as a [policy.State] has them. It is pure, and made
// to be read: the random tests look for leaks with it, "uplane explain" answers with it,
// and a test on the real kernel checks it.
package walk

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"uplane/policy"
)

// World is a state and a host, ordered for packets to walk through.
type World struct {
	// Quiet: verdicts have no steps. Who walks a million packets looks closely at one only.
	Quiet bool

	state  policy.State
	host   *policy.Host
	rules  []policy.HostRule        // of both families, in the kernel's order
	tables map[uint32][]route       // the host's
	inside map[string][]route       // of lanes' namespaces
	addrs  map[place][]netip.Prefix // of ours
	veths  map[string]policy.Veth   // by namespace
	bridge map[string]policy.Bridge // ours
	table  bool                     // our nftables table is there, as we made it
	sets   map[policy.SetName][]policy.Element
	jumped map[hook]bool // our chains in iptables that are jumped to
	chains map[hook][]policy.ChainRule
	doors  map[string]bool
}

// place is an interface in a namespace.
type place struct{ netns, link string }

// hook is one of iptables' built-in chains.
type hook struct{ table, chain string }

// New makes a world. What is ours comes from the state alone, what is others' from the host.
func New(state policy.State, host *policy.Host) *World {
	w := &World{
		state: state, host: host, tables: map[uint32][]route{}, inside: map[string][]route{}, addrs: map[place][]netip.Prefix{},
		veths: map[string]policy.Veth{}, bridge: map[string]policy.Bridge{}, sets: map[policy.SetName][]policy.Element{},
		jumped: map[hook]bool{}, chains: map[hook][]policy.ChainRule{}, doors: map[string]bool{},
	}
	for o := range state {
		switch o := o.(type) {
		case policy.Route:
			r := route{dst: o.Dst, metric: o.Metric, kind: o.Type, dev: o.Dev, text: o.String()}
			if o.Netns == "" {
				w.tables[o.Table] = append(w.tables[o.Table], r)
			} else {
				w.inside[o.Netns] = append(w.inside[o.Netns], r)
			}
		case policy.Addr:
			at := place{o.Netns, o.Link}
			w.addrs[at] = append(w.addrs[at], o.Prefix)
		case policy.Veth:
			if o.Netns != "" {
				w.veths[o.Netns] = o
			}
		case policy.Bridge:
			w.bridge[o.Name] = o
		case policy.Table:
			w.table = o.Sound
		case policy.Element:
			w.sets[o.Set] = append(w.sets[o.Set], o)
		case policy.Chain:
			w.jumped[hook{o.Table, o.Hook}] = o.Jumped
		case policy.ChainRule:
			at := hook{o.Table, o.Chain[len(policy.ChainPrefix):]}
			w.chains[at] = append(w.chains[at], o)
		case policy.Door:
			w.doors[o.Tool] = o.Sound
		}
	}
	for _, rules := range w.chains {
		slices.SortFunc(rules, func(a, b policy.ChainRule) int { return cmp.Compare(a.N, b.N) })
	}
	for at, prefixes := range w.addrs {
		slices.SortFunc(prefixes, netip.Prefix.Compare)
		w.connect(at, prefixes)
	}
	for _, r := range host.Routes {
		w.tables[r.Table] = append(w.tables[r.Table], hostRoute(r))
	}
	w.rules = merge(state, host.Rules)
	return w
}

// connect adds the routes that the kernel makes itself for an interface's addresses.
func (w *World) connect(at place, prefixes []netip.Prefix) {
	for _, p := range prefixes {
		r := route{dst: p.Masked(), dev: at.link, text: p.Masked().String() + " dev " + at.link + " proto kernel"}
		if at.netns == "" {
			w.tables[policy.MainTable] = append(w.tables[policy.MainTable], r)
		} else {
			w.inside[at.netns] = append(w.inside[at.netns], r)
		}
	}
}

// addresses are those of one of the host's links.
func (w *World) addresses(link string) []netip.Prefix {
	return slices.Concat(w.host.Links[link].Addrs, w.addrs[place{"", link}])
}

// local tells whether an address is the host's, or what all neighbours listen to.
func (w *World) local(a netip.Addr) bool {
	if a.IsLoopback() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return true
	}
	is := func(p netip.Prefix) bool { return p.Addr() == a || p.Addr().Is4() && p.Bits() < 31 && a == last(p) }
	for _, l := range w.host.Links {
		if slices.ContainsFunc(l.Addrs, is) {
			return true
		}
	}
	for at, prefixes := range w.addrs {
		if at.netns == "" && slices.ContainsFunc(prefixes, is) {
			return true
		}
	}
	return false
}

// last is the broadcast address of an IPv4 prefix.
func last(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}

// set returns a switch's value; empty: nobody has said.
func (w *World) set(key string) string {
	for _, value := range []string{"0", "1", "2"} {
		if w.state.Has(policy.Sysctl{Key: key, Value: value}) {
			return value
		}
	}
	return w.host.Sysctls[key]
}

// forwards tells whether packets that come in by a link may go on.
func (w *World) forwards(link string, family policy.Family) bool {
	if family == policy.IPv6 { // by interface it exists from Linux 6.17 only; what is not known is taken to be on
		return w.set("net/ipv6/conf/all/forwarding") != "0"
	}
	if v := w.set("net/ipv4/conf/" + link + "/forwarding"); v != "" {
		return v != "0"
	}
	return w.host.Forwards
}

// laneOf returns the lane's namespace that a link of the host leads to; empty: to none.
func (w *World) laneOf(link string) string {
	for _, netns := range slices.Sorted(maps.Keys(w.veths)) {
		if outer(w.veths[netns]) == link {
			return netns
		}
	}
	return ""
}

// outer is the interface by which the host sees a veth's packets.
func outer(v policy.Veth) string { return cmp.Or(v.Bridge, v.Name) }
