package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"uplane/internal/config"
	"uplane/internal/state"
	"uplane/policy"
)

// ErrNoLane says that there is no lane of that name.
var ErrNoLane = errors.New("no such lane")

// errProfile says that a lane is up and down by a NetworkManager profile.
var errProfile = errors.New("it has a profile")

// Up wants a lane up: changes are written to its file first. With create set, the
// file is made when there is none. It returns how the lane is after one pass.
func (l *Loop) Up(ctx context.Context, name string, changes map[string]any, create bool) (Status, error) {
	return l.change(ctx, name, 1, func() error {
		if owner, ok := l.lanes.owner[name]; ok {
			if len(changes) == 0 && l.lanes.wanted[name] && l.lanes.held[name] == "" {
				return nil
			}
			return fmt.Errorf("%s is NetworkManager's: %w: nmcli connection up %s, or to change it, uplane profile add %s", name, errProfile, quote(owner), name)
		}
		_, exists := l.lanes.known[name]
		_, broken := l.config.Broken[name]
		switch {
		case !exists && !broken && !create:
			return fmt.Errorf("%s: %w", name, ErrNoLane)
		case exists && len(changes) == 0:
		case exists || broken:
			if _, err := config.Edit(l.Dirs, name, changes); err != nil {
				return err
			}
		default:
			if _, err := config.New(l.Dirs, name, changes); err != nil {
				return err
			}
		}
		return l.memory.want(name, state.WantUp)
	})
}

// Set writes changes to the file of a lane that there is. The lane stays up or down.
func (l *Loop) Set(ctx context.Context, name string, changes map[string]any) (Status, error) {
	return l.change(ctx, name, 1, func() error {
		if err := l.exists(name); err != nil {
			return err
		}
		if _, ok := l.lanes.owner[name]; ok {
			return fmt.Errorf("%s is NetworkManager's: %w: uplane profile add %s", name, errProfile, name)
		}
		_, err := config.Edit(l.Dirs, name, changes)
		return err
	})
}

// Down takes a lane down until it is wanted up, or the next boot.
func (l *Loop) Down(ctx context.Context, name string) (Status, error) {
	return l.change(ctx, name, removalPasses, func() error {
		if err := l.exists(name); err != nil {
			return err
		}
		// Of a profile that is down only the namespace can be left, which the lane's file wants.
		if owner, ok := l.lanes.owner[name]; ok && l.lanes.held[name] == "" {
			return fmt.Errorf("%s is NetworkManager's: %w: nmcli connection down %s", name, errProfile, quote(owner))
		}
		return l.memory.want(name, state.WantDown)
	})
}

// Remove takes a lane down and deletes its file and all that is remembered of it.
func (l *Loop) Remove(ctx context.Context, name string) error {
	_, err := l.change(ctx, name, removalPasses, func() error {
		if err := l.exists(name); err != nil {
			return err
		}
		owner, profile := l.lanes.owner[name]
		if profile && !slices.ContainsFunc(l.config.Lanes, func(c config.Lane) bool { return c.Name == name }) && l.config.Broken[name] == nil {
			return fmt.Errorf("%s is NetworkManager's: %w: uplane profile remove %s, or nmcli connection delete %s", name, errProfile, name, quote(owner))
		}
		if err := config.Remove(l.Dirs, name); err != nil || profile {
			return err
		}
		return l.memory.forget(name)
	})
	return err
}

// Ping returns once the loop has taken a moment off for it.
func (l *Loop) Ping(ctx context.Context) error { return l.do(ctx, func() {}) }

// Reload reads the configuration again and returns what is wrong with it.
func (l *Loop) Reload(ctx context.Context) (errs []error, err error) {
	err = l.do(ctx, func() {
		errs = l.readConfig()
		l.passes(1)
	})
	return errs, err
}

// Plan returns the lines that lead from what is to the lane as it shall be. For a lane that
// is down it tells what up would do.
func (l *Loop) Plan(ctx context.Context, name string) (lines []string, err error) {
	derr := l.do(ctx, func() {
		l.survey()
		lane, ok := l.lanes.known[name]
		if !ok {
			if err = l.lanes.broken[name]; err == nil {
				err = l.exists(name)
			}
			return
		}
		var extra []policy.Lane
		if !slices.ContainsFunc(l.wanted(), func(w policy.Lane) bool { return w.Name == name }) {
			extra = []policy.Lane{lane}
		}
		var v *view
		if v, err = l.look(extra...); err != nil {
			return
		}
		for _, st := range v.lanes {
			if st.Lane.Name == name && st.State == policy.Error {
				err = errors.New(st.Reason)
				return
			}
		}
		for _, op := range append(v.released, policy.Diff(v.have, v.want)...) {
			lines = append(lines, op.Shell()...)
		}
	})
	return lines, errors.Join(derr, err)
}

// removalPasses is how many passes a removal takes: one that removes, and one that sees
// that nothing is left and so lets go of what was kept for undoing.
const removalPasses = 2

// change runs f on the loop's goroutine, then the configuration is read and
// passes are made, whose result for name it returns.
func (l *Loop) change(ctx context.Context, name string, passes int, f func() error) (st Status, err error) {
	derr := l.do(ctx, func() {
		l.survey()
		if err = f(); err != nil {
			return
		}
		l.readConfig()
		l.passes(passes)
		st = l.statuses[name]
	})
	if derr != nil {
		return Status{}, derr
	}
	return st, err
}

// passes makes n of them, and has the loop make the next if there is need.
func (l *Loop) passes(n int) {
	again := time.Duration(0)
	for range n {
		again = l.pass()
	}
	if again > 0 {
		l.Poke()
	}
}

// exists returns nil when there is a lane of this name, sound or broken.
func (l *Loop) exists(name string) error {
	if err := policy.CheckLaneName(name); err != nil {
		return err
	}
	_, known := l.lanes.known[name]
	_, broken := l.lanes.broken[name]
	if !known && !broken {
		return fmt.Errorf("%s: %w", name, ErrNoLane)
	}
	return nil
}

// readConfig loads the configuration; what is wrong with it is logged and
// returned. Lanes whose file is broken stay as they were.
func (l *Loop) readConfig() []error {
	cfg, errs := config.Load(l.Dirs)
	for _, err := range errs {
		l.Log.Error("configuration", "error", err)
	}
	l.config = cfg
	return errs
}

// wanted returns the lanes that shall be up, by name.
func (l *Loop) wanted() []policy.Lane {
	var out []policy.Lane
	for name, lane := range l.lanes.known {
		if l.lanes.wanted[name] {
			out = append(out, lane)
		}
	}
	slices.SortFunc(out, func(a, b policy.Lane) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// idle parts lanes from those that are held, and finds beside these the ones that are down and have numbers, or whose
// profile says some: theirs stay theirs, as far as no lane that is up has them.
func (l *Loop) idle(lanes []policy.Lane) (up, idle []policy.Lane) {
	for _, lane := range lanes {
		if l.lanes.held[lane.Name] == "" {
			up = append(up, lane)
		} else {
			idle = append(idle, lane)
		}
	}
	for name, lane := range l.lanes.known {
		_, has := l.memory.state.Lanes[name]
		if (has || lane.External) && !slices.ContainsFunc(lanes, func(w policy.Lane) bool { return w.Name == name }) {
			idle = append(idle, lane)
		}
	}
	return up, idle
}
