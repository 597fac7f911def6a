package system

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"uplane/test/lab"
)

// A server of the internet that sends all the time, by UDP to who has asked it last, and by TCP to all.
const (
	streamPort  = 9000
	streamEvery = 10 * time.Millisecond
)

var streamAddr = netip.AddrPortFrom(lab.WhoamiAddr, streamPort)

// stream starts the server; it goes with the world.
func (s *site) stream() {
	s.Helper()
	datagrams, err := s.world.Inet.ListenPacket("udp", streamAddr.String())
	if err != nil {
		s.Fatal(err)
	}
	streams, err := s.world.Inet.Listen("tcp", streamAddr.String())
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { datagrams.Close(); streams.Close() })
	var mu sync.Mutex
	var asked net.Addr
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := datagrams.ReadFrom(buf)
			if err != nil {
				return
			}
			mu.Lock()
			asked = from
			mu.Unlock()
		}
	}()
	go func() {
		for {
			mu.Lock()
			to := asked
			mu.Unlock()
			if to != nil {
				// Refused by an ICMP error of an earlier datagram, maybe: it goes on all the same.
				if _, err := datagrams.WriteTo([]byte("a datagram of a stream"), to); errors.Is(err, net.ErrClosed) {
					return
				}
			}
			time.Sleep(streamEvery)
		}
	}()
	go func() {
		for {
			conn, err := streams.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for {
					if _, err := conn.Write([]byte("a piece of a stream\n")); err != nil {
						return
					}
					time.Sleep(streamEvery)
				}
			}()
		}
	}()
}

// listener is a program in a lane that asks the streaming server once, and then only receives.
type listener struct {
	udp, tcp   net.Conn
	datagrams  atomic.Int64
	pieces     atomic.Int64
	tcpErr     error
	tcpBroken  chan struct{} // closed when TCP has failed
	brokenTime time.Time
}

// listen starts one, and returns when it receives by both protocols.
func (s *site) listen(lane string) *listener {
	s.Helper()
	node := s.node(lane)
	l := &listener{tcpBroken: make(chan struct{})}
	var err error
	if l.udp, err = node.Dial(s.ctx, "udp", streamAddr.String()); err != nil {
		s.Fatal(err)
	}
	if l.tcp, err = node.Dial(s.ctx, "tcp", streamAddr.String()); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { l.udp.Close(); l.tcp.Close() })
	if _, err := l.udp.Write([]byte("send")); err != nil {
		s.Fatal(err)
	}
	go func() {
		buf := make([]byte, 64)
		for {
			if _, err := l.udp.Read(buf); err != nil {
				return
			}
			l.datagrams.Add(1)
		}
	}()
	go func() {
		defer close(l.tcpBroken)
		buf := make([]byte, 64)
		for {
			if _, err := l.tcp.Read(buf); err != nil {
				l.tcpErr, l.brokenTime = err, time.Now()
				return
			}
			l.pieces.Add(1)
		}
	}()
	waitFor(s.T, func() bool { return l.datagrams.Load() > 5 && l.pieces.Load() > 5 }, "the stream arrives in "+lane)
	return l
}

func (s *site) node(lane string) *lab.Node {
	s.Helper()
	node, err := s.world.Host.Namespace(lane)
	if err != nil {
		s.Fatal(err)
	}
	return node
}

// works waits until a lane is up, or would be if nobody kept undoing it, which it says for a minute.
func (s *site) works(lane string) {
	s.Helper()
	s.wait(lane, func(l lab.LaneStatus) bool {
		return l.State == "up" || l.State == "degraded" && !slices.ContainsFunc(strings.Split(l.Reason, "; "), func(part string) bool {
			return !strings.HasPrefix(part, "another program keeps undoing")
		})
	})
}

// capture records on a card of the host.
func (s *site) capture(card string, filter func(lab.Packet) bool) *lab.Capture {
	s.Helper()
	c, err := s.world.Host.Capture(card, filter)
	if err != nil {
		s.Fatal(err)
	}
	return c
}

// stray records what goes over the wire in either direction and is not between the host, by its address
// there, and others: whatever that is, it belongs to another card or to a lane.
func (s *site) stray() *lab.Capture {
	s.Helper()
	own := s.world.Wire.DHCP().Address.Addr()
	return s.capture(lab.Wired, func(p lab.Packet) bool {
		here, there := p.Src, p.Dst
		if !p.Outgoing {
			here, there = p.Dst, p.Src
		}
		switch {
		case p.IsARP(), here == own, here.IsLinkLocalUnicast(), here.IsUnspecified(), here.IsMulticast(), there.IsMulticast():
			return false
		case p.DstPort == 67 || p.DstPort == 68:
			return false
		}
		return true
	})
}

// untranslated records what leaves a card with an address of a lane.
func (s *site) untranslated(card string) *lab.Capture {
	s.Helper()
	return s.capture(card, func(p lab.Packet) bool { return p.Outgoing && !p.IsARP() && p.Touches(laneSpace) })
}

// requireNone ends a capture, which must have seen nothing.
func (s *site) requireNone(c *lab.Capture, what string) {
	s.Helper()
	got, err := c.Stop()
	if err != nil {
		s.Error(err)
	}
	if len(got) > 0 {
		s.Errorf("%s: %d packets, such as\n%v\n%v", what, len(got), got[0], got[len(got)-1])
	}
}

// streaming returns when n more datagrams of the server's stream have come in by the Wi-Fi: the case holds for as long
// as it sends.
func (s *site) streaming(n int) {
	s.Helper()
	c := s.capture(lab.WiFi, func(p lab.Packet) bool {
		return p.Proto == unix.IPPROTO_UDP && p.Src == streamAddr.Addr() && p.SrcPort == streamPort
	})
	waitFor(s.T, func() bool { return len(c.Packets()) >= n }, "the server goes on sending")
	_, _ = c.Stop()
}

// talker is a program in a lane that asks the internet who it is all the time, each time by a socket of its own.
type talker struct {
	stop     context.CancelFunc
	done     chan struct{}
	mu       sync.Mutex
	last     time.Time     // of an answer
	silence  time.Duration // the longest time between two answers
	answers  int
	others   []netip.Addr // answers that were not want
	deferred error
}

const talkEvery = 2 * time.Millisecond

// talk starts one. It may only be seen by the address want.
func (s *site) talk(lane string, want netip.Addr) *talker {
	s.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	t := &talker{stop: cancel, done: make(chan struct{}), last: time.Now()}
	node := s.node(lane)
	go func() {
		defer close(t.done)
		// Errors are what a closed lane gives.
		t.deferred = node.Do(func() error {
			for ctx.Err() == nil {
				t.ask(want)
			}
			return nil
		})
	}()
	s.Cleanup(func() { cancel(); <-t.done })
	t.heard(s, 5)
	return t
}

func (t *talker) ask(want netip.Addr) {
	defer time.Sleep(talkEvery)
	conn, err := net.Dial("udp4", netip.AddrPortFrom(lab.WhoamiAddr, lab.WhoamiPort).String())
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Millisecond))
	buf := make([]byte, 64)
	if _, err := conn.Write([]byte("who am I?")); err != nil {
		return
	}
	n, err := conn.Read(buf)
	if err != nil {
		return
	}
	from, err := netip.ParseAddrPort(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answers++
	t.silence = max(t.silence, time.Since(t.last))
	t.last = time.Now()
	if from.Addr() != want {
		t.others = append(t.others, from.Addr())
	}
}

// heard waits for n more answers.
func (t *talker) heard(s *site, n int) {
	s.Helper()
	count := func() int {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.answers
	}
	before := count()
	waitFor(s.T, func() bool { return count() >= before+n }, "the lane's program is answered")
}

// quiet returns the longest silence since the last call.
func (t *talker) quiet() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.silence
	t.silence = 0
	return d
}

// end stops it and checks that nobody but the uplink has answered.
func (t *talker) end(s *site) {
	s.Helper()
	t.stop()
	<-t.done
	if t.deferred != nil {
		s.Error(t.deferred)
	}
	if len(t.others) > 0 {
		s.Errorf("the lane was seen as %v", t.others)
	}
}

// tunnel makes a VPN's interface that takes whatever is sent into it, and returns a capture of what
// lanes send into it, whoever's address it has.
func (s *site) tunnel() *lab.Capture {
	s.Helper()
	s.sh(`ip netns add far; ip link add tun0 type veth peer name tun0 netns far
ip -n far link set dev lo up; ip -n far addr add 192.0.2.2/24 dev tun0; ip -n far link set dev tun0 up
ip addr add 192.0.2.1/24 dev tun0; ip link set dev tun0 up`)
	return s.capture("tun0", func(p lab.Packet) bool {
		return p.Outgoing && !p.IsARP() && p.Dst == lab.WhoamiAddr
	})
}

// traffic sends from a lane what may or may not leave, for as long as it takes to send that.
func (s *site) traffic(lane string) {
	s.Helper()
	r := s.shTry(fmt.Sprintf("ip netns exec %s ping -i0.05 -c10 -W1 %s", lane, lab.WhoamiAddr))
	if r.code == 2 {
		s.Fatalf("ping: %s%s", r.out, r.err)
	}
}
