package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"
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
	if err := w.busFiles(); err != nil {
		return err
	}
	var err error
	w.bus, err = w.Host.Start("dbus-daemon", "--system", "--nofork", "--nopidfile", "--nosyslog")
	if err != nil {
		return err
	}
	err = poll(ctx, 2*time.Millisecond, func() error {
		conn, err := net.Dial("unix", w.Host.Path(busSocket))
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for the system bus: %w\n%s", err, tail(w.Host.Log("dbus-daemon"), 20))
	}
	return nil
}

// busFiles writes what a booted machine has: an ID, and a name server, that of the wire.
func (w *World) busFiles() error {
	for path, text := range map[string]string{
		"/etc/machine-id":  "0123456789abcdef0123456789abcdef\n",
		"/etc/resolv.conf": "nameserver " + WireDNS.String() + "\n",
	} {
		_ = os.Remove(w.Host.Path(path)) // it may be a link to somewhere else
		if err := os.WriteFile(w.Host.Path(path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// RestartBus kills the system bus and starts a new one, and restarts NetworkManager if it was
// running: it would run on without a bus, for it never connects again (1.42).
func (w *World) RestartBus(ctx context.Context) error {
	stop(w.bus)
	_ = os.Remove(w.Host.Path(busSocket))
	if err := w.StartBus(ctx); err != nil {
		return err
	}
	if w.nm == nil {
		return nil
	}
	return w.RestartNM(ctx)
}

// StartNM starts NetworkManager and waits until it answers.
func (w *World) StartNM(ctx context.Context) error {
	if err := os.WriteFile(w.Host.Path("/etc/NetworkManager/NetworkManager.conf"), []byte(nmConf), 0o644); err != nil {
		return err
	}
	level := w.options.NMLogLevel
	if level == "" {
		level = "INFO"
	}
	var err error
	w.nm, err = w.Host.Start("NetworkManager", "--debug", "--log-level="+level)
	if err != nil {
		return err
	}
	err = poll(ctx, 20*time.Millisecond, func() error {
		_, err := w.Host.RunContext(ctx, "nmcli", "--terse", "--fields", "STATE", "general")
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for NetworkManager: %w\n%s", err, w.NMLog())
	}
	return nil
}

// StopNM ends NetworkManager as a shutdown does; it leaves the cards' addresses and routes.
func (w *World) StopNM() error {
	if w.nm == nil {
		return nil
	}
	if err := w.nm.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	_ = w.nm.Wait()
	w.nm = nil
	return nil
}

// KillNM ends NetworkManager as a crash does.
func (w *World) KillNM() {
	stop(w.nm)
	w.nm = nil
}

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
	return tail(w.Host.Log("NetworkManager"), 40)
}
