package main

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/test/lab"
)

// site is a world with a connected host.
type site struct {
	*bench
	world  *lab.World
	uplane *lab.Uplane // nil: not installed
	bus    *dbus.Conn  // the host's
}

// quietWire is the wired profile without DHCP, so that only the Wi-Fi's renewals are there.
var quietWire = lab.Profile{
	Name: lab.WiredProfile.Name, Interface: lab.Wired, Metric: lab.WiredProfile.Metric,
	Settings: []string{"ipv4.method", "manual", "ipv4.addresses", "192.168.10.4/24", "ipv4.gateway", "192.168.10.1"},
}

// newSite builds a world; renew is the time between DHCP renewals, 0 for none that comes in time.
func (b *bench) newSite(renew time.Duration) (*site, error) {
	w, err := lab.New(b.ctx, lab.Plain, lab.Options{RenewEvery: renew, NMLogLevel: "WARN"})
	if err != nil {
		return nil, err
	}
	s := &site{bench: b, world: w}
	if err := w.Connect(b.ctx, quietWire, lab.WiFiProfile); err != nil {
		s.close()
		return nil, err
	}
	// Debian's script of ifupdown's would have NetworkManager start a shell in the midst of every change.
	_ = os.Remove(w.Host.Path("/etc/NetworkManager/dispatcher.d/01-ifupdown"))
	if s.bus, err = dbus.Connect(w.Host.DBusAddress()); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// newUplaneSite builds a world in which the daemon runs.
func (b *bench) newUplaneSite(renew time.Duration) (*site, error) {
	s, err := b.newSite(renew)
	if err != nil {
		return nil, err
	}
	if s.uplane, err = s.world.Install(b.bin); err == nil {
		err = s.uplane.Start(b.ctx)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *site) close() {
	if s.bus != nil {
		s.bus.Close()
	}
	_ = s.world.Close()
}

// lane brings a lane up that leaves by the Wi-Fi, in the daemon's first table.
func (s *site) lane(name string) error {
	_, err := s.uplane.Run(s.ctx, "up", name, "--uplink", lab.WiFi)
	return err
}

// manager calls the daemon.
func (s *site) manager(method string, args ...any) error {
	return s.bus.Object("org.uplane.Uplane1", "/org/uplane/Uplane1").
		CallWithContext(s.ctx, "org.uplane.Uplane1.Manager."+method, 0, args...).Err
}

// sh runs a script on the host.
func (s *site) sh(script string) (string, error) {
	return s.world.Host.RunContext(s.ctx, "sh", "-ec", script)
}

// helper is this program at another task in the host, or as one of a machine's users. It answers each line with a line.
type helper struct {
	*lab.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startHelper starts a helper and waits for its first line, "ready".
func (b *bench) startHelper(node *lab.Node, args ...string) (*helper, error) {
	cmd := node.Command(b.self, args...)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	h := &helper{cmd, in, bufio.NewReader(out)}
	if line, err := h.out.ReadString('\n'); line != "ready\n" {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("helper %s: %v: %s", args[0], err, complaint.String())
	}
	return h, nil
}

// ask sends a line and returns the answer.
func (h *helper) ask(question string) (string, error) {
	if _, err := fmt.Fprintln(h.in, question); err != nil {
		return "", err
	}
	line, err := h.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("helper, asked to %s: %w", question, err)
	}
	line = strings.TrimSpace(line)
	if why, failed := strings.CutPrefix(line, "error: "); failed {
		return "", fmt.Errorf("helper, asked to %s: %s", question, why)
	}
	return line, nil
}

// end stops a helper.
func (h *helper) end() {
	_ = h.Process.Kill()
	_ = h.Wait()
}

// pause and resume keep a program from working while another is measured.
func pause(pid int) error  { return syscall.Kill(pid, syscall.SIGSTOP) }
func resume(pid int) error { return syscall.Kill(pid, syscall.SIGCONT) }

// gateways are the two that the Wi-Fi's changes go between.
func (s *site) gateways() [2]netip.Addr {
	return [2]netip.Addr{s.world.Wifi.LAN.Addr(), s.world.Wifi2.LAN.Addr()}
}
