package api

import (
	"context"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/policy"
)

// Action is what a caller has to be allowed, as polkit knows it.
type Action string

// The actions. Their meaning and defaults are in packaging/polkit/org.uplane.policy.
const (
	Read   Action = "org.uplane.lanes.read"
	Use    Action = "org.uplane.lanes.use"
	Manage Action = "org.uplane.lanes.manage"
)

func always(a Action) func(*request) Action { return func(*request) Action { return a } }

// Authorizer decides about callers that are not root.
type Authorizer interface {
	// Authorize returns nil if the program may do what it asks for.
	Authorize(ctx context.Context, q Question) error
}

// Question is what an [Authorizer] decides.
type Question struct {
	Sender      string // the program's unique name on the bus
	Action      Action
	Lane        string // empty: all lanes, or none in particular
	Interactive bool   // the program agreed to wait while the user is asked
}

// How long an answer may take: a person looks for a password, polkit's rules
// may run programs.
const (
	personTimeout = 5 * time.Minute
	rulesTimeout  = 20 * time.Second
)

// authorize returns nil if the request's caller, of that user, may make it.
func (s *session) authorize(r *request, uid uint32) error {
	if r.method.needs == nil {
		return nil
	}
	r.allowed = r.method.needs(r)
	if uid == 0 {
		return nil
	}
	q := Question{
		Sender: r.Sender, Action: r.allowed, Lane: r.laneName(),
		Interactive: r.Flags&dbus.FlagAllowInteractiveAuthorization != 0,
	}
	if !q.Interactive {
		ctx, cancel := context.WithTimeout(r.ctx, rulesTimeout)
		defer cancel()
		return s.authorizer.Authorize(ctx, q)
	}
	ctx, cancel := context.WithTimeout(r.ctx, personTimeout)
	defer cancel()
	// Nobody shall type a password for a program that has gone.
	forget, err := s.watch(ctx, r.Sender, cancel)
	if err != nil {
		return err
	}
	defer forget()
	return s.authorizer.Authorize(ctx, q)
}

// laneName is the lane that the request is about, if it is one's name.
func (r *request) laneName() string {
	if r.lane != "" {
		return r.lane
	}
	if strings.HasPrefix(r.method.in, "name:s") {
		if name := arg[string](r, 0); policy.CheckLaneName(name) == nil {
			return name
		}
	}
	return ""
}

// uid is the user that the bus has for a program.
func (s *session) uid(ctx context.Context, sender string) (uint32, error) {
	s.callerMu.Lock()
	uid, known := s.uids[sender]
	s.callerMu.Unlock()
	if known {
		return uid, nil
	}
	err := s.conn.BusObject().CallWithContext(ctx, driver+".GetConnectionUnixUser", 0, sender).Store(&uid)
	if err != nil {
		return 0, Errorf(NotAuthorized, "the bus does not know who asks: %v", err)
	}
	s.callerMu.Lock()
	defer s.callerMu.Unlock()
	if len(s.uids) >= maxUIDs {
		clear(s.uids)
	}
	s.uids[sender] = uid // for good: a bus never gives a unique name twice
	return uid, nil
}

// maxUIDs bounds what is known of programs that may have gone.
const maxUIDs = 1024

// watch calls gone when a program leaves the bus, until forget is called.
func (s *session) watch(ctx context.Context, sender string, gone func()) (forget func(), err error) {
	rule := []dbus.MatchOption{
		dbus.WithMatchSender(driver), dbus.WithMatchInterface(driver),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, sender),
	}
	if err := s.conn.AddMatchSignalContext(ctx, rule...); err != nil {
		return nil, err
	}
	id := new(int)
	s.callerMu.Lock()
	if s.waiting[sender] == nil {
		s.waiting[sender] = map[*int]func(){}
	}
	s.waiting[sender][id] = gone
	s.callerMu.Unlock()
	forget = func() {
		s.callerMu.Lock()
		if delete(s.waiting[sender], id); len(s.waiting[sender]) == 0 {
			delete(s.waiting, sender)
		}
		s.callerMu.Unlock()
		_ = s.conn.RemoveMatchSignal(rule...)
	}
	var there bool
	if err := s.conn.BusObject().CallWithContext(ctx, driver+".NameHasOwner", 0, sender).Store(&there); err != nil || !there {
		forget()
		return nil, Errorf(NotAuthorized, "who asked has gone")
	}
	return forget, nil
}

// senderLeft cancels what a program that left the bus was waiting for.
func (s *session) senderLeft(name string) {
	s.callerMu.Lock()
	defer s.callerMu.Unlock()
	for _, gone := range s.waiting[name] {
		gone()
	}
}
