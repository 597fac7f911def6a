package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
)

// Client calls the daemon.
type Client struct{ conn *dbus.Conn }

// Errors that tell the user what to do next.
var (
	ErrNoBus    = errors.New("the system bus can't be reached")
	ErrNoDaemon = errors.New("the daemon is not running")
	ErrDenied   = errors.New("permission denied")
)

// Dial connects to the system bus. A daemon that is not there shows with the
// first call, which may start it.
func Dial(ctx context.Context) (*Client, error) {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoBus, err)
	}
	return &Client{conn}, nil
}

// Close ends the connection.
func (c *Client) Close() { c.conn.Close() }

// call calls a method, as INTERFACE.MEMBER. The user may be asked for a
// password meanwhile.
func (c *Client) call(ctx context.Context, path dbus.ObjectPath, method string, out any, args ...any) error {
	dot := strings.LastIndexByte(method, '.')
	// Not Object.Call, which drops the flag.
	msg := &dbus.Message{
		Type:  dbus.TypeMethodCall,
		Flags: dbus.FlagAllowInteractiveAuthorization,
		Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldDestination: dbus.MakeVariant(Name),
			dbus.FieldPath:        dbus.MakeVariant(path),
			dbus.FieldInterface:   dbus.MakeVariant(method[:dot]),
			dbus.FieldMember:      dbus.MakeVariant(method[dot+1:]),
		},
		Body: args,
	}
	if len(args) > 0 {
		msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(args...))
	}
	call := <-c.conn.SendWithContext(ctx, msg, make(chan *dbus.Call, 1)).Done
	if call.Err != nil {
		return c.explain(ctx, call.Err)
	}
	if out == nil {
		return nil
	}
	return call.Store(out)
}

// explain makes of an error on the bus what it was before, or what to tell the user.
func (c *Client) explain(ctx context.Context, err error) error {
	var derr dbus.Error
	if !errors.As(err, &derr) {
		return err
	}
	if kind, ours := strings.CutPrefix(derr.Name, errorPrefix); ours {
		err := &Error{Kind(kind), derr.Error()}
		if err.Kind == NotAuthorized {
			return fmt.Errorf("%w: %w", ErrDenied, err)
		}
		return err
	}
	switch derr.Name {
	case "org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.UnitMasked", driver + ".Error.FileExists":
		// The unit is not enabled, or it is masked, with which its alias clashes. The bus knows it by the alias,
		// and what systemd says of that would help nobody.
		return ErrNoDaemon
	case driver + ".Error.ServiceUnknown", driver + ".Error.NameHasNoOwner", driver + ".Error.NoReply", driver + ".Error.TimedOut":
		return ErrNoDaemon
	case driver + ".Error.AccessDenied":
		return ErrDenied
	case interactiveRequired:
		return fmt.Errorf("%w: %w", ErrDenied, derr)
	}
	// That the bus could not start the daemon has many names: what systemd 257 says of a masked
	// one is org.freedesktop.DBus.Error.FileExists.
	if running, err := c.Running(ctx); err == nil && !running {
		return fmt.Errorf("%w: %w", ErrNoDaemon, derr)
	}
	return errors.New(derr.Error())
}

// List returns all lanes, by name.
func (c *Client) List(ctx context.Context) ([]Lane, error) {
	var objects map[dbus.ObjectPath]map[string]values
	if err := c.call(ctx, Path, objectManager+".GetManagedObjects", &objects); err != nil {
		return nil, err
	}
	lanes := make([]Lane, 0, len(objects))
	for _, interfaces := range objects {
		if v, ok := interfaces[LaneInterface]; ok {
			lanes = append(lanes, laneFrom(v))
		}
	}
	slices.SortFunc(lanes, func(a, b Lane) int { return cmp.Compare(a.Name, b.Name) })
	return lanes, nil
}

// Up wants a lane up, with changes to its file first, and returns how it is after one try.
func (c *Client) Up(ctx context.Context, lane string, changes map[string]any) (Lane, error) {
	options := make(values, len(changes))
	for k, v := range changes {
		options[k] = dbus.MakeVariant(v)
	}
	var path dbus.ObjectPath
	if err := c.call(ctx, Path, ManagerInterface+".Up", &path, lane, options); err != nil {
		return Lane{}, err
	}
	var v values
	err := c.call(ctx, path, properties+".GetAll", &v, LaneInterface)
	return laneFrom(v), err
}

// Down takes a lane down.
func (c *Client) Down(ctx context.Context, lane string) error {
	return c.call(ctx, Path, ManagerInterface+".Down", nil, lane)
}

// Remove takes a lane down and forgets it.
func (c *Client) Remove(ctx context.Context, lane string) error {
	return c.call(ctx, Path, ManagerInterface+".Remove", nil, lane)
}

// Reload makes the daemon read its configuration and returns what is wrong with it.
func (c *Client) Reload(ctx context.Context) (problems []string, err error) {
	err = c.call(ctx, Path, ManagerInterface+".Reload", &problems)
	return problems, err
}

// Plan returns the shell lines that the daemon would carry out for a lane.
func (c *Client) Plan(ctx context.Context, lane string) (lines []string, err error) {
	err = c.call(ctx, Path, ManagerInterface+".Plan", &lines, lane)
	return lines, err
}

// Changes returns a channel that gets a value after every change of a lane, and
// once for the daemon's coming and going. It is closed with the connection.
func (c *Client) Changes(ctx context.Context) (<-chan struct{}, error) {
	if err := c.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(Name), dbus.WithMatchPathNamespace(Path)); err != nil {
		return nil, err
	}
	if err := c.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(driver), dbus.WithMatchInterface(driver),
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
