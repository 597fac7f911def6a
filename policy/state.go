package policy

import (
	"cmp"
	"slices"
	"strings"
)

// State is a set of objects: what is in the kernel, or what shall be.
type State map[Object]struct{}

// Add puts objects into s.
func (s State) Add(objects ...Object) {
	for _, o := range objects {
		s[o] = struct{}{}
	}
}

// Has tells whether o is in s, equal in full.
func (s State) Has(o Object) bool { _, ok := s[o]; return ok }

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
	}
	return o.key().kind
}

// sortObjects orders objects for building; equal ranks by key, so that plans
// and golden files are stable.
func sortObjects(objects []Object) {
	slices.SortFunc(objects, func(a, b Object) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), compareKeys(a.key(), b.key()))
	})
}

func compareKeys(a, b key) int {
	return cmp.Or(
		cmp.Compare(a.netns, b.netns),
		cmp.Compare(a.name, b.name),
		slices.Compare(a.number[:], b.number[:]),
		a.prefix.Compare(b.prefix),
		a.to.Compare(b.to),
	)
}
