// Package engine puts together what lanes are kept with: configuration, memory,
// kernel, firewall and the loop over them. The daemon follows with it, "uplane
// apply" runs it once.
package engine

import (
	"context"

	"log/slog"
	"time"

	flag "github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"uplane/internal/config"
	"uplane/internal/daemon"
	"uplane/internal/firewall"
	"uplane/internal/kernel"
	"uplane/internal/state"
	"uplane/nm"
)

// Paths are the folders that may be elsewhere.
type Paths struct{ Config, State, Runtime string }

// lib is where packages put lane files.
const lib = "/usr/lib/uplane"

// Flags adds a flag for every path.
func (p *Paths) Flags(f *flag.FlagSet) {
	f.StringVar(&p.Config, "config-dir", "/etc/uplane", "the administrator's lane files and uplane.toml")
	f.StringVar(&p.State, "state-dir", "/var/lib/uplane", "what lanes were given, kept across reboots")
	f.StringVar(&p.Runtime, "runtime-dir", "/run/uplane", "what was changed on the host, until the next boot")
}

// Options are an Engine's surroundings.
type Options struct {
	Paths
	Log     *slog.Logger
	Holder  string         // of the lock: state.Daemon or state.OneShot
	Trigger daemon.Trigger // nil: nothing is followed
	Uplinks func() nm.Snapshot
	Changed func([]daemon.Status) // see [daemon.Options]; may be nil
}

// Engine is the loop and what it works with.
type Engine struct {
	*daemon.Loop
	log      *slog.Logger
	lock     *state.Lock
	kernel   *kernel.Kernel
	firewall *firewall.Firewall
}

// lockPatience is how long a one-shot run of another process may take.
const lockPatience = 10 * time.Second

// Open takes the lock and prepares everything; nothing is changed yet, except
// that the chains of another firewall backend go. The caller closes it.
func Open(ctx context.Context, o Options) (_ *Engine, err error) {
	e := &Engine{log: o.Log}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	lctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	if e.lock, err = state.Acquire(lctx, o.Runtime, o.Holder); err != nil {
		return nil, err
	}
	states, err := state.OpenState(o.State)
	if err != nil {
		o.Log.Warn("state", "error", err)
	}
	runs, err := state.OpenRun(o.Runtime)
	if err != nil {
		o.Log.Warn("state", "error", err)
	}
	dirs := config.Dirs{Etc: o.Config, Run: o.Runtime, Lib: lib}
	cfg, _ := config.Load(dirs)
	if e.firewall, err = openFirewall(o.Log, cfg.Firewall, runs.Get().Tables); err != nil {
		return nil, err
	}
	var changed func()
	if o.Trigger != nil {
		changed = o.Trigger.Poke
	}
	if e.kernel, err = kernel.Open(o.Log, changed); err != nil {
		return nil, err
	}
	e.Loop = daemon.New(daemon.Options{
		Trigger: o.Trigger, Log: o.Log, Dirs: dirs, Kernel: e.kernel, Firewall: e.firewall, Grace: kernel.Grace, States: states, Runs: runs,
		Uplinks: func() daemon.Uplinks {
			s := o.Uplinks()
			return daemon.Uplinks{All: s.Uplinks, Profiles: s.Profiles, Known: s.Known, Running: s.Running}
		},
		Changed: o.Changed,
	})
	return e, nil
}

// Follow keeps the lanes true until ctx is done.
func (e *Engine) Follow(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { watchFirewall(ctx, e.log, e.firewall, e.Poke); return nil })
	group.Go(func() error { return e.Run(ctx) })
	return group.Wait()
}

// Resync looks at everything again, whatever was heard of it.
func (e *Engine) Resync() {
	e.kernel.Invalidate()
	e.Poke()
}

// Close lets others have the lanes, which stay as they are.
func (e *Engine) Close() {
	if e.kernel != nil {
		e.kernel.Close()
	}
	if e.lock != nil {
		e.lock.Release()
	}
}
