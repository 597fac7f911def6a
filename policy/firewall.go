package policy

import (
	"net/netip"
	"slices"
)

// Backend is what the firewall is made with.
type Backend string

// The backends.
const (
	Nftables         Backend = "nftables"
	IPTablesChains   Backend = "iptables"
	FirewallUnusable Backend = "" // it could not be opened
)

// firewall collects what lanes need of the firewall.
type firewall struct {
	want    State
	common  State // of all lanes, beside it
	backend Backend
	chains  map[Chain][]ownedRule
	doors   map[string]bool // tools whose FORWARD chain drops
	marked  map[string]bool // uplinks that have their mark rule already
	any     bool
}

type ownedRule struct {
	lane string
	XTRule
}

// links are the host's interfaces of a lane by which its packets come.
func (l *Lane) links(s *shape) []string {
	if l.External {
		return []string{s.outer(), s.Veth} // NetworkManager takes it out of the bridge whenever it activates the profile
	}
	return []string{s.outer()}
}

// elements are a lane's part of our table. While it waits, only what closes it is left.
func (l *Lane) elements(s *shape) []Object {
	outer, links := s.outer(), l.links(s)
	out := []Object{Element{Set: Nets, Net: s.Subnet}}
	for _, link := range links {
		out = append(out, Element{Set: LaneLinks, In: link}, Element{Set: Marks, In: link, Mark: l.Mark&^Witness | Witness})
	}
	if !slices.Contains(links, s.Veth) {
		out = append(out, Element{Set: LaneLinks, In: s.Veth}) // should somebody take it out of the bridge
	}
	if l.AllowHost {
		out = append(out, Element{Set: OpenInput, In: outer})
	}
	for _, p := range l.Allow {
		out = append(out, Element{Set: Allowed, In: outer, Net: p})
	}
	if s.exit != nil {
		card := s.exit.iface
		out = append(out,
			Element{Set: Forward, Family: IPv4, In: outer, Out: card, Chain: OutboundChain},
			Element{Set: Forward, Family: IPv4, In: card, Out: outer, Chain: InboundChain},
			Element{Set: Masquerade, Family: IPv4, In: outer, Out: card},
		)
	}
	return out
}

// card is for one by which lanes leave.
func (f *firewall) card(card string, h *Host) {
	if f.backend == Nftables {
		f.add("", Element{Set: Uplinks, In: card})
		f.addresses(card, h)
	}
}

// addresses are what lanes may be translated to where they leave by a card: those that the kernel has on it.
func (f *firewall) addresses(card string, h *Host) {
	if f.backend != Nftables {
		return
	}
	for _, a := range h.Links[card].Addrs {
		if a.Addr().Is4() {
			f.add("", Element{Set: OwnAddresses, Out: card, Net: netip.PrefixFrom(a.Addr(), a.Addr().BitLen())})
		}
	}
}

// answering is for an address of a card: what comes in there for it is the host's own, or nobody's.
func (f *firewall) answering(card string, addr netip.Prefix) {
	if f.backend == Nftables {
		f.add("", Element{Set: Answering, In: card, Net: addr})
	}
}

// closed lets nothing by that a link brings or takes.
func (f *firewall) closed(lane, link string) {
	if f.backend == IPTablesChains {
		f.xtDrop(lane, link)
		return
	}
	f.add(lane, Element{Set: LaneLinks, In: link})
}

// drained lets nothing by that is from or for the subnet of a lane that has gone.
func (f *firewall) drained(subnet netip.Prefix) {
	if f.backend == IPTablesChains {
		f.xt("", "filter", "FORWARD", XTRule{Source: subnet, Target: TargetDrop})
		f.xt("", "filter", "FORWARD", XTRule{Dest: subnet, Target: TargetDrop})
		return
	}
	f.add("", Element{Set: Nets, Net: subnet})
}

// router closes cards whose forwarding only we switched on.
func (f *firewall) router(cards []string) {
	for _, card := range cards {
		if f.backend == IPTablesChains {
			f.xt("", "filter", "FORWARD", XTRule{In: card, Target: TargetDrop})
			continue
		}
		f.add("", Element{Set: Closed, In: card})
	}
}

func (f *firewall) add(lane string, e Element) {
	f.any = true
	f.want.Add(lane, e)
}

// finish wants what holds everything together.
func (f *firewall) finish() {
	switch {
	case f.backend == IPTablesChains:
		for chain, rules := range f.chains {
			f.want.Add("", chain)
			for i, r := range rules {
				f.want.Add(r.lane, ChainRule{Table: chain.Table, Chain: chain.Name, N: i + 1, XTRule: r.XTRule})
			}
		}
	case f.any:
		f.want.Add("", Table{Sound: true})
		for tool := range f.doors {
			f.common.Add("", Door{Tool: tool, Sound: true})
		}
	}
}

func (f *firewall) xt(lane, table, hook string, r XTRule) {
	c := chainOf(table, hook)
	f.chains[c] = append(f.chains[c], ownedRule{lane, r})
}

func (f *firewall) xtDrop(lane, link string) {
	f.xt(lane, "filter", "FORWARD", XTRule{In: link, Target: TargetDrop})
	f.xt(lane, "filter", "FORWARD", XTRule{Out: link, Target: TargetDrop})
}

// xtLane is the hand recipe's literal way.
func (f *firewall) xtLane(l *Lane, subnet netip.Prefix, outer string, links []string, u *Uplink) {
	forward := func(r XTRule) { f.xt(l.Name, "filter", "FORWARD", r) }
	nat := func(r XTRule) { f.xt(l.Name, "nat", "POSTROUTING", r) }
	if u != nil || len(l.Allow) > 0 {
		forward(XTRule{In: outer, Invalid: true, Target: TargetDrop}) // what is not tracked is not translated
	}
	for _, p := range l.Allow {
		forward(XTRule{Source: subnet, Dest: p, In: outer, Target: TargetAccept})
		forward(XTRule{Source: p, Dest: subnet, Out: outer, Established: true, Target: TargetAccept})
		nat(XTRule{Source: subnet, Dest: p, Target: TargetMasquerade})
	}
	if u != nil {
		forward(XTRule{Source: subnet, In: outer, Out: u.Interface, Target: TargetAccept})
		forward(XTRule{Dest: subnet, In: u.Interface, Out: outer, Established: true, Target: TargetAccept})
		nat(XTRule{Source: subnet, Out: u.Interface, Target: TargetMasquerade})
		if !f.marked[u.Interface] { // the destination is not translated back yet, so everything gets it
			f.marked[u.Interface] = true
			f.xt("", "mangle", "PREROUTING", XTRule{In: u.Interface, Target: TargetMark, Mark: Witness, Mask: Witness})
		}
	}
	for _, link := range links {
		f.xtDrop(l.Name, link)
		if l.Mark != 0 {
			f.xt(l.Name, "mangle", "PREROUTING", XTRule{In: link, Target: TargetMark, Mark: l.Mark &^ Witness, Mask: ^uint32(0)})
		}
		f.xt(l.Name, "mangle", "PREROUTING", XTRule{In: link, Target: TargetMark, Mark: Witness, Mask: Witness})
		f.xt(l.Name, "nat", "PREROUTING", XTRule{In: link, Target: TargetAccept}) // nobody behind it redirects
		f.xt(l.Name, "filter", "INPUT", XTRule{In: link, ICMP: true, Target: TargetAccept})
		f.xt(l.Name, "filter", "INPUT", XTRule{In: link, Established: true, Reply: true, Target: TargetAccept})
		if l.AllowHost {
			f.xt(l.Name, "filter", "INPUT", XTRule{In: link, Target: TargetAccept})
		}
		f.xt(l.Name, "filter", "INPUT", XTRule{In: link, Target: TargetDrop})
	}
	forward(XTRule{Source: subnet, Target: TargetDrop})
	forward(XTRule{Dest: subnet, Target: TargetDrop})
}
