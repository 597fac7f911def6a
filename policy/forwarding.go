package policy

import (
	"maps"
	"slices"
)

// ownSwitches are those of a lane's interface: packets come in by it, only from the lane's own source even when the
// firewall is flushed, and without IPv6.
func ownSwitches(link string, not untouched) (out []Object) {
	if !not.forwarding {
		out = append(out, Sysctl{ipv4Conf(link, "forwarding"), "1"})
	}
	out = append(out, Sysctl{ipv4Conf(link, "rp_filter"), "1"})
	if !not.ipv6 {
		out = append(out, Sysctl{ipv6Off(link), "1"})
	}
	return out
}

// OwnSwitches are the keys of what lanes set on an interface of theirs.
func OwnSwitches(link string) []string {
	return []string{ipv4Conf(link, "forwarding"), ipv4Conf(link, "rp_filter"), ipv6Off(link)}
}

func ipv6Off(link string) string { return "net/ipv6/conf/" + link + "/disable_ipv6" }

// forwarding is what a lane needs of others' links beside its uplink: on NetworkManager's bridge what a lane's interface
// has, less the spanning tree protocol, which would keep its only port silent for 30 s; and that packets come in by the cards
// behind which it may reach networks.
func (b *builder) forwarding(l *Lane, outer string) {
	if l.External {
		for _, o := range ownSwitches(outer, untouched{ipv6: !b.in.Host.IPv6}) {
			s := o.(Sysctl)
			b.switches[s.Key] = s.Value
		}
		b.switches[stpKey(outer)] = "0"
	}
	for _, p := range l.Allow {
		if dev := b.mainRoute(p); dev != "" {
			b.comesIn(dev)
		}
	}
}

// usedCards lets packets come in by the cards by which lanes leave, never for the host; and stops their siblings in one
// subnet from answering ARP for them, which would draw lanes' downloads to the wrong card.
func (b *builder) usedCards() {
	for _, e := range b.now.exits {
		b.fw.card(e.iface, b.in.Host)
		b.comesIn(e.iface)
		for _, name := range e.siblings {
			b.switches[ipv4Conf(name, "arp_ignore")] = "1"
			b.switches[ipv4Conf(name, "arp_announce")] = "2"
		}
	}
}

// comesIn is for a card by which packets come in for lanes.
func (b *builder) comesIn(link string) {
	b.switches[ipv4Conf(link, "forwarding")] = "1"
	b.switches[ipv4Conf(link, "src_valid_mark")] = "1"
}

func ipv4Conf(link, name string) string { return "net/ipv4/conf/" + link + "/" + name }

// sysctls wants the switches that lanes need, and back what was there before for those that none
// needs any more. What others have changed since stays as it is.
func (b *builder) sysctls() {
	h := b.in.Host
	b.saved = maps.Clone(b.in.Memory.Sysctls)
	if b.saved == nil {
		b.saved = map[string]string{}
	}
	if h.Forwards && !b.in.Memory.Forwarded {
		// Somebody has made the host a router since: forwarding is theirs now.
		maps.DeleteFunc(b.saved, func(key, _ string) bool { return (Sysctl{Key: key}).isForwarding() })
	}
	b.recall()
	for _, key := range slices.Sorted(maps.Keys(b.switches)) {
		s := Sysctl{key, b.switches[key]}
		present, known := h.Sysctls[key]
		_, foreign := h.Links[s.Link()]
		if foreign {
			switch {
			case !b.in.Asked[key]:
				b.unknown = append(b.unknown, key)
			case !known:
				continue // the kernel has no such switch: with an MTU below 1280 there is no IPv6
			}
		}
		if s.isForwarding() && present != s.Value && b.in.blind() != "" {
			continue // what keeps the host from being a router could not be added
		}
		if foreign && known && present != s.Value && !(s.isForwarding() && h.Forwards) {
			b.saved[key] = present // before us, or what others have set since
		}
		if _, saved := b.saved[key]; b.released[s.Link()] && !saved {
			b.saved[key] = "0" // it was ours from its birth, with all switches at their defaults
		}
		b.common.Add("", s)
	}
	for key, before := range b.saved {
		s := Sysctl{key, before}
		if _, needed := b.switches[key]; needed {
			continue
		}
		present, known := h.Sysctls[key]
		switch _, exists := h.Links[s.Link()]; {
		case !exists, known && present != s.ours():
			delete(b.saved, key) // it went with its link; or it is back; or others have changed it
		case !b.in.Asked[key]:
			b.unknown = append(b.unknown, key)
		case known:
			b.common.Add("", s)
		}
	}
}

// recall finds the cards that our firewall keeps closed: it is we who switched their forwarding on, though
// nothing may be remembered of it. Else whoever lost the memory would leave a router behind.
func (b *builder) recall() {
	if b.in.Host.Forwards {
		return
	}
	for o := range b.in.Have.Filter {
		card := ""
		switch o := o.(type) {
		case Element:
			if o.Set == Closed {
				card = o.In
			}
		case ChainRule:
			if o.XTRule == (XTRule{In: o.In, Target: TargetDrop}) && o.Chain == chainOf("filter", "FORWARD").Name {
				card = o.In
			}
		}
		if _, foreign := b.in.Host.Links[card]; !foreign {
			continue
		}
		if key := ipv4Conf(card, "forwarding"); b.saved[key] == "" {
			b.saved[key] = "0"
		}
	}
}

// closedCards returns the cards whose forwarding only we switched on.
func (b *builder) closedCards() []string {
	var out []string
	for key, before := range b.saved {
		s := Sysctl{Key: key}
		if _, needed := b.switches[key]; needed && before == "0" && s.isForwarding() {
			out = append(out, s.Link())
		}
	}
	slices.Sort(out)
	return out
}
