package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"uplane/internal/config"
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
		if owner, ok := l.decided.Sources.Owner[name]; ok {
			if len(changes) == 0 && l.decided.Sources.Wanted[name] && l.decided.Sources.Held[name] == "" {
				return nil
			}
			return fmt.Errorf("%s is NetworkManager's: %w: nmcli connection up %s, or to change it, uplane profile add %s", name, errProfile, policy.Quote(owner), name)
		}
		_, exists := l.decided.Sources.Known[name]
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
		l.want(name, policy.WantUp)
		return nil
	})
}

// Set writes changes to the file of a lane that there is. The lane stays up or down.
func (l *Loop) Set(ctx context.Context, name string, changes map[string]any) (Status, error) {
	return l.change(ctx, name, 1, func() error {
		if err := l.exists(name); err != nil {
			return err
		}
		if _, ok := l.decided.Sources.Owner[name]; ok {
			return fmt.Errorf("%s is NetworkManager's: %w: uplane profile add %s", name, errProfile, name)
		}
		_, err := config.Edit(l.Dirs, name, changes)
		return err
	})
}

// Down takes a lane down until it is wanted up, or the next boot.
func (l *Loop) Down(ctx context.Context, name string) (Status, error) {
	defer l.awaitDrained(ctx)
	return l.change(ctx, name, removalPasses, func() error {
		if err := l.exists(name); err != nil {
			return err
		}
		// Of a profile that is down only the namespace can be left, which the lane's file wants.
		if owner, ok := l.decided.Sources.Owner[name]; ok && l.decided.Sources.Held[name] == "" {
			return fmt.Errorf("%s is NetworkManager's: %w: nmcli connection down %s", name, errProfile, policy.Quote(owner))
		}
		l.want(name, policy.WantDown)
		return nil
	})
}

// Remove takes a lane down and deletes its file and all that is remembered of it.
func (l *Loop) Remove(ctx context.Context, name string) error {
	defer l.awaitDrained(ctx)
	_, err := l.change(ctx, name, removalPasses, func() error {
		if err := l.exists(name); err != nil {
			return err
		}
		owner, profile := l.decided.Sources.Owner[name]
		if profile && !slices.ContainsFunc(l.config.Lanes, func(c config.Lane) bool { return c.Name == name }) && l.config.Broken[name] == nil {
			return fmt.Errorf("%s is NetworkManager's: %w: uplane profile remove %s, or nmcli connection delete %s", name, errProfile, name, policy.Quote(owner))
		}
		if err := config.Remove(l.Dirs, name); err != nil || profile {
			return err
		}
		l.forget(name)
		return nil
	})
	return err
}

// Connections of a lane that has gone mostly end with it. Who takes it down is answered when they have, or after
// drainPatience: a peer that goes on sending keeps the rest of the lane for as long as that lasts.
const (
	drainPatience = 3 * time.Second
	drainPoll     = 100 * time.Millisecond
)

// awaitDrained returns when no connection of a lane that has gone lives any more.
func (l *Loop) awaitDrained(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	for draining := true; draining; {
		if err := l.do(ctx, func() {
			if draining = len(l.memory.Draining) > 0; draining {
				l.passes(1)
			}
		}); err != nil || !draining {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(drainPoll):
		}
	}
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
		l.decided.Sources = l.survey()
		if _, known := l.decided.Sources.Known[name]; !known {
			if why := l.decided.Sources.Broken[name]; why != "" {
				err = errors.New(why)
			} else {
				err = l.exists(name)
			}
			return
		}
		var d policy.Decision
		if d, err = l.decide(name); err != nil {
			return
		}
		for _, st := range d.Lanes {
			if st.Lane.Name == name && st.State == policy.Error {
				err = errors.New(st.Reason)
				return
			}
		}
		for _, op := range d.Ops {
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
		l.decided.Sources = l.survey()
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
	_, known := l.decided.Sources.Known[name]
	_, broken := l.decided.Sources.Broken[name]
	if !known && !broken {
		return fmt.Errorf("%s: %w", name, ErrNoLane)
	}
	return nil
}
