package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"uplane/internal/nsthread"
)

// Node is a network namespace of a world. The programs started in it see the host's files and
// processes; those of the nodes around a [Machine] see what is around it instead.
type Node struct {
	// Name tells nodes apart in errors.
	Name string

	world *World
	ns    *os.File
	place *place
	login *login // nil: root, in this process's own control group
}

// Netns is a path of the node's network namespace that any process of the machine can open.
func (n *Node) Netns() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.ns.Fd())
}

// Close lets the namespace go before the world is closed. It is for nodes that [Host.Namespace] has made.
func (n *Node) Close() error {
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	n.world.closers = slices.DeleteFunc(n.world.closers, func(c io.Closer) bool { return c == n.ns })
	return n.ns.Close()
}

// Do runs fn on an OS thread in the node's network namespace; the file system stays this process's.
// Goroutines that fn starts run outside. fn must not call Fatal or Skip of a test.
func (n *Node) Do(fn func() error) error {
	return nsthread.Run(func() error {
		if err := setns(n.ns, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return fn()
	})
}

// Dial connects from the node. The address must be a literal: names are not looked up in the node.
func (n *Node) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return n.DialWith(ctx, &net.Dialer{}, network, address)
}

// DialWith is [Node.Dial] with a dialer of the caller's, which may set a local address.
func (n *Node) DialWith(ctx context.Context, dialer *net.Dialer, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() (err error) {
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.Name, err)
	}
	return conn, nil
}

// Listen listens for connections in the node; a socket keeps its namespace wherever it is used.
func (n *Node) Listen(network, address string) (net.Listener, error) {
	var listener net.Listener
	err := n.Do(func() (err error) {
		listener, err = net.Listen(network, address)
		return err
	})
	return listener, err
}

// ListenPacket opens a datagram socket in the node.
func (n *Node) ListenPacket(network, address string) (net.PacketConn, error) {
	var conn net.PacketConn
	err := n.Do(func() (err error) {
		conn, err = net.ListenPacket(network, address)
		return err
	})
	return conn, err
}

// Sysctl writes a value below /proc/sys/ in the node, such as net/ipv4/ip_forward.
func (n *Node) Sysctl(key, value string) error {
	// The kernel shows net/ of the writer's namespace, so no program has to be started for it.
	return n.Do(func() error {
		return os.WriteFile("/proc/sys/"+key, []byte(value), 0o644)
	})
}

// IP runs lines of ip(8) in the node, all by one process, and stops at the first that fails.
func (n *Node) IP(lines ...string) error {
	cmd := n.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	_, err := cmd.text()
	return err
}
