package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"uplane/policy"
)

func TestBuildAndRemove(t *testing.T) {
	d := newDaemon(t, newMachine())
	before := d.trace()
	d.file("one", "uplink = \"wlp6s0\"\n")
	d.file("two", "uplink = \"type:ethernet\"\nbridge = false\nmark = 5\n")
	d.readConfig()
	d.settle()
	d.requireState("one", policy.Up, "")
	d.requireState("two", policy.Up, "")
	changed, applied := d.changed, d.machine.applied
	d.pass()
	if d.changed != changed || d.machine.applied != applied {
		t.Errorf("a pass without a change tells of %d and writes %d", d.changed-changed, d.machine.applied-applied)
	}
	d.file("one", "")
	d.readConfig()
	d.settle()
	if len(d.statuses) != 1 {
		t.Errorf("statuses: %v", d.statuses)
	}
	d.requireState("two", policy.Up, "")
	d.file("two", "")
	d.readConfig()
	d.settle()
	// What lanes had without "remove" stays theirs: a file may come back.
	_ = d.memory.forget("one")
	_ = d.memory.forget("two")
	if after := d.trace(); after != before {
		t.Errorf("left:\n%s\nbefore:\n%s", after, before)
	}
}

// A lane that can't be built leaves the others alone, and is tried again ever less often.
func TestFailureOfOneLane(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "bad", "good")
	m.fail = func(op policy.Op) error {
		if b, ok := op.Object.(policy.Bridge); ok && b.Lane == "bad" {
			return errors.New("no such luck")
		}
		return nil
	}
	want := 100 * time.Millisecond
	for range 15 {
		if wait := d.pass(); wait != want {
			t.Errorf("tries again after %v, not %v", wait, want)
		}
		want = min(2*want, 30*time.Second)
	}
	d.requireState("bad", policy.Error, "no such luck")
	d.requireState("good", policy.Up, "")
	for o := range m.have {
		if v, ok := o.(policy.Veth); ok && v.Lane == "bad" {
			t.Errorf("a lane that failed has %v", v)
		}
	}
	m.fail = nil
	d.settle()
	d.requireState("bad", policy.Up, "")
	m.fail = func(policy.Op) error { return errors.New("again") }
	d.machine.remove(policy.Netns{Name: "bad", Up: true})
	if wait := d.pass(); wait != 100*time.Millisecond {
		t.Errorf("after a success it tries again after %v", wait)
	}
}

// Chains are everybody's: without them no lane is right.
func TestFailureOfChains(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "one", "two")
	m.fail = func(op policy.Op) error {
		if isChain(op) {
			return errors.New("no iptables")
		}
		return nil
	}
	d.pass()
	d.requireState("one", policy.Error, "no iptables")
	d.requireState("two", policy.Error, "no iptables")
	m.fail = nil
	d.settle()
	d.requireState("one", policy.Up, "")
	d.requireState("two", policy.Up, "")
}

func TestObserveFails(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "one")
	m.observe = errors.New("no netlink")
	if d.pass() != 100*time.Millisecond || d.pass() != 200*time.Millisecond || m.applied != 0 {
		t.Errorf("%d writes without looking", m.applied)
	}
	m.observe = nil
	d.settle()
	d.requireState("one", policy.Up, "")
}

// What can't be noted for undoing is not done.
func TestStateCannotBeSaved(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "one")
	if err := os.WriteFile(filepath.Join(d.top, "run"), nil, 0o644); err != nil { // a file where the folder shall be
		t.Fatal(err)
	}
	if wait := d.pass(); wait == 0 || m.applied != 0 {
		t.Errorf("%d writes, again after %v", m.applied, wait)
	}
	d.requireState("one", policy.Error, "run.json")
	if err := os.Remove(filepath.Join(d.top, "run")); err != nil {
		t.Fatal(err)
	}
	d.settle()
	d.requireState("one", policy.Up, "")
}

// A lane whose numbers can't be kept is up all the same, and says so; they are saved as soon as that can be.
func TestNumbersCannotBeSaved(t *testing.T) {
	d := newDaemon(t, newMachine(), "one")
	d.settle()
	lib := filepath.Join(d.top, "lib")
	if err := errors.Join(os.Rename(lib, lib+".away"), os.WriteFile(lib, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	d.file("two", "uplink = \"wlp6s0\"\n")
	d.readConfig()
	first := d.pass()
	if again := d.pass(); first == 0 || again <= first {
		t.Errorf("tried again after %v and %v", first, again)
	}
	d.requireState("one", policy.Up, "")
	d.requireState("two", policy.Degraded, "its numbers are not saved")
	if err := errors.Join(os.Remove(lib), os.Rename(lib+".away", lib)); err != nil {
		t.Fatal(err)
	}
	d.settle()
	d.requireState("two", policy.Up, "")
	if _, saved := d.States.Get().Lanes["two"]; !saved {
		t.Error("its numbers are still not saved")
	}
}

// Another program that undoes our work is answered at once, but not for ever.
func TestFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		d := newDaemon(t, m, "one", "two")
		d.settle()
		rule := policy.Rule{Priority: policy.LanePriority, From: prefix("10.0.1.0/24"), Table: 100}
		heals := 0
		undo := func() (wait time.Duration) {
			t.Helper()
			if !m.have.Has(rule) {
				t.Fatalf("no %v to undo", rule)
			}
			delete(m.have, rule)
			before := m.applied
			wait = d.pass()
			heals += m.applied - before
			return wait
		}
		for i := range freeHeals {
			if wait := undo(); wait != 0 || heals != i+1 {
				t.Fatalf("undoing %d: %d heals, next after %v", i+1, heals, wait)
			}
			d.requireState("one", policy.Up, "")
		}
		for _, pause := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			if wait := undo(); wait != pause*time.Second {
				t.Errorf("after %d heals the next comes after %v, not %v s", heals, wait, int(pause))
			}
			d.requireState("one", policy.Degraded, "another program keeps undoing \"ip rule add priority 5200 from 10.0.1.0/24")
			d.requireState("two", policy.Up, "")
			before := m.applied
			time.Sleep(pause * time.Second / 2)
			d.pass()
			if m.applied != before {
				t.Error("healed in between")
			}
			time.Sleep(pause*time.Second/2 + time.Millisecond)
			d.pass()
			if !m.have.Has(rule) {
				t.Fatal("not healed after the pause")
			}
			d.requireState("one", policy.Up, "")
		}
		// After a peace of a minute it is healed at once again.
		time.Sleep(peaceAfter + time.Second)
		if wait := undo(); wait != 0 || !m.have.Has(rule) {
			t.Errorf("after the peace it waits %v", wait)
		}
		// A lane's own removal is no fight.
		d.file("one", "")
		d.readConfig()
		d.settle()
		if m.have.Has(rule) {
			t.Error("the rule stays")
		}
	})
}

// Who waits for an uplink waits also for what is held back in a fight.
func TestSettleInFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		d := newDaemon(t, m, "one")
		d.settle()
		for range freeHeals + 1 {
			delete(m.have, policy.Rule{Priority: policy.LanePriority, From: prefix("10.0.1.0/24"), Table: 100})
			d.pass()
		}
		d.requireState("one", policy.Degraded, "another program keeps undoing")
		settled := make(chan error, 1)
		go func() { settled <- d.Settle(t.Context(), "wlp6s0", "") }()
		(<-d.calls)()
		d.pass()
		synctest.Wait()
		select {
		case err := <-settled:
			t.Fatalf("settled without its rule: %v", err)
		default:
		}
		time.Sleep(time.Second + time.Millisecond)
		d.pass()
		if err := <-settled; err != nil {
			t.Error(err)
		}
	})
}

// A run whose time is up begins nothing.
func TestOnceLate(t *testing.T) {
	d := newDaemon(t, newMachine(), "one")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if lanes, err := d.Once(ctx); !errors.Is(err, context.Canceled) || len(lanes) != 0 || d.machine.applied != 0 {
		t.Errorf("%v, %v after %d writes", lanes, err, d.machine.applied)
	}
}

// A daemon that starts takes up what the one before it built, also when
// NetworkManager has not spoken yet, and when nothing is remembered.
func TestAdoption(t *testing.T) {
	for name, between := range map[string]func(*daemon){
		"as it was":                     func(*daemon) {},
		"NetworkManager is not there":   func(d *daemon) { d.uplinks = Uplinks{} },
		"nothing is remembered":         func(d *daemon) { d.forgetFiles("run", "lib") },
		"the lane's file is broken now": func(d *daemon) { d.file("one", "uplink = 7\n") },
		"the folder can't be read":      func(d *daemon) { d.spoilFolder("lanes.d") },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine()
			d := newDaemon(t, m, "one", "two")
			d.settle()
			applied := m.applied
			between(d)
			d.restart()
			d.pass()
			d.pass()
			if n := m.applied - applied; n != 0 {
				t.Errorf("%d writes", n)
			}
			if st := d.statuses["one"]; st.Uplink == nil || st.Uplink.Interface != "wlp6s0" || st.State != policy.Up && st.State != policy.Degraded {
				t.Errorf("lane one is %+v", st)
			}
		})
	}
}

func (d *daemon) forgetFiles(dirs ...string) {
	for _, dir := range dirs {
		if err := os.RemoveAll(filepath.Join(d.top, dir)); err != nil {
			d.t.Fatal(err)
		}
	}
}

// spoilFolder puts a file where a folder was.
func (d *daemon) spoilFolder(dir string) {
	d.forgetFiles(dir)
	if err := os.WriteFile(filepath.Join(d.top, dir), nil, 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// With nothing remembered the first pass waits for NetworkManager's word, but not for long.
func TestFirstWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		d := newDaemon(t, m, "one")
		d.settle()
		applied, known := m.applied, d.uplinks
		d.forgetFiles("run", "lib")
		d.uplinks = Uplinks{}
		d.restart()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		time.Sleep(firstWord / 2)
		synctest.Wait()
		d.uplinks = known
		d.Poke()
		list, err := d.ask(ctx)
		if err != nil || len(list) != 1 || list[0].State != policy.Up || m.applied != applied {
			t.Errorf("%v, %v; %d writes", list, err, m.applied-applied)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}

		// It never speaks: the lane fails closed.
		d.forgetFiles("run", "lib")
		d.uplinks = Uplinks{}
		d.restart()
		ctx, stop = context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		go func() { done <- d.Run(ctx) }()
		time.Sleep(firstWord + time.Millisecond)
		if list, err := d.ask(ctx); err != nil || list[0].State != policy.Waiting {
			t.Errorf("%v, %v", list, err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// While NetworkManager is away lanes keep their last uplink and say so.
func TestManagerAway(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "one")
	d.settle()
	applied := m.applied
	d.uplinks.Running = false
	d.settle()
	d.requireState("one", policy.Degraded, "NetworkManager is not running")
	if m.applied != applied {
		t.Errorf("%d writes", m.applied-applied)
	}
	// What the kernel loses meanwhile is lost.
	m.routes = m.routes[1:]
	d.settle()
	d.requireState("one", policy.Waiting, "wlp6s0")
	d.uplinks.Running = true
	d.settle()
	d.requireState("one", policy.Up, "")
}

// TestCrashAnywhere ends the daemon before every single operation of building
// and of removing. The next one ends where the first would have.
func TestCrashAnywhere(t *testing.T) {
	const text = "uplink = \"wlp6s0\"\nmark = 5\n"
	crashes := 0
	for n := 0; ; n++ {
		m := newMachine()
		d := newDaemon(t, m)
		before := d.trace()
		left := n
		m.fail = func(policy.Op) error {
			if left--; left < 0 {
				panic(errCrash)
			}
			return nil
		}
		crashed := d.dies(func() { d.file("one", text); d.readConfig(); d.settle() })
		if !crashed {
			crashed = d.dies(func() { d.removeByFile("one") })
		}
		m.fail = nil
		if !crashed {
			break // it outlived all there is to do
		}
		crashes++
		d.restart()
		d.settle()
		d.survey()
		if _, known := d.lanes.known["one"]; !known && d.trace() != before {
			t.Fatalf("a crash before operation %d leaves\n%s\nnot\n%s", n, d.trace(), before)
		}
		d.file("one", text) // it may be gone
		d.readConfig()
		d.settle()
		d.requireState("one", policy.Up, "")
		d.removeByFile("one")
		if after := d.trace(); after != before {
			t.Fatalf("a crash before operation %d leaves\n%s\nnot\n%s", n, after, before)
		}
	}
	t.Logf("%d crashes", crashes)
	if crashes < 25 {
		t.Errorf("only %d crashes", crashes)
	}
}

// removeByFile does what Remove does on the loop's goroutine.
func (d *daemon) removeByFile(lane string) {
	d.file(lane, "")
	_ = d.memory.forget(lane)
	d.readConfig()
	d.settle()
}

// dies tells whether the daemon was killed in f.
func (d *daemon) dies(f func()) (killed bool) {
	defer func() {
		if r := recover(); r != nil {
			if r != errCrash {
				panic(r)
			}
			killed = true
		}
	}()
	f()
	return false
}

// Every operation fails once, at its place in the plan; the passes still come to their end.
func TestFailureAnywhere(t *testing.T) {
	for n := range 40 {
		m := newMachine()
		d := newDaemon(t, m)
		before := d.trace()
		left := n
		m.fail = func(policy.Op) error {
			if left--; left == -1 {
				return errors.New("not this time")
			}
			return nil
		}
		d.file("one", "uplink = \"wlp6s0\"\nmark = 5\n")
		d.readConfig()
		d.settle()
		d.requireState("one", policy.Up, "")
		d.removeByFile("one")
		if after := d.trace(); after != before {
			t.Fatalf("a failure of operation %d leaves\n%s\nnot\n%s", n, after, before)
		}
	}
}

func TestUnknownLane(t *testing.T) {
	d := newDaemon(t, newMachine())
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { _ = d.Run(ctx) }()
	if _, err := d.Down(ctx, "nosuch"); !errors.Is(err, ErrNoLane) {
		t.Error(err)
	}
	if err := d.Remove(ctx, "nosuch"); !errors.Is(err, ErrNoLane) {
		t.Error(err)
	}
	if _, err := d.Plan(ctx, "nosuch"); !errors.Is(err, ErrNoLane) {
		t.Error(err)
	}
	for _, name := range []string{"", "../x", strings.Repeat("x", 1<<20)} {
		if _, err := d.Plan(ctx, name); err == nil || !strings.Contains(err.Error(), "invalid lane name") || len(err.Error()) > 300 {
			t.Errorf("%.20q: %.300v", name, err)
		}
	}
	if d.machine.applied != 0 {
		t.Errorf("%d writes", d.machine.applied)
	}
}
