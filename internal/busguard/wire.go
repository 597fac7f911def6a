// Package busguard connects to the message bus in such a way that nothing others
// send there can break this process.
//
// godbus alone is not enough for a daemon, as any local user may send it
// signals (measured with v5.2.4 and dbus-daemon 1.14): an array of descriptors
// ends the process with a panic, single descriptors are received and never
// closed, a variant nested 63 deep ends the connection, every call gets a
// goroutine of its own, and a signal sent to this process directly passes no
// match rule. So a [guard] stands between the socket and godbus. It
//
//   - negotiates no descriptors: the bus then refuses messages that have some;
//   - drops what godbus can't decode, and signals sent to this process directly
//     by anyone but the bus itself, so a rule's sender can be relied on;
//   - takes method calls out of the stream for their receiver, who bounds them;
//   - gives up a connection whose other end does not read.
package busguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// systemBus is where the specification has it, less /var.
const systemBus = "unix:path=/run/dbus/system_bus_socket"

// handshakeTimeout bounds the greeting. A bus answers at once; one that is
// stopped would block for ever.
const handshakeTimeout = 10 * time.Second

// Connect connects to the bus at address; empty: DBUS_SYSTEM_BUS_ADDRESS, or
// the system bus at its usual place. Method calls that are sent to this
// process are handed to calls by the goroutine that reads the connection, so it
// must not wait; without calls they are dropped.
//
// The connection ends with ctx, also while it is being made.
func Connect(ctx context.Context, address string, calls func(*Call), options ...dbus.ConnOption) (*dbus.Conn, error) {
	if address == "" {
		address = os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")
	}
	if address == "" {
		address = systemBus
	}
	socket, err := dial(ctx, address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	timeout := time.AfterFunc(handshakeTimeout, cancel)
	defer timeout.Stop()
	g := &guard{Conn: socket, calls: calls}
	conn, err := dbus.NewConn(g, append(options, dbus.WithContext(ctx))...)
	if err != nil {
		cancel()
		return nil, errors.Join(err, socket.Close())
	}
	context.AfterFunc(conn.Context(), cancel)
	g.conn = conn
	if err := conn.Auth(nil); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := conn.Hello(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// dial opens the first socket of address, which may name several, that answers.
func dial(ctx context.Context, address string) (net.Conn, error) {
	var errs []error
	for one := range strings.SplitSeq(address, ";") {
		path, err := socketPath(one)
		if err == nil {
			var socket net.Conn
			if socket, err = new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
				return socket, nil
			}
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// socketPath is the path of a Unix socket in the notation of package net, where
// an abstract one begins with @.
func socketPath(address string) (string, error) {
	keys, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return "", fmt.Errorf("bus address %q: not a Unix socket", address)
	}
	for pair := range strings.SplitSeq(keys, ",") {
		key, value, _ := strings.Cut(pair, "=")
		value, err := dbus.UnescapeBusAddressValue(value)
		if err != nil {
			return "", fmt.Errorf("bus address %q: %w", address, err)
		}
		switch key {
		case "path":
			return value, nil
		case "abstract":
			return "@" + value, nil
		}
	}
	return "", fmt.Errorf("bus address %q: neither path nor abstract", address)
}
