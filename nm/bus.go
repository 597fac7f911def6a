package nm

import (
	"context"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/internal/busguard"
)

// handshakeTimeout bounds subscribing. A bus answers at once; one that is
// stopped would block for ever.
const handshakeTimeout = 10 * time.Second

// dial opens a connection of our own, on which no other part of the process
// subscribes to anything. It ends with ctx.
func dial(ctx context.Context, address string) (*dbus.Conn, error) {
	// The default handler loses the order of signals when they come fast.
	conn, err := busguard.Connect(ctx, address, nil, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	return conn, nil
}

// subscribe adds the match rules.
func subscribe(ctx context.Context, conn *dbus.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	for _, rule := range matchRules() {
		if err := conn.AddMatchSignalContext(ctx, rule...); err != nil {
			return fmt.Errorf("subscribe to signals of NetworkManager: %w", err)
		}
	}
	return nil
}

// owner is the unique name of whoever is NetworkManager now, empty if nobody is,
// and the place of that answer among the messages of the connection.
func owner(ctx context.Context, conn *dbus.Conn) (name string, at dbus.Sequence, err error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	call := conn.BusObject().CallWithContext(ctx, driver+".GetNameOwner", 0, busName)
	if e, ok := call.Err.(dbus.Error); ok && e.Name == driver+".Error.NameHasNoOwner" {
		return "", call.ResponseSequence, nil
	}
	if err := call.Store(&name); err != nil {
		return "", 0, fmt.Errorf("ask who is NetworkManager: %w", err)
	}
	return name, call.ResponseSequence, nil
}
