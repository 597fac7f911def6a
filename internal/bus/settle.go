package bus

import (
	"context"
	"time"

	"github.com/godbus/dbus/v5"
)

// settleLimit is how long Settle waits at most. A caller may give up earlier.
const settleLimit = 5 * time.Second

// settle waits until the lanes have followed what happened to an interface, by
// the profile with that UUID if one is given.
func settle(r *request) ([]any, error) {
	ctx, cancel := context.WithTimeout(r.ctx, settleLimit)
	defer cancel()
	return nil, r.manager().Settle(ctx, arg[string](r, 0), arg[string](r, 1))
}

// Settle waits until the lanes have followed what happened to an interface, by
// the profile with that UUID unless it is empty; 5 s at most. The bus starts a
// daemon that is not running; ErrNoDaemon says that this can't be.
func (c *Client) Settle(ctx context.Context, iface, uuid string) error {
	return c.call(ctx, Path, ManagerInterface+".Settle", nil, iface, uuid)
}

// startPatience is how long Tell waits for the bus to say that there is no daemon to be
// started, which takes it some milliseconds. Of one that fails to start it says nothing for 25 s.
const startPatience = time.Second

// Tell has the daemon look again, without waiting for it. The bus starts one that
// is not running, which then looks anyway; ErrNoDaemon says that this can't be.
func (c *Client) Tell(ctx context.Context, iface string) error {
	running, err := c.Running(ctx)
	if err != nil {
		return err
	}
	if running {
		return c.conn.Object(Name, Path).CallWithContext(ctx, ManagerInterface+".Settle", dbus.FlagNoReplyExpected, iface, "").Err
	}
	start, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	err = c.conn.BusObject().CallWithContext(start, driver+".StartServiceByName", 0, Name, uint32(0)).Err
	if err == nil || start.Err() != nil {
		return ctx.Err()
	}
	return c.explain(ctx, err)
}

// Running tells whether a daemon is on the bus.
func (c *Client) Running(ctx context.Context) (yes bool, err error) {
	err = c.conn.BusObject().CallWithContext(ctx, driver+".NameHasOwner", 0, Name).Store(&yes)
	return yes, err
}
