package daemon

import (
	"fmt"
	"testing"
)

// BenchmarkPass is a pass in which nothing changed, on a kernel and a firewall that are maps.
func BenchmarkPass(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("lanes=%d", n), func(b *testing.B) {
			var names []string
			for i := range n {
				names = append(names, fmt.Sprintf("lane%04d", i))
			}
			d := newDaemon(b, newMachine(), names...)
			d.settle()
			b.ReportAllocs()
			for b.Loop() {
				d.pass()
			}
		})
	}
}
