package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"uplane/test/lab"
)

const (
	trafficChanges = 20
	trafficPause   = 250 * time.Millisecond // between two changes
	echoPort       = 4000
	replyTime      = time.Second // an answer that takes longer is lost
)

func traffic(b *bench) (section, error) {
	s := section{
		How: fmt.Sprintf(`From inside the lane, to a server in the internet and back, while the profile's gateway changes %d times, every %v:
one steady UDP flow with a datagram each millisecond, a new UDP flow every 5 ms, and a ping every 10 ms. *Leaked* is what the
wired card sends with the lane's address or to that server. *Without a default* is how long table %d had no default
route, by the route events.`, trafficChanges, trafficPause, laneTable),
		Table: table{{"probe", "sent", "lost", "leaked", "ms without a default"}},
	}
	site, err := b.newUplaneSite(0)
	if err != nil {
		return s, err
	}
	defer site.close()
	if err := site.lane("steam"); err != nil {
		return s, err
	}
	lane, err := site.world.Host.Namespace("steam")
	if err != nil {
		return s, err
	}
	profile, err := site.nmProfile()
	if err != nil {
		return s, err
	}
	if err := profile.setGateway(site.gateways()[0]); err != nil {
		return s, err
	}
	time.Sleep(settleTime)
	// The wifi's router is also the switch between the host and the other router; bridged
	// packets are none of its NAT's business, but the kernel shows them to it (br_netfilter).
	if err := site.world.Wifi.Sysctl("net/bridge/bridge-nf-call-iptables", "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	stopEcho, err := serveEcho(site.world.Inet.Node)
	if err != nil {
		return s, err
	}
	defer stopEcho()
	subnet := netip.MustParsePrefix("10.0.1.0/24")
	leaks, err := site.world.Host.Capture(lab.Wired, func(p lab.Packet) bool {
		return p.Touches(subnet) || !p.IsARP() && p.Dst == lab.WhoamiAddr
	})
	if err != nil {
		return s, err
	}
	o, err := observe(site.world)
	if err != nil {
		return s, err
	}
	defer o.close()

	t := prober{lane: lane, stop: make(chan struct{})}
	steady, err := t.steady()
	if err != nil {
		return s, err
	}
	pings, err := t.pings()
	if err != nil {
		return s, err
	}
	flows := t.flows()
	time.Sleep(trafficPause)
	for i := range trafficChanges {
		if err := profile.setGateway(site.gateways()[(i+1)%2]); err != nil {
			return s, err
		}
		time.Sleep(trafficPause)
	}
	close(t.stop)
	t.running.Wait()
	leaked, err := leaks.Stop()
	if err != nil {
		return s, err
	}
	changes, gap := withoutDefault(o.seen(), laneTable)
	if changes < trafficChanges {
		return s, fmt.Errorf("table %d changed only %d times", laneTable, changes)
	}
	s.Table.row("steady UDP flow", fmt.Sprint(steady.sent.Load()), fmt.Sprint(steady.lost()), "", "")
	s.Table.row("new UDP flows", fmt.Sprint(flows.sent.Load()), fmt.Sprint(flows.lost()), "", "")
	s.Table.row("pings", fmt.Sprint(pings.sent.Load()), fmt.Sprint(pings.lost()), "", "")
	s.Table.row("wired card", "", "", fmt.Sprint(len(leaked)), "")
	s.Table.row(fmt.Sprintf("table %d", laneTable), "", "", "", fmt.Sprintf("%.3f", gap.Seconds()*1000))
	lost := steady.lost() + flows.lost() + pings.lost()
	s.aim(lost == 0 && len(leaked) == 0 && gap == 0, fmt.Sprintf("%d changes: nothing lost, nothing leaked, always a default", trafficChanges),
		"%d lost, %d leaked, %.3f ms", lost, len(leaked), gap.Seconds()*1000)
	return s, nil
}

// withoutDefault returns how often table got a default, and how long it had none.
func withoutDefault(events []event, table uint32) (changes int, gap time.Duration) {
	var since time.Time // zero: there is one
	for _, e := range events {
		switch {
		case !e.route.isDef || e.route.table != table:
		case e.kind == unix.RTM_DELROUTE:
			since = e.at
		case e.kind == unix.RTM_NEWROUTE:
			changes++
			if !since.IsZero() {
				gap += e.at.Sub(since)
				since = time.Time{}
			}
		}
	}
	if !since.IsZero() {
		gap += time.Since(since)
	}
	return changes, gap
}

// serveEcho sends datagrams back.
func serveEcho(node *lab.Node) (stop func(), err error) {
	conn, err := node.ListenPacket("udp", fmt.Sprintf("%s:%d", lab.WhoamiAddr, echoPort))
	if err != nil {
		return nil, err
	}
	go func() {
		buf := make([]byte, 64)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(buf[:n], from)
		}
	}()
	return func() { conn.Close() }, nil
}

// prober sends from a lane until stop is closed.
type prober struct {
	lane    *lab.Node
	stop    chan struct{}
	running sync.WaitGroup
}

// probe counts.
type probe struct{ sent, answered atomic.Int64 }

func (p *probe) lost() int64 { return p.sent.Load() - p.answered.Load() }

// every calls f until the end, and then waits for the last answers.
func (t *prober) every(pause time.Duration, f func()) {
	t.running.Go(func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for {
			select {
			case <-t.stop:
				time.Sleep(replyTime)
				return
			case <-tick.C:
				f()
			}
		}
	})
}

// steady is one flow.
func (t *prober) steady() (*probe, error) {
	conn, err := t.dial()
	if err != nil {
		return nil, err
	}
	p := &probe{}
	go count(conn, &p.answered, func(b []byte) bool { return len(b) == 8 })
	var packet [8]byte
	t.every(time.Millisecond, func() {
		binary.NativeEndian.PutUint64(packet[:], uint64(p.sent.Add(1)))
		_, _ = conn.Write(packet[:]) // an error is a loss
	})
	return p, nil
}

// flows is a new flow each time.
func (t *prober) flows() *probe {
	p := &probe{}
	t.every(5*time.Millisecond, func() {
		p.sent.Add(1)
		t.running.Go(func() {
			conn, err := t.dial()
			if err != nil {
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(replyTime))
			var packet [8]byte
			if _, err := conn.Write(packet[:]); err != nil {
				return
			}
			if _, err := conn.Read(packet[:]); err == nil {
				p.answered.Add(1)
			}
		})
	})
	return p
}

func (t *prober) dial() (net.Conn, error) {
	var conn net.Conn
	err := t.lane.Do(func() (err error) {
		conn, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(lab.WhoamiAddr, echoPort)))
		return err
	})
	return conn, err
}

// pings are ICMP echo requests.
func (t *prober) pings() (*probe, error) {
	var conn net.Conn
	err := t.lane.Do(func() (err error) {
		conn, err = net.Dial("ip4:icmp", lab.WhoamiAddr.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	p := &probe{}
	const request, reply, header = 8, 0, 20
	go count(conn, &p.answered, func(b []byte) bool { return len(b) == header+8 && b[header] == reply })
	t.every(10*time.Millisecond, func() {
		n := p.sent.Add(1)
		packet := []byte{request, 0, 0, 0, 0x11, 0x7a, byte(n >> 8), byte(n)}
		binary.BigEndian.PutUint16(packet[2:], checksum(packet))
		_, _ = conn.Write(packet) // an error is a loss
	})
	return p, nil
}

// count reads until conn is closed, which the end of the program does.
func count(conn net.Conn, n *atomic.Int64, ok func([]byte) bool) {
	buf := make([]byte, 2048)
	for {
		size, err := conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && ok(buf[:size]) {
			n.Add(1)
		}
	}
}

// checksum is the internet's.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
