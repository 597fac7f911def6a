package policy

import (
	"fmt"
	"testing"
)

// pass is what the daemon computes on every poke.
func (w *world) pass(have State) []Op {
	want, _ := w.build()
	return Diff(have, want)
}

// BenchmarkPass is a pass in which nothing changed.
func BenchmarkPass(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("lanes=%d", n), func(b *testing.B) {
			w := newWorld()
			for i := range n {
				w.lanes = append(w.lanes, laneN(i))
			}
			have, _ := w.build()
			b.ReportAllocs()
			for b.Loop() {
				if ops := w.pass(have); len(ops) != 0 {
					b.Fatal(ops)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/lane")
		})
	}
}

// BenchmarkGateway is the pass that matters most: DHCP brought another gateway.
func BenchmarkGateway(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("lanes=%d", n), func(b *testing.B) {
			w := newWorld()
			for i := range n {
				w.lanes = append(w.lanes, laneN(i))
			}
			have, _ := w.build()
			w.uplinks[0].Routes[0].Via = ipa("192.168.50.254")
			b.ReportAllocs()
			for b.Loop() {
				if ops := w.pass(have); len(ops) != n {
					b.Fatal(ops)
				}
			}
		})
	}
}

// BenchmarkSwitch is the dearest change: every lane leaves by another uplink.
func BenchmarkSwitch(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("lanes=%d", n), func(b *testing.B) {
			w := newWorld()
			for i := range n {
				w.lanes = append(w.lanes, lane(laneN(i).Name, "type:wifi", "type:ethernet"))
			}
			have, _ := w.build()
			w.uplinks[0].Phase = PhaseDown
			b.ReportAllocs()
			for b.Loop() {
				w.pass(have)
			}
		})
	}
}
