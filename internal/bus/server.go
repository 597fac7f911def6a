package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/internal/wire"
)

// Manager is what the server needs of the daemon.
type Manager interface {
	List(ctx context.Context) ([]Lane, error)
	Up(ctx context.Context, lane string, changes map[string]any) (Lane, error)
	Down(ctx context.Context, lane string) (Lane, error)
	Remove(ctx context.Context, lane string) error
	Reload(ctx context.Context) (problems []error, err error)
	Plan(ctx context.Context, lane string) ([]string, error)
	Settle(ctx context.Context, iface, uuid string) error
}

// Server offers a Manager on the system bus.
type Server struct {
	manager Manager
	log     *slog.Logger
	changed chan struct{}
	slots   chan struct{} // one for each call that is being answered
}

// NewServer prepares a server; Run starts it.
func NewServer(m Manager, log *slog.Logger) *Server {
	return &Server{m, log, make(chan struct{}, 1), make(chan struct{}, maxCalls)}
}

// Changed makes the server tell its clients that a lane changed. It never blocks.
func (s *Server) Changed() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// ErrNameTaken says that another daemon is running.
var ErrNameTaken = errors.New("the bus name " + Name + " is taken: another uplaned is running")

// Run serves until ctx is done. A bus that goes away is waited for; only a
// taken name is final.
func (s *Server) Run(ctx context.Context) error {
	const shortest, longest = 100 * time.Millisecond, 5 * time.Second
	wait := shortest
	for {
		conn, err := s.connect(ctx)
		switch {
		case errors.Is(err, ErrNameTaken):
			return err
		case err != nil:
			s.log.Debug("system bus", "error", err, "retry", wait)
		default:
			wait = shortest
			s.serve(ctx, conn)
			conn.Close()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
			wait = min(2*wait, longest)
		}
	}
}

// serve tells of changes until the connection ends.
func (s *Server) serve(ctx context.Context, conn *dbus.Conn) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-conn.Context().Done():
			s.log.Warn("the system bus went away; lanes go on")
			return
		case <-s.changed:
			if err := conn.Emit(Path, Interface+".Changed"); err != nil {
				s.log.Warn("emit Changed", "error", err)
			}
		}
	}
}

// connect takes the name last: who sees it may call at once.
func (s *Server) connect(ctx context.Context) (*dbus.Conn, error) {
	conn, err := wire.Connect(ctx, "", s.receive)
	if err != nil {
		return nil, err
	}
	if err := takeName(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func takeName(conn *dbus.Conn) error {
	reply, err := conn.RequestName(Name, dbus.NameFlagDoNotQueue)
	if err != nil {
		return fmt.Errorf("take the bus name: %w", err)
	}
	if reply != dbus.RequestNameReplyPrimaryOwner {
		return ErrNameTaken
	}
	return nil
}

// methods are the Manager's, in D-Bus's types.
type methods struct{ s *Server }

func (m methods) List() ([]dict, *dbus.Error) {
	lanes, err := m.s.manager.List(context.Background())
	out := make([]dict, len(lanes))
	for i, l := range lanes {
		out[i] = l.dict()
	}
	return out, failure(err)
}

func (m methods) Up(lane string, changes dict) (dict, *dbus.Error) {
	plain := make(map[string]any, len(changes))
	for k, v := range changes {
		plain[k] = v.Value()
	}
	l, err := m.s.manager.Up(context.Background(), lane, plain)
	return l.dict(), failure(err)
}

func (m methods) Down(lane string) (dict, *dbus.Error) {
	l, err := m.s.manager.Down(context.Background(), lane)
	return l.dict(), failure(err)
}

func (m methods) Remove(lane string) *dbus.Error {
	return failure(m.s.manager.Remove(context.Background(), lane))
}

func (m methods) Reload() ([]string, *dbus.Error) {
	problems, err := m.s.manager.Reload(context.Background())
	out := make([]string, len(problems))
	for i, p := range problems {
		out[i] = p.Error()
	}
	return out, failure(err)
}

func (m methods) Plan(lane string) ([]string, *dbus.Error) {
	lines, err := m.s.manager.Plan(context.Background(), lane)
	if lines == nil {
		lines = []string{}
	}
	return lines, failure(err)
}

func failure(err error) *dbus.Error {
	if err == nil {
		return nil
	}
	return dbus.NewError(errorName+"Failed", []any{err.Error()})
}
