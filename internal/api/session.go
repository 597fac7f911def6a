package api

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/internal/busguard"
)

// session is a server's connection to the bus.
type session struct {
	server     *Server
	conn       *dbus.Conn
	authorizer Authorizer
	ready      chan struct{} // closed when the above are there

	mu        sync.Mutex // held while signals and answers are sent
	latest    *[]Lane    // from which published was made
	published []Lane     // the lanes as the bus last heard of them, by name

	unidentified quota[struct{}]
	senders      quota[string]
	users        quota[uint32]
	refusals     refusals

	callerMu sync.Mutex
	uids     map[string]uint32
	waiting  map[string]map[*int]func() // by unique name: what to call when it leaves the bus
}

// connectTimeout bounds what is asked of the bus at first.
const connectTimeout = 10 * time.Second

// connect connects to the bus, with all in place before the name is taken: who
// sees the name may call at once.
func (s *Server) connect(ctx context.Context) (*session, error) {
	latest := s.lanes.Load()
	ss := &session{
		server: s, ready: make(chan struct{}), latest: latest, published: *latest,
		uids: map[string]uint32{}, waiting: map[string]map[*int]func(){},
	}
	conn, err := busguard.Connect(ctx, s.Address, ss.admit, dbus.WithSignalHandler(ss))
	if err != nil {
		return nil, err
	}
	ss.conn, ss.authorizer = conn, s.Authorizer(conn)
	close(ss.ready)
	if err := ss.begin(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return ss, nil
}

func (s *session) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := s.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(login), dbus.WithMatchInterface(loginManager),
		dbus.WithMatchMember("PrepareForSleep")); err != nil {
		return fmt.Errorf("hear of sleep: %w", err)
	}
	err := s.takeName(ctx, 0)
	if errors.Is(err, ErrNameTaken) && s.ownedByPredecessor(ctx) {
		err = s.takeName(ctx, dbus.NameFlagReplaceExisting)
	}
	s.server.predecessor = s.conn.Names()[0]
	return err
}

func (s *session) takeName(ctx context.Context, flags dbus.RequestNameFlags) error {
	var reply uint32
	flags |= dbus.NameFlagDoNotQueue | dbus.NameFlagAllowReplacement
	if err := s.conn.BusObject().CallWithContext(ctx, driver+".RequestName", 0, Name, uint32(flags)).Store(&reply); err != nil {
		return fmt.Errorf("take the bus name: %w", err)
	}
	if dbus.RequestNameReply(reply) != dbus.RequestNameReplyPrimaryOwner {
		return ErrNameTaken
	}
	return nil
}

// ownedByPredecessor tells whether our last connection still has the name: a bus
// that has stopped reading from it does not notice its end.
func (s *session) ownedByPredecessor(ctx context.Context) bool {
	var owner string
	err := s.conn.BusObject().CallWithContext(ctx, driver+".GetNameOwner", 0, Name).Store(&owner)
	return err == nil && owner == s.server.predecessor
}

// follow tells of changes until the connection ends.
func (s *session) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.conn.Context().Done():
			s.server.Log.Warn("the system bus went away; lanes go on")
			return
		case <-s.server.updated:
			s.mu.Lock()
			s.sync()
			s.mu.Unlock()
		}
	}
}

const (
	login        = "org.freedesktop.login1"
	loginManager = login + ".Manager"
)

// DeliverSignal is called where the connection is read. The senders are those
// of the match rules; package busguard sees to that.
func (s *session) DeliverSignal(_, _ string, signal *dbus.Signal) {
	switch signal.Name {
	case driver + ".NameLost":
		select {
		case <-s.ready:
			if len(signal.Body) == 1 && signal.Body[0] == Name {
				s.conn.Close() // to see who has it
			}
		default:
		}
	case driver + ".NameOwnerChanged":
		if len(signal.Body) == 3 && signal.Body[2] == "" {
			name, _ := signal.Body[0].(string)
			s.senderLeft(name)
		}
	case loginManager + ".PrepareForSleep":
		if len(signal.Body) == 1 && signal.Body[0] == false && s.server.Resumed != nil {
			s.server.Resumed()
		}
	}
}
