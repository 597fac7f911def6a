package api

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"
)

// Options are a server's surroundings.
type Options struct {
	Manager Manager
	Log     *slog.Logger
	// Address is the bus to serve on; empty: the system bus.
	Address string
	// Authorizer makes who decides about callers, on a connection; nil: [Polkit].
	Authorizer func(*dbus.Conn) Authorizer
	// Resumed is called when the machine has woken up from sleep. It must not wait.
	Resumed func()
}

// Server offers a Manager, and the lanes it is shown, on the bus.
type Server struct {
	Options
	lanes   atomic.Pointer[[]Lane] // by name; nil: not shown yet
	updated chan struct{}
	tried   chan struct{}

	predecessor string // the last session's unique name; Run's goroutine's
}

// NewServer prepares a server; Run starts it.
func NewServer(o Options) *Server {
	if o.Authorizer == nil {
		o.Authorizer = Polkit
	}
	return &Server{Options: o, updated: make(chan struct{}, 1), tried: make(chan struct{})}
}

// Update shows the server how all lanes are now, sorted by name. It never waits;
// the server keeps the slice.
func (s *Server) Update(lanes []Lane) {
	s.lanes.Store(&lanes)
	select {
	case s.updated <- struct{}{}:
	default:
	}
}

// has tells whether there is a lane of that name.
func (s *Server) has(name string) bool { return find(*s.lanes.Load(), name) != nil }

// Tried is closed when the server has been shown the lanes and is on the bus,
// or found that it can't be yet.
func (s *Server) Tried() <-chan struct{} { return s.tried }

// ErrNameTaken says that another daemon is running.
var ErrNameTaken = errors.New("the bus name " + Name + " is taken: another uplaned is running")

// Run serves until ctx is done, from the first Update on. A bus that goes away
// is waited for; only a taken name is final.
func (s *Server) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.updated:
	}
	const shortest, longest = 100 * time.Millisecond, 5 * time.Second
	wait := shortest
	for first := true; ; first = false {
		session, err := s.connect(ctx)
		if first {
			close(s.tried)
		}
		switch {
		case errors.Is(err, ErrNameTaken):
			return err
		case err != nil:
			s.Log.Debug("system bus", "error", err, "retry", wait)
		default:
			wait = shortest
			session.follow(ctx)
			session.conn.Close()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
			wait = min(2*wait, longest)
		}
	}
}
