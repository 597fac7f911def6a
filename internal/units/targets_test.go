package units

import (
	"bufio"
	"context"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"uplane/test/lab"
)

// stage is Targets on a bus of its own, with a stand-in for systemd.
type stage struct {
	*testing.T
	*Targets
	address string

	mu  sync.Mutex
	log strings.Builder
}

func newStage(t *testing.T) *stage {
	t.Helper()
	t.Parallel()
	lab.RequireProgram(t, "dbus-daemon")
	daemon := exec.Command("dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address", "--address=unix:dir="+t.TempDir())
	out, err := daemon.StdoutPipe()
	must(t, err)
	must(t, daemon.Start())
	t.Cleanup(func() { _ = daemon.Process.Kill(); _ = daemon.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	s := &stage{T: t, address: strings.TrimSpace(address)}
	s.Targets = New(Options{Address: s.address, Log: slog.New(slog.NewTextHandler(s, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Targets.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// Write takes the log.
func (s *stage) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

func (s *stage) systemd(active ...string) *lab.Systemd {
	s.Helper()
	d, err := lab.NewSystemd(s.address, active...)
	must(s.T, err)
	s.Cleanup(func() { _ = d.Vanish() })
	return d
}

// lanes says which lanes are up.
func (s *stage) lanes(up ...string) { s.Update(up) }

func (s *stage) wait(d *lab.Systemd, lanes ...string) {
	s.Helper()
	want := make([]string, len(lanes))
	for i, lane := range lanes {
		want[i] = Target(lane)
	}
	for deadline := time.Now().Add(10 * time.Second); !slices.Equal(d.Active(), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.Fatalf("started are %q, not %q\n%s", d.Active(), want, s.log.String())
		}
	}
}

func TestNothingBeforeAnUpdate(t *testing.T) {
	s := newStage(t)
	d := s.systemd(Target("steam"))
	time.Sleep(grace + 200*time.Millisecond)
	if calls := d.Calls(); len(calls) > 0 {
		t.Errorf("before anybody knows of a lane: %q", calls)
	}
	s.lanes()
	s.wait(d)
}

// A lane that is in error for moments keeps its programs.
func TestGrace(t *testing.T) {
	s := newStage(t)
	d := s.systemd()
	s.lanes("a", "b")
	s.wait(d, "a", "b")
	d.Calls()
	for range 3 {
		s.lanes("a")
		time.Sleep(grace / 2)
		s.lanes("a", "b")
		time.Sleep(grace / 10)
	}
	if calls := d.Calls(); len(calls) > 0 {
		t.Errorf("over moments: %q", calls)
	}
	s.lanes("a")
	s.wait(d, "a")
	if calls := d.Calls(); !slices.Equal(calls, []string{"StopUnit uplane-lane@b.target replace"}) {
		t.Errorf("have %q", calls)
	}
}

func TestErrors(t *testing.T) {
	s := newStage(t)
	d := s.systemd()
	// The template is not installed: that is not tried again and again.
	d.Fail(noSuchUnit)
	s.lanes("a")
	time.Sleep(5 * minPause)
	d.Fail("")
	time.Sleep(5 * minPause)
	s.wait(d)
	// Anything else is.
	d.Fail("org.freedesktop.systemd1.TransactionIsDestructive")
	s.lanes("a")
	time.Sleep(2 * minPause)
	d.Fail("")
	s.wait(d, "a")
}

func TestSystemdComesAndGoes(t *testing.T) {
	s := newStage(t)
	s.lanes("a")
	d := s.systemd()
	s.wait(d, "a")
	must(t, d.Vanish())
	d.Set(Target("a"), false)
	d.Set(Target("gone"), true)
	must(t, d.Appear())
	s.wait(d, "a")
}
