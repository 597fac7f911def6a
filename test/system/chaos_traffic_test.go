package system

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"uplane/test/lab"
)

// Ports of a lane's own server in the internet.
const (
	datagramPort = 7000 // answers with the address that it sees, and streams for a while
	downloadPort = 7001 // sends as long as it can
	uploadPort   = 7002 // says how much has come
)

const (
	beat     = 20 * time.Millisecond // between two packets of one kind
	streamed = 2 * time.Second       // how long a server sends to somebody who is not heard any more
	patience = 3 * time.Second       // after which a program tries anew
)

// serve starts a lane's server.
func serve(w *lab.World, lane *chaosLane) error {
	if err := w.Inet.IP(fmt.Sprintf("address add %s dev lo", lane.server)); err != nil {
		return err
	}
	if err := serveDatagrams(w.Inet.Node, lane.server); err != nil {
		return err
	}
	for port, talk := range map[uint16]func(net.Conn){downloadPort: download, uploadPort: upload} {
		streams, err := w.Inet.Listen("tcp4", netip.AddrPortFrom(lane.server, port).String())
		if err != nil {
			return err
		}
		go func() { // until the test's process ends
			for {
				conn, err := streams.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					forgetful(conn)
					talk(conn)
				}()
			}
		}()
	}
	return nil
}

// forgetful has the kernel send again what nobody acknowledges for no longer than datagrams go on.
func forgetful(conn net.Conn) {
	if raw, err := conn.(*net.TCPConn).SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(streamed.Milliseconds()))
		})
	}
}

// serveDatagrams answers every datagram with its sender's address, and goes on sending to everybody who was heard
// a while ago: what comes in for a lane does not end when the lane does.
func serveDatagrams(node *lab.Node, server netip.Addr) error {
	conn, err := node.ListenPacket("udp4", netip.AddrPortFrom(server, datagramPort).String())
	if err != nil {
		return err
	}
	var mu sync.Mutex
	heard := map[netip.AddrPort]time.Time{}
	go func() {
		for buf := make([]byte, 2048); ; {
			_, from, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // a client's port was unreachable
			}
			peer := from.(*net.UDPAddr).AddrPort()
			mu.Lock()
			heard[peer] = time.Now()
			mu.Unlock()
			_, _ = conn.WriteTo([]byte(peer.Addr().String()), from)
		}
	}()
	go func() {
		for range time.Tick(beat) {
			mu.Lock()
			for peer, when := range heard {
				if time.Since(when) > streamed {
					delete(heard, peer)
					continue
				}
				_, _ = conn.WriteTo(make([]byte, 200), net.UDPAddrFromAddrPort(peer))
			}
			mu.Unlock()
		}
	}()
	return nil
}

func download(conn net.Conn) {
	for range time.Tick(beat) {
		_ = conn.SetWriteDeadline(time.Now().Add(patience))
		if _, err := conn.Write(make([]byte, 1000)); err != nil {
			return
		}
	}
}

func upload(conn net.Conn) {
	for buf := make([]byte, 4096); ; {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := conn.Read(buf); err != nil {
			return
		}
		if _, err := conn.Write(buf[:1]); err != nil {
			return
		}
	}
}

// kind is what programs in a lane do.
type kind string

const (
	datagrams kind = "UDP"
	downloads kind = "download"
	uploads   kind = "upload"
	pings     kind = "ICMP"
	questions kind = "DNS"
	neighbour kind = "allowed network" // of lanes that may reach one
)

// programs keep all kinds of traffic going in a lane, whatever happens to it.
type programs struct {
	world   *lab.World
	lane    *chaosLane
	answers map[kind]*atomic.Int64
	seenAs  atomic.Pointer[netip.Addr] // the lane's address, as its server saw it last
}

func newPrograms(w *lab.World, lane *chaosLane) *programs {
	p := &programs{world: w, lane: lane, answers: map[kind]*atomic.Int64{}}
	for _, k := range []kind{datagrams, downloads, uploads, pings, questions} {
		p.answers[k] = new(atomic.Int64)
	}
	if lane.neighbour.IsValid() {
		p.answers[neighbour] = new(atomic.Int64)
	}
	return p
}

// run keeps the programs going until ctx ends.
func (p *programs) run(ctx context.Context) {
	for ctx.Err() == nil {
		if inode := p.inode(); inode != 0 {
			p.session(ctx, inode)
		}
		pause(ctx, 50*time.Millisecond)
	}
}

// inode identifies the lane's namespace; 0: there is none.
func (p *programs) inode() uint64 {
	info, err := os.Stat(p.world.Host.Path("/run/netns/" + p.lane.name))
	if err != nil {
		return 0
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// session is the time of one namespace.
func (p *programs) session(ctx context.Context, inode uint64) {
	node, err := p.world.Host.Namespace(p.lane.name)
	if err != nil {
		return
	}
	defer node.Close()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for k := range p.answers {
		wg.Go(func() {
			for ctx.Err() == nil {
				_ = p.talk(ctx, node, k) // it fails whenever the lane is closed
				pause(ctx, beat)
			}
		})
	}
	for ctx.Err() == nil && p.inode() == inode {
		pause(ctx, 100*time.Millisecond)
	}
	cancel()
	wg.Wait()
}

// talk does one thing until it fails.
func (p *programs) talk(ctx context.Context, node *lab.Node, k kind) error {
	server := func(port uint16) string { return netip.AddrPortFrom(p.lane.server, port).String() }
	network, address := "udp4", server(datagramPort)
	switch k {
	case downloads:
		network, address = "tcp4", server(downloadPort)
	case uploads:
		network, address = "tcp4", server(uploadPort)
	case pings:
		network, address = "ip4:icmp", p.lane.server.String()
	case questions:
		address = p.nameServer()
	case neighbour:
		address = netip.AddrPortFrom(p.lane.neighbour, datagramPort).String()
	}
	conn, err := node.DialWith(ctx, &net.Dialer{Timeout: patience}, network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if k == uploads || k == downloads {
		_ = conn.(*net.TCPConn).SetLinger(-1) // its end is told, and told again, as any program's
	}
	return p.exchange(ctx, conn, k)
}

// exchange sends and receives on a connection until it fails.
func (p *programs) exchange(ctx context.Context, conn net.Conn, k kind) error {
	buf := make([]byte, 4096)
	silent := time.Now()
	for n := uint16(0); ctx.Err() == nil; n++ {
		if k != downloads {
			if _, err := conn.Write(p.message(k, n)); err != nil {
				return err
			}
		}
		_ = conn.SetReadDeadline(time.Now().Add(beat))
		size, err := conn.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if time.Since(silent) > patience {
				return err
			}
			continue
		case err != nil:
			return err
		case size == 0:
			return io.EOF
		}
		silent = time.Now()
		p.heard(k, buf[:size])
		if k == questions {
			pause(ctx, 5*beat)
		}
		pause(ctx, beat)
	}
	return ctx.Err()
}

// heard counts an answer.
func (p *programs) heard(k kind, answer []byte) {
	if k == datagrams {
		if seen, err := netip.ParseAddr(string(answer)); err == nil {
			p.seenAs.Store(&seen)
		}
	}
	if k == pings && (len(answer) < 28 || answer[20] != 0) { // behind the IP header
		return // no echo reply
	}
	p.answers[k].Add(1)
}

// message is what a program of a kind sends.
func (p *programs) message(k kind, n uint16) []byte {
	switch k {
	case pings:
		m := append([]byte{8, 0, 0, 0, 0x11, 0x70}, binary.BigEndian.AppendUint16(nil, n)...)
		m = append(m, bytes.Repeat([]byte{0x55}, 56)...)
		binary.BigEndian.PutUint16(m[2:], checksum(m))
		return m
	case questions:
		m := binary.BigEndian.AppendUint16(nil, n)
		m = append(m, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
		for _, label := range strings.Split(fmt.Sprintf("n%d.%s.%s", n, p.lane.name, lab.SplitDomain), ".") {
			m = append(append(m, byte(len(label))), label...)
		}
		return append(m, 0, 0, 1, 0, 1)
	}
	return make([]byte, 500)
}

// nameServer is whom the lane asks for names.
func (p *programs) nameServer() string {
	text, _ := os.ReadFile(p.world.Host.Path("/etc/netns/" + p.lane.name + "/resolv.conf"))
	for line := range strings.Lines(string(text)) {
		if server, ok := strings.CutPrefix(line, "nameserver "); ok {
			return net.JoinHostPort(strings.TrimSpace(server), "53")
		}
	}
	return "192.0.2.1:53" // nobody
}

// checksum is the internet's.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
