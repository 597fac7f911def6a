package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Limit is how long an event is dealt with at most: NetworkManager holds
// "activated" back for that long.
const Limit = 5 * time.Second

// ErrAbsent says that there is no daemon and none can be started.
var ErrAbsent = errors.New("there is no daemon")

// Handlers are those who deal with events.
type Handlers struct {
	// Start starts the daemon unless it runs: it sees by itself what happens. It waits for nothing
	// else: the dispatcher keeps events in a queue, so a slow script for one delays
	// the activation that another one holds. ErrAbsent: there is no daemon.
	Start func(ctx context.Context) error
	// Settle does that and waits until the lanes have followed the interface and,
	// if there is one, the profile. ErrAbsent: there is no daemon.
	Settle func(ctx context.Context, iface, uuid string) error
	// Apply makes all lanes true once, without a daemon.
	Apply func(ctx context.Context) error
}

// Handle hands an event to the daemon, or else to a one-shot run.
func (h Handlers) Handle(ctx context.Context, e Event) error {
	ctx, cancel := context.WithTimeoutCause(ctx, Limit, fmt.Errorf("not done after %v; it goes on without being waited for", Limit))
	defer cancel()
	var err error
	if e.Held() {
		err = h.Settle(ctx, e.Interface, e.UUID)
	} else {
		err = h.Start(ctx)
	}
	if errors.Is(err, ErrAbsent) {
		err = h.Apply(ctx)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("%v: %w", e, err)
}
