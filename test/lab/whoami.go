package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Whoami asks the internet, over UDP and by the node's own routes, by which public address it sees
// the node. Without an answer it asks again every 200 ms until ctx ends.
func (n *Node) Whoami(ctx context.Context) (netip.Addr, error) {
	return n.whoami(ctx, &net.Dialer{})
}

// WhoamiVia is [Node.Whoami] for a socket bound to an interface.
func (n *Node) WhoamiVia(ctx context.Context, iface string) (netip.Addr, error) {
	return n.whoami(ctx, &net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		ctlErr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), iface) })
		if ctlErr != nil {
			return ctlErr
		}
		return err
	}})
}

func (n *Node) whoami(ctx context.Context, dialer *net.Dialer) (netip.Addr, error) {
	var seen netip.Addr
	err := poll(ctx, time.Millisecond, func() (err error) {
		seen, err = n.askWhoami(ctx, dialer)
		return err
	})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("whoami from %s: %w", n.Name, err)
	}
	return seen, nil
}

func (n *Node) askWhoami(ctx context.Context, dialer *net.Dialer) (netip.Addr, error) {
	conn, err := n.DialWith(ctx, dialer, "udp", netip.AddrPortFrom(WhoamiAddr, WhoamiPort).String())
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("who am I?")); err != nil {
		return netip.Addr{}, err
	}
	_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	buf := make([]byte, 64)
	size, err := conn.Read(buf)
	if err != nil {
		return netip.Addr{}, err
	}
	from, err := netip.ParseAddrPort(string(buf[:size-1]))
	return from.Addr(), err
}
