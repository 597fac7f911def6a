package api

import (
	"runtime/debug"

	"github.com/godbus/dbus/v5"

	"uplane/internal/busguard"
)

// admit takes a call or refuses it. It runs where the connection is read.
func (s *session) admit(c *busguard.Call) {
	select {
	case <-s.ready:
	default:
		return // who calls before there is a name has guessed a number
	}
	if c.Err != nil {
		s.refusals.answer(c, protocolError(invalidArgs, "%v", c.Err))
		return
	}
	if !s.unidentified.enter(struct{}{}, maxUnidentified) {
		s.refusals.answer(c, errTooMany)
		return
	}
	if !s.senders.enter(c.Sender, maxPerSender) {
		s.unidentified.leave(struct{}{})
		s.refusals.answer(c, errTooMany)
		return
	}
	go s.handle(c)
}

var errTooMany = protocolError(limitsExceeded, "too many calls at a time")

// handle answers a call.
func (s *session) handle(c *busguard.Call) {
	defer s.senders.leave(c.Sender)
	r := &request{Call: c, ctx: s.conn.Context(), session: s}
	body, err := s.serve(r)
	if err == errTooMany {
		s.refusals.answer(c, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sync()
	if err == nil && r.method.reads {
		body, err = r.do()
	}
	if err != nil {
		c.Fail(busError(err))
		return
	}
	c.Reply(body...)
}

// serve authorizes a call and carries out what is not merely read.
func (s *session) serve(r *request) (body []any, err error) {
	uid, err := s.identify(r)
	if err != nil {
		return nil, err
	}
	most := maxPerUser
	if uid == 0 || uid == anybody {
		most = maxRoot
	}
	if !s.users.enter(uid, most) {
		return nil, errTooMany
	}
	defer s.users.leave(uid)
	r.uid = uid
	if err := s.authorize(r, uid); err != nil || r.method.reads {
		return nil, err
	}
	if r.method.process {
		if r.caller, err = s.caller(r.ctx, r.Sender); err != nil {
			return nil, err
		}
	}
	return r.do()
}

// identify finds the method that is called, and the caller's user.
func (s *session) identify(r *request) (uid uint32, err error) {
	defer s.unidentified.leave(struct{}{})
	if err := r.resolve(); err != nil {
		return 0, err
	}
	if r.method.needs == nil {
		return anybody, nil
	}
	return s.uid(r.ctx, r.Sender)
}

// anybody stands for those whose user does not matter.
const anybody = ^uint32(0)

// resolve finds the method and checks the types of the arguments.
func (r *request) resolve() error {
	r.path, _ = r.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	name, _ := r.Headers[dbus.FieldInterface].Value().(string)
	member, _ := r.Headers[dbus.FieldMember].Value().(string)
	got, _ := r.Headers[dbus.FieldSignature].Value().(dbus.Signature)

	interfaces, lane := interfacesAt(r.path)
	if interfaces == nil {
		return protocolError(unknownObject, "no object %.80q", string(r.path))
	}
	r.lane = lane
	known := name == ""
	for _, i := range interfaces {
		if name != "" && i.name != name {
			continue
		}
		known = true
		for at := range i.methods {
			if i.methods[at].name != member {
				continue
			}
			r.method = &i.methods[at]
			if want := signature(r.method.in); got.String() != want {
				return protocolError(invalidArgs, "%s takes %q, not %.80q", member, want, got.String())
			}
			return nil
		}
	}
	if !known {
		return protocolError(unknownInterface, "%s has no interface %.80q", r.path, name)
	}
	return protocolError(unknownMethod, "no method %.80q", member)
}

// do runs the method. A panic is the caller's error, and the daemon lives on.
func (r *request) do() (body []any, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.session.server.Log.Error("panic", "method", r.method.name, "value", p, "stack", string(debug.Stack()))
			err = Errorf(Failed, "internal error: %v", p)
		}
	}()
	if r.lane != "" && !r.exists() {
		return nil, protocolError(unknownObject, "no lane %q", r.lane)
	}
	return r.method.run(r)
}

func (r *request) exists() bool {
	if r.method.reads {
		return r.session.find(r.lane) != nil
	}
	return r.session.server.has(r.lane)
}
