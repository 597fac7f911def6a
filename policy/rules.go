package policy

import (
	"net/netip"
	"slices"
	"strings"
)

// Priority 0 is the only one that nobody gets in front of: the kernel gives an
// unnumbered rule of others the lowest number of the rest less one, and rules of
// one priority stand in the order in which they came. The kernel's own look-up of
// table local is at 0 too, and first.
//
// So that a lane made later stands in front as well, and so that the rules that
// other packets walk past do not grow with the lanes, what is at 0 speaks of
// whole blocks: from a block to its lanes' rules, which are behind main, where
// nobody else's packets come, and to a block by one table for all lanes.
const (
	frontPriority = 0
	// blockPriority is where the rules of the first block's lanes start.
	blockPriority = 40000
	// blockStride is how many priorities a block takes: 85 nodes of 3 each.
	blockStride = 300
	// alonePriority is where the rules of lanes outside of blocks start.
	alonePriority = 200000
	aloneNodes    = 1000000
	// LanesTable has every lane's subnet: a route to the lane, and nothing else to a lane that has gone.
	LanesTable = 117117
	// plainLanes is how many lanes a block may have whose rules stand one after the other, as a
	// person would type them. More are found by a tree, four branches a node.
	plainLanes = 10
)

// ruledLane is what the rules need to know of a lane.
type ruledLane struct {
	name   string
	subnet netip.Prefix
	table  uint32 // 0: the lane has gone, and only its floor is left
	auto   bool   // its subnet is ours to choose
}

// place is where the rules of a lane are.
type place struct {
	alone bool   // outside of all blocks
	at    uint32 // the first of its priorities
}

// places finds a place for the rules of every lane, and wants the rules that lead there, in both directions.
func (b *builder) places(clean func(block netip.Prefix) bool) map[string]place {
	blocks := map[netip.Prefix][]ruledLane{}
	for _, l := range b.ruled {
		if block := blockOf(l.subnet); l.auto && block.IsValid() && clean(block) {
			blocks[block] = nil
		}
	}
	places := make(map[string]place, len(b.ruled))
	for _, l := range b.ruled {
		block := blockOf(l.subnet)
		if _, ok := blocks[block]; ok {
			blocks[block] = append(blocks[block], l)
			continue
		}
		// Two lanes may come to the same place: their rules are about different subnets.
		places[l.name] = place{alone: true, at: uint32(alonePriority + 3*(l.table%aloneNodes))}
		if l.table == 0 {
			b.common.Add("", toAlone(l.subnet), Rule{Priority: frontPriority, Family: IPv4, From: l.subnet, Action: UnreachableRule})
		}
	}
	for block, members := range blocks {
		base := blockPriority + blockStride*blockIndex(block)
		b.common.Add("",
			Rule{Priority: frontPriority, Family: IPv4, From: block, Action: Goto, Goto: base},
			Rule{Priority: frontPriority, Family: IPv4, To: block, Table: LanesTable},
		)
		b.node(places, block, base, 0, members)
	}
	return places
}

// toAlone is the way to a lane outside of all blocks.
func toAlone(subnet netip.Prefix) Rule {
	return Rule{Priority: frontPriority, Family: IPv4, To: subnet, Table: LanesTable}
}

// within leads what the host itself sends from a lane's gateway address to the lane, where the rule "from" at 0
// stands before the one "to": whichever of the two was put back last does. The kernel asks the same rules before it
// answers ARP, and ARP has no mark.
func within(p netip.Prefix, priority uint32) Rule {
	return Rule{Priority: priority, Family: IPv4, From: p, To: p, Table: LanesTable}
}

// rules are a lane's own: its table, for packets that our firewall table has marked, and behind it, for
// what that table throws, what the host would do. One outside of all blocks has what a block has, for itself.
func (l *Lane) rules(s *shape) []Object {
	at := s.place.at
	out := []Object{Rule{Priority: at, Family: IPv4, From: s.Subnet, Mark: Witness, Mask: Witness, Table: s.Table}}
	for _, p := range l.Allow {
		out = append(out, Rule{Priority: at + 1, Family: IPv4, From: s.Subnet, To: p, Mark: Witness, Mask: Witness, Table: MainTable})
	}
	if s.place.alone {
		out = append(out,
			toAlone(s.Subnet),
			Rule{Priority: frontPriority, Family: IPv4, From: s.Subnet, Action: Goto, Goto: at},
			within(s.Subnet, at+1),
			Rule{Priority: at + 2, Family: IPv4, From: s.Subnet, Action: UnreachableRule},
		)
	}
	return out
}

// node is the lanes of one prefix: the rules themselves, or where to go on for each quarter of it.
// A packet that comes to a node never gets past it.
func (b *builder) node(places map[string]place, p netip.Prefix, priority uint32, depth int, lanes []ruledLane) {
	b.common.Add("", within(p, priority+1), Rule{Priority: priority + 2, Family: IPv4, From: p, Action: UnreachableRule})
	quarter := p.Bits() + 2
	below := map[netip.Prefix][]ruledLane{}
	for _, l := range lanes {
		if len(lanes) <= plainLanes || depth == treeDepth || l.subnet.Bits() < quarter {
			places[l.name] = place{at: priority}
			continue
		}
		q, _ := l.subnet.Addr().Prefix(quarter)
		below[q] = append(below[q], l)
	}
	for q, members := range below {
		next := nodePriority(p, priority, q, depth)
		b.common.Add("", Rule{Priority: priority, Family: IPv4, From: q, Action: Goto, Goto: next})
		b.node(places, q, next, depth+1, members)
	}
}

// treeDepth is how often a block is quartered: from /16 to /22, which has four /24.
const treeDepth = 3

// levels is the number of nodes above each depth: 1, 1+4, 1+4+16.
var levels = [...]uint32{0, 1, 5, 21}

// nodePriority is the place of a node below another. Nodes have the same number in every block.
func nodePriority(parent netip.Prefix, priority uint32, child netip.Prefix, depth int) uint32 {
	a := child.Addr().As4()
	within := uint32(a[2]) >> (8 - 2*(depth+1)) // of the nodes of its depth
	pa := parent.Addr().As4()
	at := uint32(pa[2]) >> (8 - 2*depth)
	base := priority - 3*(levels[depth]+at)
	return base + 3*(levels[depth+1]+within)
}

// blockIndex numbers the blocks of the pools; one outside of them, which only an explicit subnet
// can be in, has none of its own.
func blockIndex(block netip.Prefix) uint32 {
	n := uint32(0)
	for _, pool := range pools {
		if pool.Overlaps(block) {
			a, p := block.Addr().As4(), pool.Addr().As4()
			return n + uint32(a[1]-p[1])
		}
		n += 1 << (blockBits - pool.Bits())
	}
	return n
}

// ahead returns a rule of others that takes a lane's packets before ours do; nil: none does.
func (h *Host) ahead(subnet netip.Prefix) *HostRule {
	var found *HostRule
	for i := range h.Rules {
		r := &h.Rules[i]
		if r.Family != IPv4 {
			continue
		}
		if r.Ours() {
			if r.Priority == frontPriority && r.From.IsValid() && r.From.Overlaps(subnet) && r.Action != UnreachableRule {
				return found // ours: what stands behind it does not matter
			}
			continue
		}
		if found == nil && r.takes(subnet) {
			found = r
		}
	}
	return nil // none of ours is there yet
}

// takes tells whether a rule may decide about packets from a subnet. The kernel's own three do not:
// local has the host's addresses, and main and default stand behind.
func (r *HostRule) takes(subnet netip.Prefix) bool {
	kernels := r.Action == Lookup && slices.Contains([]uint32{255, MainTable, 253}, r.Table) && r.AtLeast == 0 && !r.From.IsValid() && !r.To.IsValid() && r.Mask == 0
	if kernels && (r.Table == 255 || r.Priority >= 32766) {
		return false
	}
	if r.In != "" || r.Out != "" || r.Mask != 0 && !r.Invert {
		return false
	}
	return r.Invert || !r.From.IsValid() || r.From.Overlaps(subnet)
}

// text is the rule as "ip rule" lists it.
func (r *HostRule) text() string {
	text, _, _ := strings.Cut(r.String(), " protocol ")
	if r.Invert {
		head, tail, _ := strings.Cut(strings.TrimPrefix(text, "priority "), " ")
		text = "priority " + head + " not " + tail
	}
	return text
}
