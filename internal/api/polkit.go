package api

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/godbus/dbus/v5"
)

// Polkit asks polkit. It is an [Authorizer] for the bus that it is on.
func Polkit(conn *dbus.Conn) Authorizer { return &polkit{conn: conn} }

type polkit struct {
	conn  *dbus.Conn
	asked atomic.Uint64
}

const (
	polkitName         = "org.freedesktop.PolicyKit1"
	polkitPath         = dbus.ObjectPath("/org/freedesktop/PolicyKit1/Authority")
	polkitAuthority    = polkitName + ".Authority"
	allowInteraction   = uint32(1)
	polkitSystemBus    = "system-bus-name" // of the subject; a process ID could be another process's by now
	polkitNotThere     = driver + ".Error.ServiceUnknown"
	polkitNotInstalled = driver + ".Error.Spawn.ServiceNotFound"
)

// subject is polkit's (sa{sv}).
type subject struct {
	Kind    string
	Details map[string]dbus.Variant
}

// verdict is polkit's (bba{ss}).
type verdict struct {
	Authorized, Challenge bool
	Details               map[string]string
}

// Authorize asks polkit about the program. Rules see the lane as
// action.lookup("lane").
func (p *polkit) Authorize(ctx context.Context, q Question) error {
	who := subject{polkitSystemBus, values{"name": dbus.MakeVariant(q.Sender)}}
	details := map[string]string{}
	if q.Lane != "" {
		details["lane"] = q.Lane
	}
	var flags uint32
	if q.Interactive {
		flags = allowInteraction
	}
	cancellation := fmt.Sprintf("uplane-%d", p.asked.Add(1))
	authority := p.conn.Object(polkitName, polkitPath)
	var v verdict
	err := authority.CallWithContext(ctx, polkitAuthority+".CheckAuthorization", 0, who, string(q.Action), details, flags, cancellation).Store(&v)
	if ctx.Err() != nil {
		// The dialogue goes away.
		authority.Go(polkitAuthority+".CancelCheckAuthorization", dbus.FlagNoReplyExpected|dbus.FlagNoAutoStart, nil, cancellation)
		return Errorf(NotAuthorized, "%s: nobody answered in time", q.Action)
	}
	return v.of(q, err)
}

// of turns the verdict, or the lack of one, into an error.
func (v verdict) of(q Question, err error) error {
	var derr dbus.Error
	switch {
	case errors.As(err, &derr) && (derr.Name == polkitNotThere || derr.Name == polkitNotInstalled):
		return Errorf(NotAuthorized, "%s: polkit is not there, so only root may", q.Action)
	case err != nil:
		return Errorf(NotAuthorized, "%s: ask polkit: %v", q.Action, err)
	case v.Authorized:
		return nil
	case v.Challenge && q.Interactive:
		return Errorf(NotAuthorized, "%s: polkit wants a password, and nothing in this session asks for it", q.Action)
	case v.Challenge:
		return protocolError(interactiveRequired, "%s: polkit wants a password, which the caller does not allow", q.Action)
	}
	return Errorf(NotAuthorized, "%s: not authorized", q.Action)
}
