package firewall

import (
	"testing"

	"uplane/policy"
)

// thousand is a large host: a thousand lanes of six elements, or of four rules.
func thousand(w world) policy.State {
	if w.cli == "" {
		return table(1000)
	}
	return manyChains(1000)
}

func benchmark(b *testing.B, run func(w world, all policy.State)) {
	for _, name := range []string{"nftables", "iptables-nft", "iptables-legacy"} {
		b.Run(name, func(b *testing.B) {
			w := open(b, name)
			all := thousand(w)
			w.reach(all)
			w.observe()
			run(w, all)
		})
	}
}

// BenchmarkObserveUnchanged is what a look costs when nobody tells of changes: netlink reads of a goroutine that is locked
// to its thread, as in these tests, cost a switch of threads (0.1 ms) more than the daemon's.
func BenchmarkObserveUnchanged(b *testing.B) {
	benchmark(b, func(w world, _ policy.State) {
		for w.TB.(*testing.B).Loop() {
			w.observe()
		}
	})
}

// BenchmarkObserveFollowed is what it costs while Follow runs.
func BenchmarkObserveFollowed(b *testing.B) {
	w := open(b, "nftables")
	w.follow(func() {})
	w.reach(table(1000))
	w.observe()
	for b.Loop() {
		w.observe()
	}
}

// BenchmarkObserveChanged reads everything.
func BenchmarkObserveChanged(b *testing.B) {
	benchmark(b, func(w world, _ policy.State) {
		for w.TB.(*testing.B).Loop() {
			w.ours.generation = 0
			w.observe()
		}
	})
}

// BenchmarkAddLane adds a lane to the thousand, looks, and removes it again: two changes and two looks.
func BenchmarkAddLane(b *testing.B) {
	benchmark(b, func(w world, all policy.State) {
		less := table(999)
		if w.cli != "" {
			less = manyChains(999)
		}
		remove, add := policy.Diff(all, less), policy.Diff(less, all)
		for w.TB.(*testing.B).Loop() {
			w.apply(remove, less)
			w.observe()
			w.apply(add, all)
			w.observe()
		}
	})
}

// BenchmarkReplaceAll makes everything anew: the table and its 6000 elements in one transaction.
func BenchmarkReplaceAll(b *testing.B) {
	benchmark(b, func(w world, all policy.State) {
		ops := policy.Diff(nil, all)
		for i := range ops {
			if _, ok := ops[i].Object.(policy.Table); ok {
				ops[i].Verb, ops[i].Have = policy.Replace, policy.Table{}
			}
		}
		for w.TB.(*testing.B).Loop() {
			w.apply(ops, all)
		}
	})
}

// BenchmarkDoors is a look at FORWARD of a host with Docker, each time after a change by somebody.
func BenchmarkDoors(b *testing.B) {
	w := open(b, "nftables")
	w.cli = "iptables-nft"
	w.sh(docker)
	for b.Loop() {
		w.doors.generation = 0
		w.observeDoors()
	}
}
