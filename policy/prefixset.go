package policy

import (
	"net/netip"
	"slices"
)

// prefixSet is a set of IPv4 prefixes that answers "is anything of this taken?"
// in logarithmic time. It keeps them sorted and disjoint.
type prefixSet []netip.Prefix

// at returns where p's first address belongs among the set's.
func (s prefixSet) at(p netip.Prefix) int {
	i, _ := slices.BinarySearchFunc(s, p, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return i
}

// overlaps returns a prefix of s that shares an address with p.
func (s prefixSet) overlaps(p netip.Prefix) (netip.Prefix, bool) {
	i := s.at(p)
	if i < len(s) && s[i].Overlaps(p) {
		return s[i], true
	}
	if i > 0 && s[i-1].Overlaps(p) {
		return s[i-1], true
	}
	return netip.Prefix{}, false
}

// add puts p into s, swallowing what lies within it.
func (s *prefixSet) add(p netip.Prefix) {
	p = p.Masked()
	if q, ok := s.overlaps(p); ok && q.Bits() <= p.Bits() {
		return
	}
	i := s.at(p)
	j := i
	for j < len(*s) && p.Overlaps((*s)[j]) {
		j++
	}
	*s = slices.Replace(*s, i, j, p)
}
