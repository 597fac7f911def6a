package lab

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// WhoamiPort is where the whoami server answers, over UDP to every datagram and over TCP to every
// connection, with the address and port that the question came from. On TCP port 80 it does so over
// HTTP, with the address only.
const WhoamiPort = 7

// Inet is the internet.
type Inet struct {
	*Node

	mu      sync.Mutex
	queries []Query
}

func (i *Inet) setUp() error {
	lines := []string{"link set dev lo up"}
	for _, addr := range []netip.Addr{WhoamiAddr, WireDNS, WifiDNS} {
		lines = append(lines, fmt.Sprintf("address add %s dev lo", addr))
	}
	for _, gateway := range []*Router{i.world.Wire.Router, i.world.Wifi.Router, i.world.Wifi2} {
		lines = append(lines,
			"link set dev "+gateway.Name+" up",
			fmt.Sprintf("address add %s peer %s dev %s", provider, gateway.Public, gateway.Name))
	}
	if err := i.IP(lines...); err != nil {
		return err
	}
	if err := i.serveWhoami(); err != nil {
		return err
	}
	for _, addr := range []netip.Addr{WireDNS, WifiDNS} {
		if err := i.serveDNS(addr); err != nil {
			return err
		}
	}
	return nil
}

func (i *Inet) serveWhoami() error {
	address := netip.AddrPortFrom(WhoamiAddr, WhoamiPort).String()
	datagrams, err := i.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	i.world.keep(datagrams)
	go serveDatagrams(datagrams, func(_ []byte, from netip.AddrPort) []byte {
		return []byte(from.String() + "\n")
	})

	streams, err := i.Listen("tcp", address)
	if err != nil {
		return err
	}
	i.world.keep(streams)
	go serveStreams(streams, tellCaller)

	// The name servers have it too: names in SplitDomain are theirs.
	web, err := i.Listen("tcp4", ":80")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintln(w, netip.MustParseAddrPort(r.RemoteAddr).Addr())
	})}
	i.world.keep(server)
	go func() { _ = server.Serve(web) }() // it ends when the world closes it
	return nil
}

// tellCaller answers once at the start and then echoes lines, so that a kept connection can be
// tried again.
func tellCaller(conn net.Conn) {
	_, _ = fmt.Fprintln(conn, conn.RemoteAddr())
	_, _ = io.Copy(conn, conn)
}

// serveStreams serves each connection, and closes it then, until the socket is closed.
func serveStreams(streams net.Listener, serve func(net.Conn)) {
	for {
		conn, err := streams.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			serve(conn)
		}()
	}
}

// serveDatagrams sends the answer to each datagram, until the socket is closed.
func serveDatagrams(conn net.PacketConn, answer func(question []byte, from netip.AddrPort) []byte) {
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if reply := answer(buf[:n], from.(*net.UDPAddr).AddrPort()); reply != nil {
			_, _ = conn.WriteTo(reply, from)
		}
	}
}
