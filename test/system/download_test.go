package system

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// download has a program in a lane receive numbers from the internet, as fast as it can by TCP and one a
// millisecond by UDP. What it returns ends that, fails the test unless TCP brought all of them in their order and both
// went on to the end, and returns how many datagrams are missing.
func (s *site) download(lane string) (end func() (lost uint64)) {
	s.Helper()
	node, err := s.world.Host.Namespace(lane)
	if err != nil {
		s.Fatal(err)
	}
	address := streamAddr.String()
	listener, err := s.world.Inet.Listen("tcp", address)
	if err != nil {
		s.Fatal(err)
	}
	packets, err := s.world.Inet.ListenPacket("udp", address)
	if err != nil {
		s.Fatal(err)
	}
	tcp, err := node.Dial(s.ctx, "tcp", address)
	if err != nil {
		s.Fatal(err)
	}
	udp, err := node.Dial(s.ctx, "udp", address)
	if err != nil {
		s.Fatal(err)
	}
	if err := udp.(*net.UDPConn).SetReadBuffer(1 << 20); err != nil {
		s.Fatal(err)
	}
	if _, err := udp.Write([]byte("begin")); err != nil {
		s.Fatal(err)
	}

	var done atomic.Bool
	var sent uint64 // by UDP
	var servers, clients sync.WaitGroup
	servers.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		block := make([]byte, 8<<10)
		for n := uint64(0); !done.Load(); {
			for i := 0; i < len(block); i += 8 {
				binary.BigEndian.PutUint64(block[i:], n)
				n++
			}
			_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if _, err := conn.Write(block); err != nil {
				return // the client knows better why
			}
			time.Sleep(100 * time.Microsecond) // others use the machine, too
		}
	})
	servers.Go(func() {
		_, to, err := packets.ReadFrom(make([]byte, 8))
		for ; err == nil && !done.Load(); sent++ {
			_, err = packets.WriteTo(binary.BigEndian.AppendUint64(nil, sent), to)
			time.Sleep(time.Millisecond)
		}
		_, _ = packets.WriteTo([]byte("end"), to)
	})
	var words, datagrams uint64
	var tcpErr, udpErr error
	clients.Go(func() {
		buf := make([]byte, 8)
		for {
			if _, err := io.ReadFull(tcp, buf); err != nil {
				if err != io.EOF {
					tcpErr = err
				}
				return
			}
			if got := binary.BigEndian.Uint64(buf); got != words {
				tcpErr = fmt.Errorf("word %d is %d", words, got)
				return
			}
			words++
		}
	})
	clients.Go(func() {
		buf := make([]byte, 8)
		for {
			n, err := udp.Read(buf)
			if err != nil || n != len(buf) {
				udpErr = err
				return
			}
			datagrams++
		}
	})
	return func() (lost uint64) {
		s.Helper()
		done.Store(true)
		servers.Wait()
		_ = tcp.SetReadDeadline(time.Now().Add(5 * time.Second))
		_ = udp.SetReadDeadline(time.Now().Add(5 * time.Second))
		clients.Wait()
		for _, c := range []io.Closer{listener, packets, tcp, udp} {
			c.Close()
		}
		if tcpErr != nil || words == 0 {
			s.Errorf("the download ends after %d bytes: %v", 8*words, tcpErr)
		}
		if udpErr != nil || datagrams == 0 {
			s.Errorf("%d of %d datagrams arrive: %v", datagrams, sent, udpErr)
		}
		s.Logf("%d bytes, and %d of %d datagrams", 8*words, datagrams, sent)
		return sent - datagrams
	}
}
