package firewall

import (
	"testing"
	"time"

	"github.com/coreos/go-iptables/iptables"

	"uplane/policy"
)

// TestThousandLanes reports what a large host pays. The figures of nftables are three times the daemon's: every
// netlink read of a goroutine that is locked to its thread, as in these tests, costs a switch of threads (0.1 ms).
func TestThousandLanes(t *testing.T) {
	each(t, func(w world) {
		want := lanes(1000)
		timed := func(what string, do func()) {
			start := time.Now()
			do()
			w.Logf("%s, 4000 rules: %.1f ms", what, time.Since(start).Seconds()*1000)
		}
		timed("apply", func() { w.apply(want, nil) })
		timed("observe", func() { w.observe() })
		timed("observe again", func() { w.observe() })
		w.must(want)
		timed("replace", func() { w.apply(lanes(999), nil) })
		timed("delete", func() { w.apply(nil, want) })
		w.must(nil)
	})
}

func benchmark(b *testing.B, run func(world)) {
	for _, name := range []string{"iptables", "iptables-legacy", "nftables"} {
		b.Run(name, func(b *testing.B) {
			w := open(b, name)
			w.apply(lane(), nil)
			for b.Loop() {
				run(w)
			}
		})
	}
}

// BenchmarkObserveUnchanged is what a poke costs that was about something else.
func BenchmarkObserveUnchanged(b *testing.B) {
	benchmark(b, func(w world) { w.observe() })
}

// BenchmarkObserveChanged reads everything.
func BenchmarkObserveChanged(b *testing.B) {
	benchmark(b, func(w world) {
		w.generation = 0
		w.observe()
	})
}

// BenchmarkReplace swaps three chains, of which two differ.
func BenchmarkReplace(b *testing.B) {
	other := lane()
	other[0].Rules, other[2].Rules = "-i ul-steam -j DROP", ""
	turn := 0
	benchmark(b, func(w world) {
		turn++
		w.apply([][]policy.Chain{lane(), other}[turn%2], nil)
	})
}

// BenchmarkUp makes the chains of the first lane.
func BenchmarkUp(b *testing.B) {
	benchmark(b, func(w world) {
		b := w.TB.(*testing.B)
		b.StopTimer()
		w.apply(nil, lane())
		b.StartTimer()
		w.apply(lane(), nil)
	})
}

// BenchmarkDown deletes them without a trace.
func BenchmarkDown(b *testing.B) {
	benchmark(b, func(w world) {
		w.apply(nil, lane())
		b := w.TB.(*testing.B)
		b.StopTimer()
		w.apply(lane(), nil)
		b.StartTimer()
	})
}

// BenchmarkObserveByGoIPTables reads the same six chains by the library, a fork each, for comparison.
func BenchmarkObserveByGoIPTables(b *testing.B) {
	w := open(b, "iptables")
	w.apply(lane(), nil)
	cli, err := iptables.New(iptables.Timeout(lockWait))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		for _, c := range lane() {
			for _, name := range []string{c.Name, c.Hook} {
				if _, err := cli.List(c.Table, name); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
}
