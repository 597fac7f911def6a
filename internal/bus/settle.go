package bus

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// settleLimit is how long Settle waits at most. A caller may give up earlier.
const settleLimit = 5 * time.Second

// Settle waits until the lanes have followed what happened to an interface, by
// the profile with that UUID if one is given.
func (m methods) Settle(iface, uuid string) *dbus.Error {
	ctx, cancel := context.WithTimeout(context.Background(), settleLimit)
	defer cancel()
	return failure(m.s.manager.Settle(ctx, iface, uuid))
}

// Tell has the daemon look again, without waiting for it. The bus starts one that
// is not running, which then looks anyway; ErrNoDaemon says that this can't be.
func (c *Client) Tell(ctx context.Context, iface string) error {
	running, err := c.Running(ctx)
	if err != nil {
		return err
	}
	if running {
		return c.object.CallWithContext(ctx, Interface+".Settle", dbus.FlagNoReplyExpected, iface, "").Err
	}
	err = c.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.StartServiceByName", 0, Name, uint32(0)).Err
	if absent(err) {
		return ErrNoDaemon
	}
	return err
}

// Settle is the client's side. As Tell it has the bus start the daemon.
func (c *Client) Settle(ctx context.Context, iface, uuid string) error {
	err := c.object.CallWithContext(ctx, Interface+".Settle", 0, iface, uuid).Err
	if absent(err) {
		return ErrNoDaemon
	}
	return err
}

// absent tells whether an error means that nobody has our name and nobody could
// be started to take it. A daemon that only does not answer gives none of these.
func absent(err error) bool {
	var derr dbus.Error
	if !errors.As(err, &derr) {
		return false
	}
	switch derr.Name {
	case "org.freedesktop.DBus.Error.ServiceUnknown", // no activation file
		"org.freedesktop.DBus.Error.NameHasNoOwner",
		"org.freedesktop.DBus.Error.NoReply": // it ended over the call
		return true
	}
	// systemd's word for a unit that is masked or not there, and the bus's for a
	// program that is not there or ends at once.
	return strings.HasPrefix(derr.Name, "org.freedesktop.systemd1.") || strings.HasPrefix(derr.Name, "org.freedesktop.DBus.Error.Spawn.")
}

// Running tells whether a daemon is on the bus.
func (c *Client) Running(ctx context.Context) (yes bool, err error) {
	err = c.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, Name).Store(&yes)
	return yes, err
}
