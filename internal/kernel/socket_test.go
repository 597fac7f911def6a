package kernel

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uplane/internal/nsthread"
	"uplane/policy"
	"uplane/test/lab"
)

// openLane makes the test's two lanes, steam with IPv6.
func openLane(t *testing.T) *Kernel {
	t.Helper()
	sh(t, uplinkLinks)
	k := open(t, nil)
	converge(t, k, testState())
	// Lanes' rules want a mark that no table sets here.
	sh(t, `for f in -4 -6; do ip $f rule flush; ip $f rule add priority 32766 lookup main; done; ip rule add priority 32767 lookup default
ip netns exec steam sysctl -qw net/ipv6/conf/eth0/disable_ipv6=0; ip -n steam addr add fd00:1:2:2::2/64 dev eth0 nodad`)
	return k
}

// inNetns calls f with its thread in a namespace.
func inNetns(name string, f func() error) error {
	ns, err := openNetns(name)
	if err != nil {
		return err
	}
	defer ns.Close()
	return nsthread.Run(func() error {
		if err := unix.Setns(int(ns), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

func listen(network, address string) (net.PacketConn, error) {
	return net.ListenPacket(network, address)
}

func dial(t *testing.T, network, address string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// connect connects from the lane steam to an address of the host's, and returns both ends, of UDP only the lane's.
func connect(t *testing.T, network, address string) (server, client net.Conn) {
	t.Helper()
	if network == "tcp" {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		address = l.Addr().String()
		defer func() {
			if server, err = l.Accept(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { server.Close() })
		}()
	}
	if err := inNetns("steam", func() (err error) {
		client, err = net.Dial(network, address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return server, client
}

// TestDestroySockets ends a lane's connections under programs that only wait for what comes.
func TestDestroySockets(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	k := openLane(t)
	ended := map[string]net.Conn{}
	for name, c := range map[string][2]string{
		"TCP":              {"tcp", "10.0.2.1:0"},
		"TCP of IPv6":      {"tcp", "[fd00:1:2:2::1]:0"},
		"UDP":              {"udp", "10.0.2.1:7000"},
		"UDP of IPv6":      {"udp", "[fd00:1:2:2::1]:7000"},
		"UDP to elsewhere": {"udp", "198.51.100.7:443"},
	} {
		_, ended[name] = connect(t, c[0], c[1])
	}
	stays := map[string]io.ReadCloser{}
	if err := inNetns("steam", func() error {
		mapped, err := dialMapped([4]byte{10, 0, 2, 1}, 7000)
		if err != nil {
			return err
		}
		ended["UDP by a socket of IPv6"] = mapped
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		if stays["TCP on lo"], err = net.Dial("tcp", l.Addr().String()); err != nil {
			return err
		}
		if stays["UDP on lo"], err = net.Dial("udp", "[::1]:7000"); err != nil {
			return err
		}
		if stays["TCP to itself"], err = dialSelf(t, "10.0.2.2:0"); err != nil {
			return err
		}
		packets, err := net.ListenPacket("udp", "10.0.2.2:0")
		if err == nil {
			stays["UDP unconnected"] = packets.(*net.UDPConn)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	host, _ := connect(t, "tcp", "10.0.2.1:0")
	defer host.Close()

	errs := map[string]chan error{}
	for name, c := range ended {
		end := make(chan error, 1)
		errs[name] = end
		go func() { end <- readOne(c) }()
	}
	time.Sleep(20 * time.Millisecond)
	if err := k.Apply(policy.Op{Verb: policy.Destroy, Object: policy.Sockets{Netns: "steam"}}); err != nil {
		t.Fatal(err)
	}
	for name, c := range errs {
		select {
		case err := <-c:
			if !errors.Is(err, unix.ECONNABORTED) {
				t.Errorf("%s ends with %v", name, err)
			}
		case <-time.After(time.Second):
			t.Errorf("%s goes on", name)
		}
	}
	for name, c := range stays {
		c.(interface{ SetReadDeadline(time.Time) error }).SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if err := readOne(c); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s ended: %v", name, err)
		}
	}
	// Again: there is nothing left to end.
	if err := k.Apply(policy.Op{Verb: policy.Destroy, Object: policy.Sockets{Netns: "steam"}}); err != nil {
		t.Error(err)
	}
}

func readOne(r io.Reader) error {
	_, err := r.Read(make([]byte, 1))
	return err
}

// dialMapped connects a UDP socket of IPv6 to an address of IPv4, as programs do that know one kind only.
func dialMapped(ip [4]byte, port int) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	to := unix.SockaddrInet6{Port: port}
	copy(to.Addr[:], append([]byte{10: 0xff, 11: 0xff}, ip[:]...))
	if err := unix.Connect(fd, &to); err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "udp6")
	defer file.Close()
	return net.FileConn(file)
}

func dialSelf(t *testing.T, address string) (net.Conn, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { l.Close() })
	return net.Dial("tcp", l.Addr().String())
}

func FuzzParseSocket(f *testing.F) {
	body := make([]byte, sizeofDiagAnswer+20)
	body[0] = unix.AF_INET
	copy(body[4+4:], []byte{10, 0, 2, 2})
	copy(body[4+20:], []byte{198, 51, 100, 1})
	if _, outside := parseSocket(body); !outside {
		f.Fatal("a socket that is connected to outside is not seen as one")
	}
	f.Add(body)
	f.Add(body[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, outside := parseSocket(b); outside && len(socketRequest(socket{b[0], unix.IPPROTO_TCP, id})) != sizeofDiagReq {
			t.Error("a request has another size")
		}
	})
}
