package firewall

import (
	"context"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

// follow starts Follow in the test's namespace and waits until it listens.
func (w world) follow(changed func()) {
	w.Helper()
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.Context())
	listening, done := make(chan struct{}), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and let the thread die
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		listens := sync.OnceFunc(func() { close(listening) })
		done <- w.Follow(ctx, func() { listens(); changed() })
	}()
	w.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
		ns.Close()
	})
	await(w, listening)
}

func await(t testing.TB, calls <-chan struct{}) {
	t.Helper()
	select {
	case <-calls:
	case <-time.After(5 * time.Second):
		t.Fatal("no change seen")
	}
}

func silence(t testing.TB, calls <-chan struct{}) {
	t.Helper()
	select {
	case <-calls:
		t.Fatal("woken by nothing")
	case <-time.After(200 * time.Millisecond):
	}
}

// TestFollow: Observe costs nothing while nothing happens, and sees what others do.
func TestFollow(t *testing.T) {
	damages := map[string]string{
		"nftables": "nft delete table " + inTable,
		"iptables": "iptables -F UPLANE-FORWARD",
	}
	each(t, func(w world) {
		want, damage := table(1), damages["nftables"]
		if w.cli != "" {
			want, damage = chains(), damages["iptables"]
		}
		calls := make(chan struct{}, 100)
		w.follow(func() { calls <- struct{}{} })
		await(w, calls) // the first call
		w.reach(want)
		await(w, calls)
		w.must(want)
		sh(w, "iptables-save; nft list ruleset")
		for len(calls) > 0 { // iptables writes a table at a time
			<-calls
		}
		silence(w, calls)

		w.ours.value = state(policy.Table{}) // is what Observe returns as long as it does not look
		if w.observe().Has(policy.Table{Sound: true}) || len(w.observe()) != 1 {
			w.Error("looked again without an event")
		}
		for _, script := range []string{damage, "nft flush ruleset"} {
			w.ours.generation = 0
			w.reach(want)
			w.must(want)
			w.sh(script)
			for difference(w.observe(), want) == "" { // the event may still be on its way
				await(w, calls)
			}
		}
	}, "iptables", "nftables")
}

// TestFollowSurvivesOverrun overflows the socket's buffer, 208 KiB by default, while nobody reads.
func TestFollowSurvivesOverrun(t *testing.T) {
	t.Parallel()
	w := open(t, "nftables")
	calls, gate := make(chan struct{}, 100), make(chan struct{})
	w.follow(func() { calls <- struct{}{}; <-gate })
	await(t, calls)
	w.reach(table(1000))
	w.reach(table(999))
	close(gate)
	await(t, calls)
	for { // until it is quiet
		select {
		case <-calls:
			continue
		case <-time.After(100 * time.Millisecond):
		}
		break
	}
	w.must(table(999))
	sh(t, "nft add table ip x")
	await(t, calls)
}
