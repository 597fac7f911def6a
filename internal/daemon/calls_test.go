package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"uplane/policy"
)

// running has a daemon whose loop runs.
func running(t *testing.T, m *machine, lanes ...string) *daemon {
	t.Helper()
	d := newDaemon(t, m, lanes...)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestUpSetDownRemove(t *testing.T) {
	m := newMachine()
	d := running(t, m)
	ctx := t.Context()
	// All that the loop owns is read while it has a moment for it.
	is := func(lane string, want policy.LaneState, mark uint32) {
		t.Helper()
		list, err := d.ask(ctx)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(list, func(s Status) bool { return s.Lane.Name == lane })
		if i < 0 || list[i].State != want || list[i].Lane.Mark != mark {
			t.Errorf("not %s with mark %d: %+v", want, mark, list)
		}
	}
	if err := d.Ping(ctx); err != nil {
		t.Error(err)
	}
	before := ""
	if err := d.do(ctx, func() { before = d.trace() }); err != nil {
		t.Fatal(err)
	}

	wifi := map[string]any{"uplink": []string{"wlp6s0"}}
	if _, err := d.Up(ctx, "one", wifi, false); !errors.Is(err, ErrNoLane) {
		t.Errorf("without create: %v", err)
	}
	if _, err := d.Up(ctx, "one", map[string]any{"mark": uint32(5)}, true); err == nil {
		t.Error("a lane without an uplink")
	}
	is0, err := d.ask(ctx)
	if err != nil || len(is0) != 0 {
		t.Errorf("a refused lane is there: %v, %v", is0, err)
	}
	st, err := d.Up(ctx, "one", wifi, true)
	if err != nil || st.State != policy.Up || st.Uplink == nil {
		t.Fatalf("%+v, %v", st, err)
	}
	if st, err = d.Up(ctx, "one", map[string]any{"mark": uint32(7)}, false); err != nil || st.Lane.Mark != 7 {
		t.Errorf("%+v, %v", st, err)
	}
	is("one", policy.Up, 7)

	if st, err = d.Down(ctx, "one"); err != nil || st.State != policy.Down {
		t.Errorf("%+v, %v", st, err)
	}
	if st, err = d.Set(ctx, "one", map[string]any{"mark": uint32(8)}); err != nil || st.State != policy.Down {
		t.Errorf("set takes it up: %+v, %v", st, err)
	}
	if _, err := d.Reload(ctx); err != nil {
		t.Error(err)
	}
	is("one", policy.Down, 8) // it was taken down, and that outlives a reload
	if lines, err := d.Plan(ctx, "one"); err != nil || !slices.Contains(lines, "ip netns add one") {
		t.Errorf("what up would do: %v, %v", lines, err)
	}
	is("one", policy.Down, 8)
	if st, err = d.Up(ctx, "one", nil, false); err != nil || st.State != policy.Up {
		t.Errorf("%+v, %v", st, err)
	}
	if lines, err := d.Plan(ctx, "one"); err != nil || len(lines) != 0 {
		t.Errorf("of a lane that is right: %v, %v", lines, err)
	}
	if err := d.Remove(ctx, "one"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(d.top, "lanes.d", "one.toml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its file: %v", err)
	}
	after := ""
	if err := d.do(ctx, func() { after = d.trace() }); err != nil || after != before {
		t.Errorf("left:\n%s\nbefore:\n%s\n%v", after, before, err)
	}
}

// What was wanted of a lane goes on after a restart, and a lane whose file is broken goes on as it was.
func TestReload(t *testing.T) {
	m := newMachine()
	d := newDaemon(t, m, "one", "two")
	d.settle()
	d.down("two")
	d.restart()
	d.settle()
	d.requireState("two", policy.Down, "")
	d.file("one", "uplink = 7\n")
	d.file("three", "uplink = \"type:ethernet\"\n")
	var problems []error
	if err := d.call(func() (err error) { problems, err = d.Reload(t.Context()); return err }); err != nil || len(problems) != 1 {
		t.Errorf("%v, %v", problems, err)
	}
	d.requireState("one", policy.Degraded, "the lane stays as it was")
	d.requireState("three", policy.Up, "")
	if err := d.call(func() error { _, err := d.Up(t.Context(), "one", map[string]any{"mark": uint32(7)}, true); return err }); err == nil {
		t.Error("a broken file is changed")
	}
	if err := d.call(func() error { _, err := d.Plan(t.Context(), "one"); return err }); err != nil {
		t.Errorf("what goes on has a plan: %v", err)
	}
	d.file("never", "uplink = 7\n")
	d.readConfig()
	d.pass()
	if err := d.call(func() error { _, err := d.Plan(t.Context(), "never"); return err }); err == nil || errors.Is(err, ErrNoLane) {
		t.Errorf("the plan of a lane that was never right: %v", err)
	}
}

func TestUnknownLane(t *testing.T) {
	d := running(t, newMachine())
	ctx := t.Context()
	if _, err := d.Down(ctx, "nosuch"); !errors.Is(err, ErrNoLane) {
		t.Error(err)
	}
	if _, err := d.Set(ctx, "nosuch", nil); !errors.Is(err, ErrNoLane) {
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
	if err := d.do(ctx, func() { d.requireWrites(0, 0) }); err != nil {
		t.Error(err)
	}
}

// A panic in a call is its caller's error, and the loop goes on.
func TestPanicInCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		d := newDaemon(t, m, "one")
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		if err := d.do(ctx, func() { panic("oh") }); err == nil || !strings.Contains(err.Error(), "internal error: oh") {
			t.Error(err)
		}
		m.fail = func(policy.Op) error {
			m.fail = nil
			panic("in a pass")
		}
		if _, err := d.Down(ctx, "one"); err == nil || !strings.Contains(err.Error(), "internal error: in a pass") {
			t.Error(err)
		}
		if _, err := d.Up(ctx, "one", nil, false); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		d.requireState("one", policy.Up, "")
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A call that comes after the loop has ended does not wait for ever.
func TestCallTooLate(t *testing.T) {
	d := newDaemon(t, newMachine())
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := d.Ping(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
