package policy

import (
	"fmt"
	"testing"
)

// passes returns what the daemon computes on every poke. What is in the kernel stays the same Part, as at the kernel's edge.
func (w *world) passes() func() []Op {
	in := w.input()
	return func() []Op {
		in.Memory = w.memory
		d := Decide(in)
		w.memory = d.Memory
		return d.Ops
	}
}

// BenchmarkPass is a pass in which nothing changed.
func BenchmarkPass(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("lanes=%d", n), func(b *testing.B) {
			w := newWorld()
			for i := range n {
				w.lanes = append(w.lanes, laneN(i))
			}
			w.settle()
			pass := w.passes()
			b.ReportAllocs()
			for b.Loop() {
				if ops := pass(); len(ops) != 0 {
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
			w.settle()
			w.uplinks[0].Routes[0].Via = ipa("192.168.50.254")
			pass := w.passes()
			b.ReportAllocs()
			before := w.memory
			for b.Loop() {
				w.memory = before
				if ops := pass(); len(ops) != n {
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
			w.settle()
			w.uplinks[0].Phase = PhaseDown
			pass := w.passes()
			b.ReportAllocs()
			before := w.memory
			for b.Loop() {
				w.memory = before
				pass()
			}
		})
	}
}
