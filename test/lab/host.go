package lab

import (
	"fmt"
	"os"
)

// The host's cards.
const (
	Wired = "enp7s0" // to the wire network
	WiFi  = "wlp6s0" // to the wifi network; a veth as the other, for this kernel has no radio
)

// Host is the machine under test.
type Host struct {
	*Node
}

// Netns is the path of the host's network namespace.
func (h *Host) Netns() string {
	return fmt.Sprintf("/proc/%d/ns/net", h.PID())
}

// PID is the ID of the host's process 1 as seen outside, for nsenter.
func (h *Host) PID() int {
	return h.place.pid
}

// Path is where this process finds a file of the host.
func (h *Host) Path(path string) string {
	return h.place.path(path)
}

// DBusAddress is the address of the host's system bus for this process. Inside the host the default
// address is right.
func (h *Host) DBusAddress() string {
	return "unix:path=" + h.Path(busSocket)
}

// Namespace is the node of a named network namespace in the host, as made by "ip netns add". It keeps the namespace,
// whatever becomes of the name, until the node or the world is closed.
func (h *Host) Namespace(name string) (*Node, error) {
	ns, err := os.Open(h.Path("/run/netns/" + name))
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", name, err)
	}
	node := &Node{Name: name, world: h.world, ns: ns, place: h.place, login: h.login}
	h.world.keep(ns)
	return node, nil
}

// Start starts a program that runs until it ends, is killed or the world is closed. Its output goes
// to the file /run/lab/NAME.log of the host; see [Host.Log].
func (h *Host) Start(name string, args ...string) (*Cmd, error) {
	cmd := h.Command(name, args...)
	if err := cmd.startLogged(name); err != nil {
		return nil, err
	}
	return cmd, nil
}

// Log is what the program of this name, started by [Host.Start], has printed so far.
func (h *Host) Log(name string) string {
	return h.place.log(name)
}
