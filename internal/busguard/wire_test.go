package busguard

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/test/bustest"
)

func TestMain(m *testing.M) {
	bustest.Forbid()
	os.Exit(m.Run())
}

func connect(t *testing.T, address string, calls func(*Call), options ...dbus.ConnOption) *dbus.Conn {
	t.Helper()
	conn, err := Connect(context.Background(), address, calls, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// message is a message to a program, with whatever body.
func message(kind dbus.Type, to *dbus.Conn, body ...any) *dbus.Message {
	m := &dbus.Message{Type: kind, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/x")), dbus.FieldInterface: dbus.MakeVariant("a.b"),
		dbus.FieldMember: dbus.MakeVariant("C"), dbus.FieldDestination: dbus.MakeVariant(to.Names()[0]),
	}, Body: body}
	if len(body) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
	}
	return m
}

// deep is a value that the bus lets through and godbus can't decode.
func deep() dbus.Variant {
	v := dbus.MakeVariant(map[string]dbus.Variant{})
	for range 62 {
		v = dbus.MakeVariant(v)
	}
	return v
}

// What others send must not end the connection, the process, or our descriptors.
func TestHostile(t *testing.T) {
	t.Parallel()
	address := bustest.Start(t, "")
	signals := make(chan *dbus.Signal, 100)
	calls := make(chan *Call, 100)
	conn := connect(t, address, func(c *Call) { calls <- c; c.Fail("x.y.Z", "refused here") })
	conn.Signal(signals)
	if err := conn.AddMatchSignal(dbus.WithMatchInterface("a.b")); err != nil {
		t.Fatal(err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := dbus.UnixFD(null.Fd())

	other := bustest.Connect(t, address)
	for _, body := range []any{fd, []dbus.UnixFD{fd, fd}, deep(), "plain"} {
		other.Send(message(dbus.TypeSignal, conn, body), nil)
		broadcast := message(dbus.TypeSignal, conn, body)
		delete(broadcast.Headers, dbus.FieldDestination)
		other.Send(broadcast, nil)
	}
	// Of all those, one is for everybody and can be read.
	if err := other.Emit("/x", "a.b.Last"); err != nil {
		t.Fatal(err)
	}
	var heard []string
	for len(heard) == 0 || heard[len(heard)-1] != "a.b.Last" {
		select {
		case s := <-signals:
			if s.Name != "org.freedesktop.DBus.NameAcquired" {
				heard = append(heard, s.Name)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("heard %q only; connected: %t", heard, conn.Connected())
		}
	}
	if strings.Join(heard, " ") != "a.b.C a.b.Last" {
		t.Errorf("heard %q", heard)
	}

	// Calls get through to those who bear a name that the bus's policy opens.
	if _, err := conn.RequestName("org.uplane.Uplane1", dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		body any
		want string // of the error
	}{
		{"plain", "refused here"},
		{deep(), "refused here"},
		{strings.Repeat("x", 1<<20), "refused here"},
		{fd, "file descriptors"}, // from the bus
	} {
		err := (<-other.Send(message(dbus.TypeMethodCall, conn, tt.body), make(chan *dbus.Call, 1)).Done).Err
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("the caller hears %v, not %q", err, tt.want)
		}
	}
	for i, refused := range []bool{false, true, true} {
		var c *Call
		select {
		case c = <-calls:
		case <-time.After(5 * time.Second):
			t.Fatalf("no call %d", i)
		}
		if c.Sender != other.Names()[0] || (c.Err != nil) != refused || (c.Message == nil) != refused {
			t.Errorf("call %d: %+v", i, c)
		}
	}
	if !conn.Connected() {
		t.Error("the connection has ended")
	}
}

// Nobody takes the calls: they are dropped, and replies still come.
func TestNoCalls(t *testing.T) {
	t.Parallel()
	address := bustest.Start(t, "")
	conn := connect(t, address, nil)
	other := bustest.Connect(t, address)
	other.Send(message(dbus.TypeMethodCall, conn), make(chan *dbus.Call, 1))
	var names []string
	if err := conn.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&names); err != nil || len(names) < 3 {
		t.Errorf("%q, %v", names, err)
	}
}

func TestAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"unix:path=/run/a%20b,guid=1": "/run/a b",
		"unix:guid=1,abstract=/tmp/x": "@/tmp/x",
		"tcp:host=localhost,port=1":   "",
		"unix:guid=1":                 "",
		"unix:path=%zz":               "",
		"":                            "",
	} {
		if got, err := socketPath(address); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", address, got, err)
		}
	}
	// The first that answers is taken.
	address := bustest.Start(t, "")
	connect(t, "tcp:host=x;unix:path=/nonexistent;"+address, nil)
	if _, err := Connect(context.Background(), "", nil); err == nil {
		t.Error("the tests reached a bus that is not theirs")
	}
}

// A bus that takes a connection and says nothing does not hold up the end.
func TestSilentBus(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := Connect(ctx, "unix:path="+path, nil); err == nil {
		t.Error("connected")
	}
}

// A bus that stops reading costs the connection, not the writer.
func TestStuckBus(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	g := &guard{Conn: deadlined{ours}}
	_, err := g.Write([]byte("x"))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %v", err)
	}
	if _, err := ours.Write(nil); err == nil {
		t.Error("the connection is still open")
	}
}

// deadlined is a connection whose deadlines come at once.
type deadlined struct{ net.Conn }

func (d deadlined) SetWriteDeadline(at time.Time) error {
	return d.Conn.SetWriteDeadline(at.Add(10*time.Millisecond - writeTimeout))
}
