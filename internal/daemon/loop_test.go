package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"uplane/nm"
	"uplane/policy"
)

// backends is uplane.toml's text for each of them.
var backends = map[string]string{"nftables": "firewall = \"nftables\"\n", "iptables": "firewall = \"iptables\"\n"}

func TestBuildAndRemove(t *testing.T) {
	for backend, text := range backends {
		t.Run(backend, func(t *testing.T) {
			d := newDaemon(t, newMachine())
			d.write("uplane.toml", text)
			d.readConfig()
			d.settle()
			before := d.trace()
			d.file("one", "uplink = \"wlp6s0\"\n")
			d.file("two", "uplink = \"type:ethernet\"\nbridge = false\nmark = 5\n")
			d.readConfig()
			d.settle()
			d.requireState("one", policy.Up, "")
			d.requireState("two", policy.Up, "")
			changed, applied := d.changed, d.machine.applied
			d.pass()
			d.requireWrites(applied, 0)
			if d.changed != changed {
				t.Error("a pass without a change tells of one")
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
			if after := d.trace(); after != before {
				t.Errorf("left:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// Whatever happened only says "look again": many pokes are one look, and what was missed is found by the next.
func TestLevelTriggered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		d := newDaemon(t, m, "one")
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		synctest.Wait()
		d.requireState("one", policy.Up, "")
		whole, applied := d.trace(), m.applied
		for _, word := range []string{"ip rule add", "ip route add", "nft add element", "nft 'add element"} {
			for o := range m.have {
				if l := (policy.Op{Object: o}).String(); len(l) > len(word) && l[:len(word)] == word {
					delete(m.have, o) // and nobody says so
					break
				}
			}
		}
		for range 100 {
			d.Poke()
		}
		if len(d.Trigger) != 1 {
			t.Errorf("%d looks", len(d.Trigger))
		}
		time.Sleep(burstLength)
		synctest.Wait()
		if got := d.trace(); got != whole || m.applied == applied {
			t.Errorf("%d writes make\n%s\nof\n%s", m.applied-applied, got, whole)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := d.trace(); got != whole {
			t.Error("the lane does not stay as it was when the daemon ends")
		}
	})
}

// What failed is tried again without a poke.
func TestRunTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		d := newDaemon(t, m, "one")
		m.kernel = errors.New("no netlink")
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		synctest.Wait()
		if d.changed != 0 {
			t.Error("it told of lanes that it has not looked at")
		}
		if err := d.do(ctx, func() { m.kernel = nil }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(101 * time.Millisecond)
		synctest.Wait()
		d.requireState("one", policy.Up, "")
		stop()
		if err := <-done; err != nil {
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

func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		d := newDaemon(t, m, "one")
		before := d.trace()
		left := 2
		m.fail = func(policy.Op) error { // for some passes
			if left--; left >= 0 {
				return errors.New("not yet")
			}
			return nil
		}
		lanes, err := d.Once(t.Context())
		if err != nil || len(lanes) != 1 || lanes[0].State != policy.Up || !slices.Equal(Up(lanes), []string{"one"}) {
			t.Fatalf("%v: %v", lanes, err)
		}
		d.restart()
		lanes, err = d.OnceDown(t.Context())
		if err != nil || len(lanes) != 1 || lanes[0].State != policy.Down || len(Up(lanes)) != 0 {
			t.Errorf("%v: %v", lanes, err)
		}
		d.file("one", "")
		if _, err := d.Once(t.Context()); err != nil {
			t.Error(err)
		}
		if after := d.trace(); after != before {
			t.Errorf("left:\n%s\nbefore:\n%s", after, before)
		}
		d.file("one", "uplink = \"wlp6s0\"\n")
		m.fail = func(policy.Op) error { return errors.New("never") }
		if _, err := d.Once(t.Context()); !errors.Is(err, ErrUnsettled) {
			t.Error(err)
		}
	})
}

// A daemon that starts takes up what the one before it built, also when
// NetworkManager has not spoken yet, and when nothing is remembered.
func TestAdoption(t *testing.T) {
	for backend, text := range backends {
		for name, between := range map[string]func(*daemon){
			"as it was":                     func(*daemon) {},
			"NetworkManager is not there":   func(d *daemon) { d.nm = nm.Snapshot{} },
			"nothing is remembered":         func(d *daemon) { d.forgetFiles("run", "lib") },
			"the lane's file is broken now": func(d *daemon) { d.file("one", "uplink = 7\n") },
			"the folder can't be read":      func(d *daemon) { d.spoil("lanes.d") },
		} {
			t.Run(backend+", "+name, func(t *testing.T) {
				m := newMachine()
				d := newDaemon(t, m, "one", "two")
				d.write("uplane.toml", text)
				d.readConfig()
				d.settle()
				applied := m.applied
				between(d)
				d.restart()
				d.pass()
				d.pass()
				d.requireWrites(applied, 0)
				if st := d.statuses["one"]; st.Uplink == nil || st.Uplink.Interface != "wlp6s0" || st.State != policy.Up && st.State != policy.Degraded {
					t.Errorf("lane one is %+v", st)
				}
			})
		}
	}
}

// forgetFiles empties folders of the daemon's.
func (d *daemon) forgetFiles(dirs ...string) {
	d.t.Helper()
	for _, dir := range dirs {
		path := filepath.Join(d.top, dir)
		if err := errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o755)); err != nil {
			d.t.Fatal(err)
		}
	}
}

// spoil puts a file where a folder was, and mend puts it back.
func (d *daemon) spoil(dir string) {
	d.t.Helper()
	path := filepath.Join(d.top, dir)
	if err := errors.Join(os.Rename(path, path+".away"), os.WriteFile(path, nil, 0o644)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *daemon) mend(dir string) {
	d.t.Helper()
	path := filepath.Join(d.top, dir)
	if err := errors.Join(os.Remove(path), os.Rename(path+".away", path)); err != nil {
		d.t.Fatal(err)
	}
}

// With nothing remembered the first pass waits for NetworkManager's word, but not for long.
func TestFirstWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		d := newDaemon(t, m, "one")
		d.settle()
		applied, known := m.applied, d.nm
		d.forgetFiles("run", "lib")
		d.nm = nm.Snapshot{}
		d.restart()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		time.Sleep(firstWord / 2)
		synctest.Wait()
		d.nm = known
		d.Poke()
		list, err := d.ask(ctx)
		if err != nil || len(list) != 1 || list[0].State != policy.Up {
			t.Errorf("%v, %v", list, err)
		}
		d.requireWrites(applied, 0)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}

		// It never speaks: the lane fails closed.
		d.forgetFiles("run", "lib")
		d.nm = nm.Snapshot{}
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
	d.nm.Running = false
	d.settle()
	d.requireState("one", policy.Degraded, "NetworkManager is not running")
	d.requireWrites(applied, 0)
	// What the kernel loses meanwhile is lost.
	m.routes = m.routes[1:]
	d.settle()
	d.requireState("one", policy.Waiting, "wlp6s0")
	d.nm.Running = true
	d.settle()
	d.requireState("one", policy.Up, "")
}
