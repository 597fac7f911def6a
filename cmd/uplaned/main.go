// Command uplaned keeps lanes true: it follows NetworkManager and the kernel,
// and serves the D-Bus API.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"golang.org/x/sync/errgroup"

	"uplane/internal/bus"
	"uplane/internal/config"
	"uplane/internal/kernel"
	"uplane/internal/reconcile"
	"uplane/internal/state"
	"uplane/nm"
)

func main() { os.Exit(run(os.Args[1:], os.Stderr)) }

type options struct {
	configDir, libDir, stateDir, runtimeDir string
	verbose                                 bool
}

func run(args []string, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("uplaned", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.configDir, "config-dir", "/etc/uplane", "the administrator's lane files and uplane.toml")
	flags.StringVar(&o.stateDir, "state-dir", "/var/lib/uplane", "what lanes were given, kept across reboots")
	flags.StringVar(&o.runtimeDir, "runtime-dir", "/run/uplane", "what was changed on the host, until the next boot")
	flags.BoolVar(&o.verbose, "verbose", false, "log what is waited for, too")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	o.libDir = "/usr/lib/uplane"
	if err := serve(o, stderr); err != nil {
		fmt.Fprintln(stderr, "uplaned:", err)
		return 1
	}
	return 0
}

func serve(o options, stderr io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("must run as root: it makes namespaces, routes and firewall rules")
	}
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	debug.SetGCPercent(50) // a daemon that mostly sleeps: memory is dearer than the rare collection

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	states, err := state.OpenState(o.stateDir)
	if err != nil {
		log.Warn("state", "error", err)
	}
	runs, err := state.OpenRun(o.runtimeDir)
	if err != nil {
		log.Warn("state", "error", err)
	}
	dirs := config.Dirs{Etc: o.configDir, Run: o.runtimeDir, Lib: o.libDir}
	cfg, _ := config.Load(dirs)
	firewall, err := openFirewall(log, cfg.Firewall, runs.Get().Tables)
	if err != nil {
		return err
	}

	trigger := reconcile.NewTrigger()
	watcher := nm.NewWatcher(nm.Options{Log: log, Changed: trigger.Poke})
	kern, err := kernel.Open(log, trigger.Poke)
	if err != nil {
		return err
	}
	defer kern.Close()
	var server *bus.Server
	loop := reconcile.New(reconcile.Options{
		Trigger: trigger, Log: log, Dirs: dirs, Kernel: kern, Firewall: firewall, Grace: kernel.Grace, States: states, Runs: runs,
		Uplinks: func() reconcile.Uplinks {
			s := watcher.Snapshot()
			return reconcile.Uplinks{All: s.Uplinks, Known: s.Known, Running: s.Running}
		},
		Changed: func(all []reconcile.Status) { server.Update(toLanes(all)) },
	})
	server = bus.NewServer(bus.Options{Manager: manager{loop}, Log: log, Resumed: func() {
		// Nobody heard what happened to the kernel while the machine slept.
		log.Info("woken up from sleep; looking at everything again")
		kern.Invalidate()
		trigger.Poke()
	}})
	service := newService(log, loop)

	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return watcher.Run(gctx) })
	group.Go(func() error { watchFirewall(gctx, log, firewall, trigger.Poke); return nil })
	group.Go(func() error { return loop.Run(gctx) })
	group.Go(func() error { return server.Run(gctx) })
	group.Go(func() error { service.run(gctx, server.Tried()); return nil })
	err = group.Wait()
	if ctx.Err() != nil {
		return nil // asked to end
	}
	return err
}
