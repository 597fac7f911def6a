package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Machine is a world whose host is a booted Debian: systemd is its process 1, and polkit, logind,
// D-Bus activation, NetworkManager and its dispatcher run as a package set them up. It is a container
// of systemd-nspawn in the world's place; its disk is an overlay over an image that all machines share.
type Machine struct {
	*World

	// Alice sits in front of the machine: what is run as this node runs as her, in her active session
	// on seat0. Bob is logged in nowhere. Neither may become root. Both are good after a reboot too.
	Alice, Bob *Node

	// BootTime is how long the last boot took.
	BootTime time.Duration

	nspawn *process
}

// Boot builds a world with a booted Debian for its host. When it returns, everything that Debian
// starts has started, and NetworkManager has no profile yet: see [World.Connect]. The first machine
// of a release has its image made, which takes a minute; the context bounds that too. A unit that
// fails to start is an error.
func Boot(ctx context.Context, release Debian, kind Kind, options Options) (*Machine, error) {
	if options.NoNM {
		return nil, errors.New("a machine without NetworkManager: use New, or stop it")
	}
	image, err := release.image(ctx, options.Packages)
	if err != nil {
		return nil, err
	}
	w, err := newWorld(kind, options, image)
	if err != nil {
		return nil, err
	}
	w.booted = true
	w.bus, w.nm = w.service("dbus"), w.service("NetworkManager")
	m := &Machine{World: w, Alice: &Node{}, Bob: &Node{}}
	if err := m.install(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("boot a lab machine with %s: %w", release, err), w.Close())
	}
	return m, nil
}

// install is the first boot.
func (m *Machine) install(ctx context.Context) error {
	if err := m.settings(); err != nil {
		return err
	}
	if err := m.newNetwork(); err != nil {
		return err
	}
	if m.kind != Bare {
		if err := m.wireUp(ctx); err != nil {
			return err
		}
	}
	return m.powerOn(ctx)
}

// disk is where the holder has mounted the machine's disk.
const disk = "/run/lab/disk"

// settings writes what differs from machine to machine; the rest is in the image.
func (m *Machine) settings() error {
	files := map[string]string{}
	if level := m.options.NMLogLevel; level != "" {
		files["/etc/NetworkManager/conf.d/lab-log.conf"] = "[logging]\nlevel=" + level + "\n"
	}
	if filter := m.options.RPFilter; filter != 0 {
		files["/etc/sysctl.d/lab.conf"] = fmt.Sprintf("net.ipv4.conf.all.rp_filter=%d\nnet.ipv4.conf.default.rp_filter=%d\n", filter, filter)
	}
	for path, text := range files {
		if err := os.WriteFile(m.holder.path(disk+path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// newNetwork gives the host a new network namespace. Until the machine is up the host is where the
// holder is.
func (m *Machine) newNetwork() error {
	ns, err := newNetns()
	if err != nil {
		return err
	}
	m.keep(ns)
	*m.Host.Node = *m.newNode("host", ns)
	return m.setUpHost()
}

// powerOn boots the machine and waits until all that it starts is up.
func (m *Machine) powerOn(ctx context.Context) error {
	start := time.Now()
	cgroup, err := os.Open(m.holder.path(m.holder.cgroup))
	if err != nil {
		return err
	}
	defer cgroup.Close()
	console := m.newNode("console", m.Host.ns)
	console.login = &login{cgroup: cgroup, home: "/", env: append(environ(), "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network")}
	m.nspawn = &process{node: console, name: "systemd-nspawn", args: []string{
		"--quiet", "--directory=" + disk, "--boot", "--machine=host",
		"--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off", "--link-journal=no",
		"--network-namespace-path=/proc/self/ns/net", "--capability=all",
		"systemd.show_status=error",
	}}
	if err := m.nspawn.start(); err != nil {
		return err
	}
	if err := m.waitUp(ctx); err != nil {
		return fmt.Errorf("after %v: %w; its console:\n%s", time.Since(start), err, tail(m.nspawn.log(), 40))
	}
	if err := m.logIn(ctx); err != nil {
		return err
	}
	m.BootTime = time.Since(start)
	return nil
}

func (m *Machine) waitUp(ctx context.Context) error {
	ctx, cancel := m.nspawn.while(ctx)
	defer cancel()
	var leader int
	err := poll(ctx, 5*time.Millisecond, func() (err error) {
		leader, err = m.leader()
		return err
	})
	if err != nil {
		return err
	}
	place, err := openPlace(leader, "pid", "ipc", "uts")
	if err != nil {
		return err
	}
	m.keep(place)
	m.Host.place = place
	var state string
	err = poll(ctx, 50*time.Millisecond, func() error {
		state, err = m.Host.RunContext(ctx, "systemctl", "is-system-running", "--wait")
		if state == "degraded" {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if state == "degraded" {
		failed, _ := m.Host.Run("systemctl", "list-units", "--failed", "--plain", "--no-legend")
		return fmt.Errorf("units have failed:\n%s", failed)
	}
	return nil
}

// leader is the machine's process 1 as seen outside, when it has become systemd: before, it is
// systemd-nspawn at work on the mounts.
func (m *Machine) leader() (int, error) {
	nspawn := m.nspawn.cmd.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", nspawn, nspawn))
	if err != nil {
		return 0, err
	}
	for _, child := range strings.Fields(string(children)) {
		if comm, _ := os.ReadFile("/proc/" + child + "/comm"); string(comm) == "systemd\n" {
			return strconv.Atoi(child)
		}
	}
	return 0, errors.New("the machine has no process 1")
}

// Reboot shuts the machine down and boots it again. What is not on its disk is gone: its network
// namespace is a new one, with new cards.
func (m *Machine) Reboot(ctx context.Context) error {
	if err := m.powerOff(ctx); err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	if err := m.newNetwork(); err != nil {
		return err
	}
	if m.kind != Bare {
		if err := m.plugIn(); err != nil {
			return err
		}
	}
	if err := m.powerOn(ctx); err != nil {
		return fmt.Errorf("boot again: %w", err)
	}
	return nil
}

func (m *Machine) powerOff(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ctx, cancel = m.nspawn.while(ctx)
	defer cancel()
	_, err := m.Host.RunContext(ctx, "systemctl", "poweroff") // it may be killed by what it starts
	<-ctx.Done()
	if m.nspawn.running() {
		return fmt.Errorf("%w: %w; its console:\n%s", ctx.Err(), err, tail(m.nspawn.log(), 40))
	}
	return m.Host.ns.Close()
}

// plugIn puts new cards into the host, in place of the old ones.
func (m *Machine) plugIn() error {
	for _, g := range []*Gateway{m.Wire, m.Wifi} {
		// The kernel may not have come to it yet; a test may have deleted the card.
		_ = g.port.IP("link delete dev " + g.NIC)
	}
	if err := m.plug(m.cards()); err != nil {
		return err
	}
	for _, g := range []*Gateway{m.Wire, m.Wifi} {
		if err := g.port.IP("link set dev " + g.NIC + " master lan up"); err != nil {
			return err
		}
	}
	return nil
}
