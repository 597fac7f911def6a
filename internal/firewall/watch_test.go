package firewall

import (
	"context"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watch starts Watch in the test's namespace and waits until it listens.
func watch(t testing.TB, changed func()) {
	t.Helper()
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	listening, done := make(chan struct{}), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and let the thread die
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		listens := sync.OnceFunc(func() { close(listening) })
		done <- Watch(ctx, func() { listens(); changed() })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		ns.Close()
	})
	await(t, listening)
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

func TestWatch(t *testing.T) {
	each(t, func(w world) {
		w.apply(lane(), nil)
		calls := make(chan struct{}, 100)
		watch(w, func() { calls <- struct{}{} })
		await(w, calls) // the first call
		w.observe()
		w.apply(lane(), nil) // nothing to do
		sh(w, "iptables-save; nft list ruleset")
		silence(w, calls)
		sh(w, "nft flush ruleset") // one transaction, many events
		await(w, calls)
		silence(w, calls)
	}, "iptables", "nftables")
}

// TestWatchSurvivesOverrun overflows the socket's buffer, 208 KiB by default, while nobody reads.
func TestWatchSurvivesOverrun(t *testing.T) {
	t.Parallel()
	w := open(t, "nftables")
	calls, gate := make(chan struct{}, 100), make(chan struct{})
	watch(t, func() { calls <- struct{}{}; <-gate })
	await(t, calls)
	w.apply(lanes(1000), nil)
	w.apply(lanes(999), nil)
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
	sh(t, "nft add table ip x")
	await(t, calls)
}
