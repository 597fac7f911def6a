package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"uplane/internal/daemon"
	"uplane/internal/systemd"
)

// service is the daemon as systemd sees it.
type service struct {
	log    *slog.Logger
	loop   *daemon.Loop
	hangup chan os.Signal
}

// newService catches SIGHUP from now on: one that comes early shall not end us.
func newService(log *slog.Logger, loop *daemon.Loop) *service {
	s := &service{log, loop, make(chan os.Signal, 1)}
	signal.Notify(s.hangup, syscall.SIGHUP)
	return s
}

// run tells systemd when lanes are as they shall be, which they are once ready
// is closed, reloads when it asks to, and keeps its watchdog quiet for as long as
// the loop is alive. Without a watchdog it never wakes up.
func (s *service) run(ctx context.Context, ready <-chan struct{}) {
	defer signal.Stop(s.hangup)
	select {
	case <-ctx.Done():
		return
	case <-ready:
		s.tell(systemd.Ready)
	}
	var tick <-chan time.Time
	interval := systemd.Watchdog() / 2
	if interval > 0 {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			s.tell(systemd.Stopping)
			return
		case <-s.hangup:
			s.tell(systemd.Reloading)
			if _, err := s.loop.Reload(ctx); err != nil { // what is wrong with files is logged there
				s.log.Error("reload", "error", err)
			}
			s.tell(systemd.Ready)
		case <-tick:
			s.ping(ctx, interval)
		}
	}
}

func (s *service) ping(ctx context.Context, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.loop.Ping(ctx); err != nil {
		s.log.Error("the loop does not answer; the watchdog will end this", "error", err)
		return
	}
	s.tell(systemd.Alive)
}

func (s *service) tell(what func() error) {
	if err := what(); err != nil {
		s.log.Warn("systemd", "error", err)
	}
}
