package policy

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// drain finds the subnets that lanes have left and whose connections still live, and wants for
// each what is left of a lane then: nothing leads to it, and nothing leaves from it. It
// returns them, and operations that forget the connections of those that are done.
func (b *builder) drain() (map[netip.Prefix]Drain, []Op) {
	draining := maps.Clone(b.in.Memory.Draining)
	if draining == nil {
		draining = map[netip.Prefix]Drain{}
	}
	served := make(map[netip.Prefix]bool, len(b.ruled))
	for _, l := range b.ruled {
		served[l.subnet] = true
	}
	use := func(o Object) {
		if subnet := inUse(o); subnet.IsValid() && !served[subnet] {
			if _, ok := draining[subnet]; !ok {
				draining[subnet] = Drain{b.in.Now}
			}
		}
	}
	for o := range b.in.Have.Filter {
		use(o)
	}
	for o := range b.in.Have.Parts.each(kindRule) {
		use(o)
	}
	maps.DeleteFunc(draining, func(p netip.Prefix, _ Drain) bool {
		return slices.ContainsFunc(b.ruled, func(l ruledLane) bool { return p.Overlaps(l.subnet) })
	})
	var ops []Op
	for _, p := range slices.SortedFunc(maps.Keys(draining), netip.Prefix.Compare) {
		_, before := b.in.Memory.Draining[p] // else connections may begin until its links have gone
		looked := b.in.Host.Tracked != nil
		if b.in.problem(EdgeConntrack) != "" { // nobody can say; most connections end by then
			looked = b.in.Now.Sub(draining[p].Since) > unknownDrain
		}
		if before && looked && !b.in.Host.Tracked[p] {
			delete(draining, p)
			ops = append(ops, Op{Verb: Flush, Object: Conntrack{Subnet: p, All: true}})
			continue
		}
		b.common.Add("", Route{Table: LanesTable, Dst: p, Metric: FloorMetric, Type: Blackhole})
		b.ruled = append(b.ruled, ruledLane{subnet: p})
		b.fw.drained(p)
	}
	return draining, ops
}

// unknownDrain is how long a subnet drains when connections can't be listed: as long as the kernel
// remembers a UDP conversation.
const unknownDrain = 2 * time.Minute

// drainPause is when to look at draining subnets again: each second at first, then ever more slowly, for
// a peer may go on for days.
func drainPause(draining map[netip.Prefix]Drain, now time.Time) time.Duration {
	again := time.Duration(0)
	for _, d := range draining {
		again = sooner(again, min(max(time.Second, now.Sub(d.Since)/10), 30*time.Second))
	}
	return again
}

// inUse is the subnet of a lane that an object of the present state is about.
func inUse(o Object) netip.Prefix {
	switch o := o.(type) {
	case Element:
		if o.Set == Nets {
			return o.Net
		}
	case Rule:
		if o.Family == IPv4 && o.Mask == Witness && o.From.IsValid() {
			return o.From
		}
	}
	return netip.Prefix{}
}
