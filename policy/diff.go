package policy

import (
	"net/netip"
	"slices"
	"strings"
)

// Diff returns the operations that lead from have to want: first links that are
// too much, then what is missing or different, each in place where the kernel
// can, last the rest of what is too much. So there is never a moment without a
// route that both states have, and never one in which a packet could pass
// before the floor is there or after it is gone.
func Diff(have, want State) []Op {
	missing, extra := compare(have, want)
	if len(missing)+len(extra) == 0 {
		return nil
	}
	sortObjects(extra)
	wanted := make(map[key]Object, len(missing))
	for _, w := range missing {
		wanted[w.key()] = w
	}

	// A link goes first, before the chain that drops its packets changes, and
	// takes with it what depends on it, though both states may have that.
	var ops []Op
	var rest []Object                          // goes last
	from := make(map[key]Object)               // is replaced
	gone := make(map[key]bool)                 // what the kernel took away
	for _, h := range slices.Backward(extra) { // the veth before its bridge
		if w, ok := wanted[h.key()]; ok && inPlace(h, w, have, want) {
			from[h.key()] = h
		} else if isLink(h) {
			ops = append(ops, Op{Verb: Remove, Object: h})
			markGone(gone, h)
		} else {
			rest = append(rest, h)
		}
	}
	if len(gone) > 0 {
		for h := range have {
			if dependsOnAny(h, gone) {
				delete(from, h.key())
				if want.Has(h) {
					missing = append(missing, h)
				}
			}
		}
	}

	sortObjects(missing)
	for _, w := range missing {
		h, ok := from[w.key()]
		if ok {
			ops = append(ops, Op{Verb: Replace, Object: w, Have: h})
		} else {
			ops = append(ops, Op{Verb: Add, Object: w})
		}
		if c, isChain := w.(Chain); isChain && c.Table == "nat" {
			ops = append(ops, flushes(have, h, c)...)
		}
	}

	for _, o := range rest {
		markGone(gone, o)
	}
	for _, o := range rest {
		// A sysctl stays; Build wants the saved value when no lane needs another.
		if _, ok := o.(Sysctl); !ok && !dependsOnAny(o, gone) {
			ops = append(ops, Op{Verb: Remove, Object: o})
		}
	}
	return ops
}

// compare returns what of want is not in have, and the other way round.
func compare(have, want State) (missing, extra []Object) {
	missing = minus(want, have)
	if common := len(want) - len(missing); common < len(have) {
		extra = minus(have, want)
	}
	return missing, extra
}

// minus returns the objects of a that are not in b.
func minus(a, b State) []Object {
	var out []Object
	for o := range a {
		if !b.Has(o) {
			out = append(out, o)
		}
	}
	return out
}

// inPlace tells whether h can become w without a moment of absence.
func inPlace(h, w Object, have, want State) bool {
	switch w := w.(type) {
	case Veth:
		h, ok := h.(Veth)
		return ok && h.Netns == w.Netns && h.Inner == w.Inner && (h.Bridge == w.Bridge || moves(h, w, have, want))
	case Bridge:
		_, ok := h.(Bridge)
		return ok
	}
	return true // of one kind, as its key tells
}

// moves tells whether a veth can go from one bridge to another as it is. It is
// safe only when the chain that drops by interface, which is there before, knows
// both: the chain can't change at the same moment. And it must not have been the
// lane's interface itself, with switches that would stay on it.
func moves(from, to Veth, have, want State) bool {
	if !want.drops(from.outer()) || !want.drops(to.outer()) {
		return false
	}
	for o := range have {
		if s, ok := o.(Sysctl); ok && s.Link() == from.Name {
			return false
		}
	}
	return true
}

func isLink(o Object) bool { return o.key().kind == kindBridge }

// markGone notes what the kernel takes away with o.
func markGone(gone map[key]bool, o Object) {
	switch o := o.(type) {
	case Netns, Bridge:
		gone[o.key()] = true
	case Veth:
		gone[o.key()] = true
		if o.Netns != "" { // else its name says nothing: the host may have a link of that name
			gone[linkKey(o.Netns, o.Inner)] = true
		}
	}
}

func dependsOnAny(o Object, gone map[key]bool) bool {
	d, ok := o.(dependent)
	return ok && slices.ContainsFunc(d.dependsOn(), func(k key) bool { return gone[k] })
}

// flushes returns a Flush for every subnet that was in use while the nat chain
// was missing or translated it otherwise. They follow the chain at once: were
// they at the plan's end, a failure between would lose them, as the next plan
// finds the chain in order. Until the routes follow, the forward chain lets
// nothing new pass by the old uplink.
func flushes(have State, from Object, to Chain) []Op {
	before := map[string]string{}
	if c, ok := from.(Chain); ok && c.Jumped {
		before = translations(c)
	}
	after := translations(to)
	var subnets []netip.Prefix
	for o := range have {
		if a, ok := o.(Addr); ok {
			subnet := a.Prefix.Masked()
			if rules := after[subnet.String()]; rules != "" && rules != before[subnet.String()] {
				subnets = append(subnets, subnet)
			}
		}
	}
	slices.SortFunc(subnets, netip.Prefix.Compare)
	var ops []Op
	for _, s := range slices.Compact(subnets) {
		ops = append(ops, Op{Verb: Flush, Object: Conntrack{s}})
	}
	return ops
}

// translations returns the rules of a nat chain by the subnet they begin with.
func translations(c Chain) map[string]string {
	out := make(map[string]string)
	for _, line := range c.Lines() {
		rule, _ := strings.CutPrefix(line, "-s ")
		subnet, rule, _ := strings.Cut(rule, " ")
		out[subnet] += rule + "\n"
	}
	return out
}
