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

	// A link goes first, before what drops its packets changes, and takes with it
	// what depends on it, though both states may have that. A table that is made
	// anew takes its elements with it, in the same transaction.
	var ops []Op
	var rest []Object                          // goes last
	from := make(map[key]Object)               // is replaced
	gone := make(map[key]bool)                 // what the kernel took away
	for _, h := range slices.Backward(extra) { // the veth before its bridge
		if w, ok := wanted[h.key()]; ok && inPlace(h, w, have, want) {
			from[h.key()] = h
			if _, anew := w.(Table); anew {
				gone[h.key()] = true
			}
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

	// What opens goes first where it would open something else in a moment: what another lane could do by a
	// link's name, for a link that is made anew, and answers by a lane's table, whose routes may change.
	fresh := freshLinks(missing, from)
	rest = slices.DeleteFunc(rest, func(o Object) bool {
		opens := false
		switch o := o.(type) {
		case Element:
			opens = !gone[Table{}.key()] && (o.Set == Forward || o.Set == Allowed) && (fresh[o.In] || fresh[o.Out])
		case Rule:
			opens = o.Priority == answersPriority+1 && o.Action == Lookup
		}
		if opens {
			ops = append(ops, Op{Verb: Remove, Object: o})
		}
		return opens
	})

	sortObjects(missing)
	for _, w := range missing {
		if h, ok := from[w.key()]; ok {
			ops = append(ops, Op{Verb: Replace, Object: w, Have: h})
		} else {
			ops = append(ops, Op{Verb: Add, Object: w})
		}
	}
	ops = insertFlushes(ops, have, want)

	for _, o := range rest {
		markGone(gone, o)
	}
	for _, o := range rest {
		// A sysctl stays; Build wants the saved value when no lane needs another.
		if _, ok := o.(Sysctl); !ok && !dependsOnAny(o, gone) {
			ops = append(ops, Op{Verb: Remove, Object: o})
		}
	}
	for i := range ops {
		ops[i].Lane = want[ops[i].Object]
		if _, wanted := want[ops[i].Object]; !wanted {
			ops[i].Lane = have[ops[i].Object]
		}
	}
	return ops
}

// freshLinks are those that are made, or become another lane's or another veth's.
func freshLinks(missing []Object, from map[key]Object) map[string]bool {
	fresh := map[string]bool{}
	for _, w := range missing {
		switch w := w.(type) {
		case Bridge:
			if h, ok := from[w.key()].(Bridge); !ok || h.Lane != w.Lane {
				fresh[w.Name] = true
			}
		case Veth:
			if h, ok := from[w.key()].(Veth); !ok || h.Lane != w.Lane || h.Bridge != w.Bridge {
				fresh[w.Name], fresh[w.outer()] = true, true
			}
		}
	}
	return fresh
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
// safe only when what drops by interface, which is there before, knows
// both: it can't change at the same moment. And it must not have been the
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

// drops tells whether all that a link brings and takes is dropped unless it is let through.
func (s State) drops(link string) bool {
	in, out := false, false
	for o := range s {
		switch o := o.(type) {
		case Element:
			if o.Set == LaneLinks && o.In == link {
				return true
			}
		case ChainRule:
			if o.Chain == chainOf("filter", "FORWARD").Name && o.Target == TargetDrop {
				in = in || o.XTRule == XTRule{In: link, Target: TargetDrop}
				out = out || o.XTRule == XTRule{Out: link, Target: TargetDrop}
			}
		}
	}
	return in && out
}

func isLink(o Object) bool { return o.key().kind == kindBridge }

// markGone notes what the kernel takes away with o.
func markGone(gone map[key]bool, o Object) {
	switch o := o.(type) {
	case Netns, Bridge, Table, Chain:
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

// insertFlushes puts a Flush for every subnet that was in use while its translation was
// missing or another right behind what translates it. They follow at once: were
// they at the plan's end, a failure between would lose them, as the next plan
// finds the translation in order. Until the routes follow, the filter lets
// nothing new pass by the old uplink.
func insertFlushes(ops []Op, have, want State) []Op {
	before, after := have.translated(), want.translated()
	var subnets []netip.Prefix
	for o := range have {
		a, ok := o.(Addr)
		if !ok || a.Netns == "" {
			continue
		}
		subnet := a.Prefix.Masked()
		if by := after[subnet]; by != "" && by != before[subnet] {
			subnets = append(subnets, subnet)
		}
	}
	if len(subnets) == 0 {
		return ops
	}
	last := 0
	for i, op := range ops {
		switch o := op.Object.(type) {
		case Table, Chain, ChainRule:
			last = i + 1
		case Element:
			if o.Set == Masquerade || o.Set == Allowed {
				last = i + 1
			}
		}
	}
	slices.SortFunc(subnets, netip.Prefix.Compare)
	var flushes []Op
	for _, s := range slices.Compact(subnets) {
		flushes = append(flushes, Op{Verb: Flush, Object: Conntrack{Subnet: s}})
	}
	return slices.Insert(ops, last, flushes...)
}

// translated says how each lane's subnet is translated, by what translates it.
func (s State) translated() map[netip.Prefix]string {
	how := map[string][]string{} // by the lane's interface, or the subnet
	sound := false
	jumped := map[string]bool{}
	for o := range s {
		switch o := o.(type) {
		case Table:
			sound = o.Sound
		case Chain:
			jumped[o.Table] = o.Jumped
		case Element:
			if o.Set == Masquerade || o.Set == Allowed {
				how[o.In] = append(how[o.In], o.Out+" "+o.Net.String())
			}
		case ChainRule:
			if o.Target == TargetMasquerade {
				how[o.Source.String()] = append(how[o.Source.String()], o.Out+" "+o.Dest.String())
			}
		}
	}
	out := map[netip.Prefix]string{}
	for o := range s {
		r, ok := o.(Route)
		if !ok || r.Netns != "" || r.Type != Unicast || r.Via.IsValid() {
			continue
		}
		var by []string
		if sound {
			by = append(by, how[r.Dev]...)
		}
		if jumped["nat"] {
			by = append(by, how[r.Dst.String()]...)
		}
		if len(by) > 0 {
			slices.Sort(by)
			out[r.Dst] = strings.Join(by, ", ")
		}
	}
	return out
}
