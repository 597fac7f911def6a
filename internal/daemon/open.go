package daemon

import (
	"context"
	"log/slog"
	"time"

	flag "github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"uplane/internal/config"
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

// Options are a Daemon's surroundings.
type Options struct {
	Paths
	Log     *slog.Logger
	Holder  string  // of the lock: state.Daemon or state.OneShot
	Trigger Trigger // nil: nothing is followed
	NM      func() nm.Snapshot
	Changed func([]Status) // see [LoopOptions]; may be nil
}

// Daemon is the loop and what it works with.
type Daemon struct {
	*Loop
	lock   *state.Lock
	kernel *kernel.Kernel
	watch  *firewallWatch
}

// lockPatience is how long a one-shot run of another process may take.
const lockPatience = 10 * time.Second

// Open takes the lock and prepares everything; nothing is changed yet. The caller closes it.
func Open(ctx context.Context, o Options) (_ *Daemon, err error) {
	d := &Daemon{}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	lctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	if d.lock, err = state.Acquire(lctx, o.Runtime, o.Holder); err != nil {
		return nil, err
	}
	store, err := state.Open(o.State, o.Runtime)
	if err != nil {
		o.Log.Warn("state", "error", err)
	}
	var changed func()
	if o.Trigger != nil {
		changed = o.Trigger.Poke
	}
	if d.kernel, err = kernel.Open(o.Log, changed); err != nil {
		return nil, err
	}
	d.watch = &firewallWatch{log: o.Log, changed: o.Trigger.Poke, opened: make(chan *firewall.Firewall, 1)}
	d.Loop = NewLoop(LoopOptions{
		Trigger: o.Trigger, Log: o.Log, Dirs: config.Dirs{Etc: o.Config, Run: o.Runtime, Lib: lib},
		Kernel: d.kernel, Firewall: d.watch.open, NM: o.NM, Grace: kernel.Grace, Store: store, Changed: o.Changed,
	})
	return d, nil
}

// Follow keeps the lanes right until ctx is done.
func (d *Daemon) Follow(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { d.watch.run(ctx); return nil })
	group.Go(func() error { return d.Run(ctx) })
	return group.Wait()
}

// Resync looks at everything again, whatever was heard of it.
func (d *Daemon) Resync() {
	d.kernel.Invalidate()
	d.Poke()
}

// Close lets others have the lanes, which stay as they are.
func (d *Daemon) Close() {
	if d.kernel != nil {
		d.kernel.Close()
	}
	if d.lock != nil {
		d.lock.Release()
	}
}
