package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"
)

const busSocket = "/run/dbus/system_bus_socket"

// nmConf keeps NetworkManager to what the world has: no DNS to manage, no server to reach.
const nmConf = `[main]
plugins=keyfile
no-auto-default=*
dns=none
dhcp=internal
[connectivity]
enabled=false
`

// StartBus starts the host's system bus and waits until it answers.
func (w *World) StartBus(ctx context.Context) error {
	if err := w.bus.start(); err != nil {
		return err
	}
	err := poll(ctx, 2*time.Millisecond, func() error {
		conn, err := net.Dial("unix", w.Host.Path(busSocket))
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for the system bus: %w\n%s", err, tail(w.bus.log(), 20))
	}
	return nil
}

// serve prepares the services of a bare host. It writes what a booted machine has: an ID, and a name
// server, that of the wire.
func (w *World) serve() error {
	level := w.options.NMLogLevel
	if level == "" {
		level = "INFO"
	}
	w.bus = w.service("dbus-daemon", "--system", "--nofork", "--nopidfile", "--nosyslog")
	w.nm = w.service("NetworkManager", "--debug", "--log-level="+level)
	for path, text := range map[string]string{
		"/etc/machine-id":  "0123456789abcdef0123456789abcdef\n",
		"/etc/resolv.conf": "nameserver " + WireDNS.String() + "\n",

		"/etc/NetworkManager/NetworkManager.conf": nmConf,
	} {
		_ = os.Remove(w.Host.Path(path)) // it may be a link to somewhere else
		if err := os.WriteFile(w.Host.Path(path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// RestartBus kills the system bus and starts a new one, and restarts NetworkManager if it was
// running: it would run on without a bus, for it never connects again (1.42). On a [Machine] with trixie
// that is the end of D-Bus activation, and so of much else (systemd 257).
func (w *World) RestartBus(ctx context.Context) error {
	followed := w.nm.running()
	w.bus.kill()
	if err := w.StartBus(ctx); err != nil {
		return err
	}
	if !followed {
		return nil
	}
	return w.RestartNM(ctx)
}

// StartNM starts NetworkManager and waits until it answers.
func (w *World) StartNM(ctx context.Context) error {
	if err := w.nm.start(); err != nil {
		return err
	}
	err := poll(ctx, 20*time.Millisecond, func() error {
		_, err := w.Host.RunContext(ctx, "nmcli", "--terse", "--fields", "STATE", "general")
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for NetworkManager: %w\n%s", err, w.NMLog())
	}
	return nil
}

// StopNM ends NetworkManager as a shutdown does; it leaves the cards' addresses and routes.
func (w *World) StopNM() error { return w.nm.stop() }

// KillNM ends NetworkManager as a crash does. On a [Machine] systemd starts it again.
func (w *World) KillNM() { w.nm.kill() }

// RestartNM stops and starts NetworkManager and waits until it answers. It takes up the profiles
// that were active.
func (w *World) RestartNM(ctx context.Context) error {
	if err := w.StopNM(); err != nil {
		return err
	}
	return w.StartNM(ctx)
}

// NMLog is the end of NetworkManager's log, for error messages.
func (w *World) NMLog() string {
	return tail(w.nm.log(), 40)
}
