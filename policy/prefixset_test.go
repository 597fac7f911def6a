package policy

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// A prefixSet answers as a plain list would.
func TestPrefixSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) netip.Prefix {
			a := rapid.SampledFrom([]byte{0, 10, 255}).Draw(t, label)
			b, c := byte(rapid.IntRange(0, 3).Draw(t, label)), byte(rapid.IntRange(0, 255).Draw(t, label))
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{a, 0, b, c}), rapid.IntRange(0, 32).Draw(t, label))
		}
		var set prefixSet
		var list []netip.Prefix
		for range rapid.IntRange(0, 20).Draw(t, "size") {
			p := draw("add")
			set.add(p)
			list = append(list, p)
		}
		for range 20 {
			p := draw("ask")
			want := false
			for _, q := range list {
				want = want || q.Overlaps(p)
			}
			q, got := set.overlaps(p)
			if got != want || got && !q.Overlaps(p) {
				t.Fatalf("%v in %v (%v): %v, %v", p, list, set, q, got)
			}
		}
		for i := range set {
			if i > 0 && (set[i-1].Overlaps(set[i]) || set[i-1].Addr().Compare(set[i].Addr()) >= 0) {
				t.Fatalf("%v is not sorted and disjoint", set)
			}
		}
	})
}
