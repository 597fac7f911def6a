// Command uplaned keeps lanes right: it follows NetworkManager and the kernel,
// and serves the D-Bus API.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	flag "github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"uplane/internal/api"
	"uplane/internal/daemon"
	"uplane/internal/run/spawn"
	"uplane/internal/state"
	"uplane/internal/units"
	"uplane/internal/version"
	"uplane/nm"
)

func main() {
	// The daemon itself starts this, for a user's program.
	if len(os.Args) == 2 && os.Args[1] == spawn.ChildCommand {
		os.Exit(spawn.RunChild())
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

type options struct {
	daemon.Paths
	verbose, version bool
}

func (o *options) flags(f *flag.FlagSet) {
	o.Flags(f)
	f.BoolVar(&o.verbose, "verbose", false, "log what is waited for, too")
	f.BoolVar(&o.version, "version", false, "say which build this is")
}

func run(args []string, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("uplaned", flag.ContinueOnError)
	flags.SetOutput(stderr)
	o.flags(flags)
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if o.version {
		fmt.Fprintln(stdout, version.Text("uplaned"))
		return 0
	}
	if err := serve(o, stderr); err != nil {
		fmt.Fprintln(stderr, "uplaned:", err)
		return 1
	}
	return 0
}

// memoryLimit, in bytes, is what the collector aims at after a thousand lanes were built at once,
// which leaves more garbage behind than ever comes again. It is no bound: more lanes take more.
const memoryLimit = 56 << 20

func serve(o options, stderr io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("must run as root: it makes namespaces, routes and firewall rules")
	}
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	debug.SetMemoryLimit(memoryLimit)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	self, err := os.Executable()
	if err != nil {
		return err
	}
	trigger := daemon.NewTrigger()
	watcher := nm.NewWatcher(nm.Options{Log: log, Changed: trigger.Poke})
	var server *api.Server
	targets := units.New(units.Options{Log: log})
	d, err := daemon.Open(ctx, daemon.Options{
		Paths: o.Paths, Log: log, Holder: state.Daemon, Trigger: trigger,
		NM: watcher.Snapshot,
		Changed: func(all []daemon.Status) {
			server.Update(toLanes(all))
			targets.Update(daemon.Up(all))
		},
	})
	if err != nil {
		return err
	}
	defer d.Close()
	running := &spawn.Manager{Uplane: spawn.Beside(self)}
	server = api.NewServer(api.Options{Manager: manager{d.Loop, running}, Log: log, Resumed: func() {
		// Nobody heard what happened to the kernel while the machine slept.
		log.Info("woken up from sleep; looking at everything again")
		d.Resync()
	}})
	service := newService(log, d.Loop)

	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return watcher.Run(gctx) })
	group.Go(func() error { return d.Follow(gctx) })
	group.Go(func() error { return server.Run(gctx) })
	group.Go(func() error { return targets.Run(gctx) })
	group.Go(func() error { return running.Follow(gctx, log) })
	group.Go(func() error { service.run(gctx, server.Tried()); return nil })
	err = group.Wait()
	if ctx.Err() != nil {
		return nil // asked to end
	}
	return err
}
