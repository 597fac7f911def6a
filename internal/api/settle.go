package api

import (
	"context"
	"time"
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
// daemon that is not running; ErrNoDaemon says that none came.
func (c *Client) Settle(ctx context.Context, iface, uuid string) error {
	if err := c.start(ctx, 2*startPatience); err != nil {
		return err
	}
	return c.call(ctx, Path, ManagerInterface+".Settle", nil, iface, uuid)
}

// Start has the bus start the daemon unless it runs; ErrNoDaemon says that none came.
func (c *Client) Start(ctx context.Context) error { return c.start(ctx, startPatience) }

// startPatience is how long a daemon may take to come onto the bus, which is some
// 100 ms; twice that where NetworkManager waits for it. Of one that ends at its
// start, or was stopped meanwhile, the bus says nothing for 25 s.
const startPatience = time.Second

// start has the bus start the daemon unless it runs.
func (c *Client) start(ctx context.Context, patience time.Duration) error {
	sctx, cancel := context.WithTimeoutCause(ctx, patience, ErrNoDaemon)
	defer cancel()
	err := c.conn.BusObject().CallWithContext(sctx, driver+".StartServiceByName", 0, Name, uint32(0)).Err
	switch {
	case err == nil:
		return nil
	case sctx.Err() != nil:
		return context.Cause(sctx)
	}
	return c.explain(ctx, err)
}

// Running tells whether a daemon is on the bus.
func (c *Client) Running(ctx context.Context) (yes bool, err error) {
	err = c.conn.BusObject().CallWithContext(ctx, driver+".NameHasOwner", 0, Name).Store(&yes)
	return yes, err
}
