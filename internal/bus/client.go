package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/godbus/dbus/v5"
)

// Client calls the daemon.
type Client struct {
	conn   *dbus.Conn
	object dbus.BusObject
}

// Errors that tell the user what to do next.
var (
	ErrNoBus    = errors.New("the system bus can't be reached")
	ErrNoDaemon = errors.New("the daemon is not running")
	ErrDenied   = errors.New("permission denied")
)

// Dial connects to the system bus. A daemon that is not there shows with the first call.
func Dial(ctx context.Context) (*Client, error) {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoBus, err)
	}
	return &Client{conn, conn.Object(Name, Path)}, nil
}

// Close ends the connection.
func (c *Client) Close() { c.conn.Close() }

func (c *Client) call(ctx context.Context, method string, out any, args ...any) error {
	call := c.object.CallWithContext(ctx, Interface+"."+method, dbus.FlagNoAutoStart, args...)
	var derr dbus.Error
	if errors.As(call.Err, &derr) {
		switch derr.Name {
		case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner", "org.freedesktop.DBus.Error.NoReply":
			return ErrNoDaemon
		case "org.freedesktop.DBus.Error.AccessDenied":
			return ErrDenied
		}
		return errors.New(derr.Error())
	}
	if call.Err != nil || out == nil {
		return call.Err
	}
	return call.Store(out)
}

// List returns all lanes, by name.
func (c *Client) List(ctx context.Context) ([]Lane, error) {
	var dicts []dict
	if err := c.call(ctx, "List", &dicts); err != nil {
		return nil, err
	}
	lanes := make([]Lane, len(dicts))
	for i, d := range dicts {
		lanes[i] = fromDict(d)
	}
	return lanes, nil
}

// Up wants a lane up, with changes to its file first, and returns how it is after one try.
func (c *Client) Up(ctx context.Context, lane string, changes map[string]any) (Lane, error) {
	d := make(dict, len(changes))
	for k, v := range changes {
		d[k] = dbus.MakeVariant(v)
	}
	return c.laneCall(ctx, "Up", lane, d)
}

// Down takes a lane down.
func (c *Client) Down(ctx context.Context, lane string) (Lane, error) {
	return c.laneCall(ctx, "Down", lane)
}

func (c *Client) laneCall(ctx context.Context, method string, args ...any) (Lane, error) {
	var d dict
	err := c.call(ctx, method, &d, args...)
	return fromDict(d), err
}

// Remove takes a lane down and forgets it.
func (c *Client) Remove(ctx context.Context, lane string) error {
	return c.call(ctx, "Remove", nil, lane)
}

// Reload makes the daemon read its configuration and returns what is wrong with it.
func (c *Client) Reload(ctx context.Context) (problems []string, err error) {
	err = c.call(ctx, "Reload", &problems)
	return problems, err
}

// Plan returns the shell lines that the daemon would carry out for a lane.
func (c *Client) Plan(ctx context.Context, lane string) (lines []string, err error) {
	err = c.call(ctx, "Plan", &lines, lane)
	return lines, err
}

// Changes returns a channel that gets a value after every change of a lane, and
// once for the daemon's coming and going. It is closed with the connection.
func (c *Client) Changes(ctx context.Context) (<-chan struct{}, error) {
	if err := c.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(Name), dbus.WithMatchInterface(Interface)); err != nil {
		return nil, err
	}
	if err := c.conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface("org.freedesktop.DBus"),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, Name)); err != nil {
		return nil, err
	}
	signals := make(chan *dbus.Signal, 16)
	c.conn.Signal(signals)
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		for range signals {
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, nil
}
