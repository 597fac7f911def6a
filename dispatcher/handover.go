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
	// Settle starts the daemon if need be, and waits until its lanes have followed
	// the interface. Its error is ErrAbsent when there is none.
	Settle func(ctx context.Context, iface, uuid string) error
	// Apply makes all lanes true once, without a daemon.
	Apply func(ctx context.Context) error
}

// Handle hands an event to the daemon, or else to a one-shot run.
func (h Handlers) Handle(ctx context.Context, e Event) error {
	ctx, cancel := context.WithTimeoutCause(ctx, Limit, fmt.Errorf("not done after %v; it goes on without being waited for", Limit))
	defer cancel()
	err := h.Settle(ctx, e.Interface, e.Awaits())
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
