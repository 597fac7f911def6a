package bus

import (
	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"

	"uplane/internal/wire"
)

// maxCalls is how many calls are answered at once; more are refused.
const maxCalls = 64

// D-Bus's own names for mistakes of the caller.
const (
	invalidArgs    = "org.freedesktop.DBus.Error.InvalidArgs"
	limitsExceeded = "org.freedesktop.DBus.Error.LimitsExceeded"
	unknownMethod  = "org.freedesktop.DBus.Error.UnknownMethod"
)

// receive takes a call from the goroutine that reads the connection, which must not wait.
func (s *Server) receive(c *wire.Call) {
	select {
	case s.slots <- struct{}{}:
		go func() {
			defer func() { <-s.slots }()
			s.answer(c)
		}()
	default:
		go c.Fail(limitsExceeded, "too many calls at once; try again")
	}
}

func (s *Server) answer(c *wire.Call) {
	if c.Err != nil {
		c.Fail(invalidArgs, c.Err.Error())
		return
	}
	iface, _ := c.Headers[dbus.FieldInterface].Value().(string)
	member, _ := c.Headers[dbus.FieldMember].Value().(string)
	path, _ := c.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	switch {
	case iface == "org.freedesktop.DBus.Peer" && member == "Ping":
		c.Reply()
		return
	case path != Path:
		c.Fail("org.freedesktop.DBus.Error.UnknownObject", "there is only "+string(Path))
		return
	case iface == "org.freedesktop.DBus.Introspectable" && member == "Introspect":
		c.Reply(introspection())
		return
	case iface != Interface && iface != "":
		c.Fail("org.freedesktop.DBus.Error.UnknownInterface", "there is only "+Interface)
		return
	}
	out, err := methods{s}.call(member, c.Body)
	if err != nil {
		c.Fail(err.Name, err.Error())
		return
	}
	c.Reply(out...)
}

// call calls the method of that name.
func (m methods) call(member string, args []any) ([]any, *dbus.Error) {
	var lane string
	var changes dict
	take := func(to ...any) *dbus.Error {
		if len(args) != len(to) {
			return dbus.NewError(invalidArgs, []any{"wrong number of arguments"})
		}
		if err := dbus.Store(args, to...); err != nil {
			return dbus.NewError(invalidArgs, []any{err.Error()})
		}
		return nil
	}
	one := func(v any, err *dbus.Error) ([]any, *dbus.Error) { return []any{v}, err }
	var err *dbus.Error
	switch member {
	case "List":
		if err = take(); err == nil {
			return one(m.List())
		}
	case "Up":
		if err = take(&lane, &changes); err == nil {
			return one(m.Up(lane, changes))
		}
	case "Down":
		if err = take(&lane); err == nil {
			return one(m.Down(lane))
		}
	case "Remove":
		if err = take(&lane); err == nil {
			return nil, m.Remove(lane)
		}
	case "Reload":
		if err = take(); err == nil {
			return one(m.Reload())
		}
	case "Plan":
		if err = take(&lane); err == nil {
			return one(m.Plan(lane))
		}
	default:
		err = dbus.NewError(unknownMethod, []any{"no such method: " + wire.Text(member)})
	}
	return nil, err
}

// introspection describes the one object there is.
func introspection() string {
	return string(introspect.NewIntrospectable(&introspect.Node{
		Name: string(Path),
		Interfaces: []introspect.Interface{introspect.IntrospectData, {
			Name: Interface, Methods: introspect.Methods(methods{}), Signals: []introspect.Signal{{Name: "Changed"}},
		}},
	}))
}
