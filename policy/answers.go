package policy

import (
	"net/netip"
	"slices"
	"time"
)

// answer is how the host's own answers from an uplink's address leave.
type answer struct {
	iface string
	table uint32 // a lane's by that uplink; 0: none leaves by it now
}

// answer makes what the host itself sends from an uplink's address leave by that uplink: when
// a lane's connection has lost its translation while the peer still sends, it is the host who
// answers, and by its default route that would be another card. Reverse-path filters that
// look at the uplink's address are satisfied, too.
func (b *builder) answer(u *Uplink, table uint32) {
	if u == nil {
		return
	}
	for _, p := range u.Addresses {
		a := p.Addr()
		if !a.Is4() {
			continue
		}
		if old, ok := b.answers[a]; !ok || table < old.table {
			b.answers[a] = answer{u.Interface, table}
		}
	}
}

// answersPriority is where answers go on. Behind main, so that what finds no way there has none.
const answersPriority = 39000

// networkBits is the prefix length from which a route of main is to a network, and not a way for everything: VPNs
// write their default as halves of the internet, or as quarters.
const networkBits = 8

// answersKept is how long rules for an address stay that no lane leaves by any more. A card may get it back, and it is
// there before the daemon knows: what still comes for it would be answered by the host's default.
const answersKept = 10 * time.Minute

// answerRules adds the rules for all answers: to on-link neighbours as the host would, else by the
// lane's table. The second must stand behind the first whichever is added last, so only the goto is in
// front. Addresses that lanes left by before keep theirs while lanes by that card wait, as
// long as connections of lanes that have gone still live, and else for [answersKept]. They are in kept, with
// the moment from which that counts; again is when to look at them again.
func (b *builder) answerRules(waiting map[string]bool, draining bool) (kept map[netip.Addr]string, last map[netip.Addr]time.Time, again time.Duration) {
	kept, last = map[netip.Addr]string{}, map[netip.Addr]time.Time{}
	tables := map[string]uint32{} // by card
	for addr, a := range b.answers {
		kept[addr] = a.iface
		if t, ok := tables[a.iface]; !ok || a.table < t {
			tables[a.iface] = a.table
		}
	}
	for addr, iface := range b.in.Memory.Answers {
		if _, ok := kept[addr]; ok || b.elsewhereNow(addr, iface) {
			continue
		}
		if !waiting[iface] && !draining {
			since, ok := b.in.Memory.Answered[addr]
			if !ok {
				since = b.in.Now
			}
			left := answersKept - b.in.Now.Sub(since)
			if left <= 0 || len(b.ruled) == 0 {
				continue
			}
			again, last[addr] = sooner(again, left), since
		}
		kept[addr] = iface
		b.answers[addr] = answer{iface, tables[iface]}
	}
	for addr, a := range b.answers {
		from := netip.PrefixFrom(addr, addr.BitLen())
		b.fw.answering(a.iface, from)
		family := FamilyOf(addr)
		rest := Rule{Priority: answersPriority + 1, Family: family, From: from, Table: a.table}
		if a.table == 0 {
			if b.mainRoute(family.Default()) == a.iface && !b.down(a.iface) {
				continue // the host's own default leads there
			}
			rest.Action = UnreachableRule
		}
		b.common.Add("",
			Rule{Priority: frontPriority, Family: family, From: from, Action: Goto, Goto: answersPriority},
			Rule{Priority: answersPriority, Family: family, From: from, Table: MainTable, AtLeast: networkBits},
			rest,
		)
	}
	return kept, last, again
}

// down tells whether NetworkManager takes a card down or has done so. A default that is still there goes next, and
// the address may be back before the daemon knows.
func (b *builder) down(iface string) bool {
	return slices.ContainsFunc(b.uplinks, func(u *Uplink) bool { return u.Interface == iface && u.Phase == PhaseDown })
}

// elsewhereNow tells whether another link than iface has an address.
func (b *builder) elsewhereNow(addr netip.Addr, iface string) bool {
	for name, link := range b.in.Host.Links {
		if name != iface && slices.ContainsFunc(link.Addrs, func(p netip.Prefix) bool { return p.Addr() == addr }) {
			return true
		}
	}
	return false
}
