package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// State is a set of objects, what is in the kernel or what shall be, and the
// lane that each is part of; empty: of several.
type State map[Object]string

// Add puts objects of a lane into s. What another lane has as well is nobody's alone.
func (s State) Add(lane string, objects ...Object) {
	for _, o := range objects {
		owner := lane
		if has, ok := s[o]; ok && has != lane {
			owner = ""
		}
		s[o] = owner
	}
}

// Has tells whether o is in s, equal in full.
func (s State) Has(o Object) bool { _, ok := s[o]; return ok }

// Chains tells whether s has chains in iptables' tables.
func (s State) Chains() bool {
	for o := range s {
		if _, ok := o.(Chain); ok {
			return true
		}
	}
	return false
}

// String is the shell lines that build s from nothing, in order.
func (s State) String() string {
	var b strings.Builder
	for _, op := range Diff(nil, s) {
		for _, line := range op.Shell() {
			b.WriteString(line)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// rank is an object's place in the order of building.
func rank(o Object) kind {
	switch o := o.(type) {
	case Route:
		return o.rank()
	case Veth:
		return kindVeth
	case Sysctl:
		return o.rank()
	case Rule:
		return o.rank()
	}
	return o.key().kind
}

// sortObjects orders objects for building; equal ranks by key, so that plans
// and golden files are stable.
func sortObjects(objects []Object) {
	type ranked struct {
		Object
		rank kind
		key  key
	}
	all := make([]ranked, len(objects))
	for i, o := range objects {
		all[i] = ranked{o, rank(o), o.key()}
	}
	slices.SortFunc(all, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), compareKeys(a.key, b.key))
	})
	for i := range all {
		objects[i] = all[i].Object
	}
}

func compareKeys(a, b key) int {
	return cmp.Or(
		cmp.Compare(a.family, b.family),
		cmp.Compare(a.netns, b.netns),
		cmp.Compare(a.name, b.name),
		slices.Compare(a.number[:], b.number[:]),
		comparePrefixes(a.prefix, b.prefix),
		comparePrefixes(a.to, b.to),
	)
}

// comparePrefixes orders prefixes, the zero one first; netip's own makes an error of that each time.
func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
