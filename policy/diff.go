package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Diff returns the operations that lead from have to want: first what is in the
// way, then what is missing or different, each in place where the kernel can,
// last what is too much. So there is never a moment without a route that both
// states have, and never one in which a packet could pass before the floor.
func Diff(have, want State) []Op {
	missing, extra := minus(want, have), minus(have, want)
	if len(missing)+len(extra) == 0 {
		return nil
	}
	var ops []Op

	// A veth whose inner end is elsewhere, or a name that is another kind of
	// link, can't be changed in place: it goes first, and takes with it what
	// depends on it, though both states may have that.
	byKey := make(map[key]Object, len(extra))
	gone := make(map[key]bool)
	for _, o := range extra {
		byKey[o.key()] = o
	}
	for _, w := range missing {
		if h, ok := byKey[w.key()]; ok && !inPlace(h, w) {
			ops = append(ops, Op{Verb: Remove, Object: h})
			markGone(gone, h)
			delete(byKey, w.key())
		}
	}
	if len(gone) > 0 {
		for o := range have {
			if dependsOnAny(o, gone) {
				delete(byKey, o.key())
				if want.Has(o) {
					missing = append(missing, o)
				}
			}
		}
	}

	sortObjects(missing)
	for _, w := range missing {
		if h, ok := byKey[w.key()]; ok {
			ops = append(ops, Op{Verb: Replace, Object: w, Have: h})
			delete(byKey, w.key())
		} else {
			ops = append(ops, Op{Verb: Add, Object: w})
		}
	}
	ops = append(ops, flushes(have, want, missing)...)

	// What stays behind in byKey is too much, less what goes with its link.
	extra = extra[:0]
	for _, o := range byKey {
		if _, ok := o.(Sysctl); ok {
			continue // never removed; Build wants the saved value when no lane needs another
		}
		extra = append(extra, o)
		markGone(gone, o)
	}
	extra = slices.DeleteFunc(extra, func(o Object) bool { return dependsOnAny(o, gone) })
	sortObjects(extra)
	slices.Reverse(extra)
	for _, o := range extra {
		ops = append(ops, Op{Verb: Remove, Object: o})
	}
	return ops
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

// inPlace tells whether have can become want without a moment of absence.
func inPlace(have, want Object) bool {
	switch w := want.(type) {
	case Veth:
		h, ok := have.(Veth)
		return ok && h.Netns == w.Netns && h.Inner == w.Inner
	case Bridge:
		_, ok := have.(Bridge)
		return ok
	}
	_, ok := want.(replacer)
	return ok
}

// markGone notes what the kernel takes away with o.
func markGone(gone map[key]bool, o Object) {
	switch o := o.(type) {
	case Netns, Bridge:
		gone[o.key()] = true
	case Veth:
		gone[o.key()] = true
		gone[linkKey(o.Netns, o.Inner)] = true
	}
}

func dependsOnAny(o Object, gone map[key]bool) bool {
	d, ok := o.(dependent)
	return ok && slices.ContainsFunc(d.dependsOn(), func(k key) bool { return gone[k] })
}

// flushes returns a Flush for every subnet that was in use while the
// translation chain was missing or another one.
func flushes(have, want State, changed []Object) []Op {
	nat := slices.ContainsFunc(changed, func(o Object) bool {
		c, ok := o.(Chain)
		return ok && c.Table == "nat"
	})
	if !nat {
		return nil
	}
	var out []Object
	for o := range want {
		r, ok := o.(Rule)
		if ok && r.Priority == LanePriority && r.From.IsValid() && have.Has(r) && translationChanged(have, want, r) {
			out = append(out, Conntrack{r.From})
		}
	}
	sortObjects(out)
	ops := make([]Op, len(out))
	for i, o := range out {
		ops[i] = Op{Verb: Flush, Object: o}
	}
	return ops
}

// translationChanged tells whether the nat rules of r's subnet differ.
func translationChanged(have, want State, r Rule) bool {
	return !slices.Equal(translation(have, r), translation(want, r))
}

// translation returns r's lines of the nat chain.
func translation(s State, r Rule) []string {
	var out []string
	prefix := fmt.Sprintf("-s %s ", r.From)
	for o := range s {
		if c, ok := o.(Chain); ok && c.Table == "nat" {
			for _, line := range c.Lines() {
				if strings.HasPrefix(line, prefix) {
					out = append(out, line)
				}
			}
			if !c.Jumped {
				out = append(out, "(not jumped to)")
			}
		}
	}
	return out
}
