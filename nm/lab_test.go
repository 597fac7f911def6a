package nm_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"uplane/nm"
	"uplane/policy"
	"uplane/test/lab"
)

// watched is a watcher on a world's bus.
type watched struct {
	*nm.Watcher
	t       *testing.T
	wake    chan struct{}
	changes atomic.Int64
}

func watch(t *testing.T, w *lab.World) *watched {
	t.Helper()
	v := &watched{t: t, wake: make(chan struct{}, 1)}
	v.Watcher = nm.NewWatcher(nm.Options{
		Address: relay(t, w),
		Log:     slog.New(slog.NewTextHandler(testWriter{t}, nil)),
		Changed: func() {
			v.changes.Add(1)
			select {
			case v.wake <- struct{}{}:
			default:
			}
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != context.Canceled {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Run did not end with its context")
		}
	})
	return v
}

const (
	relayVar    = "NM_TEST_RELAY" // set: this process is to be a relay
	relaySocket = "/run/relay"
)

func TestMain(m *testing.M) {
	if os.Getenv(relayVar) != "" {
		fmt.Fprintln(os.Stderr, serve(relaySocket, "/run/dbus/system_bus_socket"))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// relay returns the address of a relay to the world's bus that runs in the world. NetworkManager tells nobody a profile's settings
// whose process it can't see, and this process is outside.
func relay(t *testing.T, w *lab.World) string {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	_, err = w.Host.Start("env", relayVar+"=1", exe)
	must(t, err)
	socket := w.Host.Path(relaySocket)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
	}
	return "unix:path=" + socket
}

// serve hands every connection to socket on to the bus.
func serve(socket, bus string) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	for {
		from, err := listener.Accept()
		if err != nil {
			return err
		}
		to, err := net.Dial("unix", bus)
		if err != nil {
			from.Close()
			continue
		}
		carry := func(a, b net.Conn) {
			_, _ = io.Copy(a, b)
			a.Close()
			b.Close()
		}
		go carry(from, to)
		go carry(to, from)
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// wait waits until the snapshot satisfies ok.
func (v *watched) wait(what string, ok func(nm.Snapshot) bool) {
	v.t.Helper()
	timeout := time.After(20 * time.Second)
	for !ok(v.Snapshot()) {
		select {
		case <-v.wake:
		case <-timeout:
			v.t.Fatalf("never %s; now\n%s", what, show(v.Snapshot()))
		}
	}
}

// never fails the test if a snapshot satisfies bad until stop is called.
func (v *watched) never(what string, bad func(nm.Snapshot) bool) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if s := v.Snapshot(); bad(s) {
				v.t.Errorf("%s:\n%s", what, show(s))
				return
			}
			select {
			case <-end:
				return
			case <-time.After(50 * time.Microsecond):
			}
		}
	}()
	return func() { close(end); <-ended }
}

// waitUp waits until the wifi card is active with a gateway.
func (v *watched) waitUp(gateway string) {
	v.t.Helper()
	v.wait("via "+gateway, func(s nm.Snapshot) bool { return s.Running && isUp(s, lab.WiFi, gateway) })
}

func isUp(s nm.Snapshot, iface, gateway string) bool {
	u := get(s, iface)
	got, _ := u.Gateway()
	return u.Phase == policy.PhaseActive && len(u.Addresses) > 0 && got == netip.MustParseAddr(gateway)
}

func get(s nm.Snapshot, iface string) policy.Uplink {
	for _, u := range s.Uplinks {
		if u.Interface == iface {
			return u
		}
	}
	return policy.Uplink{}
}

func show(s nm.Snapshot) string {
	var b strings.Builder
	fmt.Fprintf(&b, "known=%t running=%t\n", s.Known, s.Running)
	for _, u := range s.Uplinks {
		fmt.Fprintf(&b, "%+v\n", u)
	}
	return b.String()
}

// connected starts a world with both profiles up and a watcher that has seen it.
func connected(t *testing.T, options lab.Options) (context.Context, *lab.World, *watched) {
	t.Helper()
	t.Parallel()
	ctx, w := lab.Start(t, lab.Plain, options)
	if err := w.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	v := watch(t, w)
	v.waitUp("192.168.50.1")
	return ctx, w, v
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func nmcli(ctx context.Context, t *testing.T, w *lab.World, args ...string) {
	t.Helper()
	_, err := w.Host.RunContext(ctx, "nmcli", args...)
	must(t, err)
}
