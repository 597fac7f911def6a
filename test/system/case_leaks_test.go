package system

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uplane/test/lab"
)

// TestStreamToLaneThatIsGone has a server go on sending to a lane that is no more there, or is elsewhere. The other
// lane, or the host, still forwards.
func TestStreamToLaneThatIsGone(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.stream()
	s.run("up", "other", "--uplink", lab.WiFi)
	for _, goes := range []string{
		"uplane down steam",
		"uplane remove steam",
		"uplane up steam --subnet 10.77.1.0/24",
		"ip route add $(ip -4 route show dev ul-steam table 117117 | cut -d' ' -f1) dev enp7s0 metric 50", // which takes its number
		"sysctl -qw net/ipv4/ip_forward=1; uplane down other; uplane down steam",                          // the host is a router of others
	} {
		s.run("up", "steam", "--uplink", lab.WiFi)
		s.listen("steam")
		wire := s.stray()
		s.sh(goes)
		s.streaming(150)
		s.requireNone(wire, "by the wire after "+goes)
		s.sh("ip route flush dev enp7s0 scope link proto boot; conntrack -F 2>/dev/null; uplane remove steam 2>/dev/null || :")
	}
}

// TestAnswersOfTheHost ends the translation of a download while its server still sends. What the host says to it
// by itself must not leave by the wire.
func TestAnswersOfTheHost(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.stream()
	s.run("up", "steam", "--uplink", lab.WiFi)
	for _, do := range []string{
		"nmcli connection up homewifi",
		"nmcli device disconnect wlp6s0; nmcli connection up homewifi",
		"for i in 1 2 3 4 5; do nft flush ruleset; sleep 0.2; done",
		"for i in 1 2 3 4 5; do conntrack -F 2>/dev/null; sleep 0.2; done",
		"ip addr flush dev wlp6s0; nmcli device reapply wlp6s0",
		"ip link del ul-steam",
		"ip netns del steam",
		"ip rule flush protocol 117; ip route flush table 100",
	} {
		s.listen("steam")
		wire := s.stray()
		s.sh(do)
		s.works("steam")
		s.streaming(100)
		s.leavesBy("steam", s.world.Wifi.Public)
		s.requireNone(wire, "by the wire after "+do)
	}
}

// TestHostCannotReachLane takes a lane's veth out of its bridge while a server sends and nobody heals it. The host gives up
// on the lane's address after three seconds, and tells nobody by the wire.
func TestHostCannotReachLane(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.stream()
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.listen("steam")
	s.uplane.Kill()
	wire := s.stray()
	about := s.capture(lab.Wired, func(p lab.Packet) bool { return p.Outgoing && p.Dst == streamAddr.Addr() })
	s.sh("ip link set ulv-steam nomaster; ip neigh flush dev ul-steam")
	waitFor(t, func() bool { return strings.Contains(s.sh("ip neigh show dev ul-steam"), "FAILED") }, "the host has given up")
	s.streaming(50)
	s.requireNone(wire, "by the wire")
	s.requireNone(about, "to the server by the wire")
}

// TestFormerAddress is a host that routes, whose uplink gets another address while a stream comes for a lane: for the
// former one it asks its neighbours in vain, and says so to nobody.
func TestFormerAddress(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.stream()
	s.sh("sysctl -qw net.ipv4.ip_forward=1")
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.listen("steam")
	about := s.capture(lab.Wired, func(p lab.Packet) bool { return p.Outgoing && p.Dst == streamAddr.Addr() })
	s.sh("nmcli device modify wlp6s0 ipv4.method manual ipv4.addresses 192.168.50.78/24 ipv4.gateway 192.168.50.1")
	s.sh("sleep 5") // the kernel gives up asking for a neighbour after 3 s
	s.requireNone(about, "to the server by the wire")
}

// TestNeighbour is somebody on the Wi-Fi who takes the host for a router, which lanes must not have made of it.
func TestNeighbour(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.wire.Stop() // there is a lane by the wire here
	s.wire = nil
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.run("up", "cable", "--uplink", lab.Wired)
	neighbour := s.world.Wifi2
	host, inside := s.world.Wifi.DHCP().Address.Addr(), s.world.Wire.LAN.Addr()
	lane := netip.MustParsePrefix(s.wait("cable", isState("up")).Subnet).Addr().Next().Next()
	if err := neighbour.IP(
		fmt.Sprintf("route add %s via %s", s.world.Wire.LAN.Masked(), host),
		fmt.Sprintf("route add %s via %s", laneSpace, host),
		fmt.Sprintf("address add %s/32 dev lo", lane.Next()),
	); err != nil {
		t.Fatal(err)
	}
	seen := func(card string) *lab.Capture {
		return s.capture(card, func(p lab.Packet) bool {
			return p.Outgoing && p.Proto == unix.IPPROTO_ICMP && (p.Dst == inside || p.Dst == lane)
		})
	}
	for _, router := range []bool{false, true} {
		wire, veth := seen(lab.Wired), seen("ul-cable")
		for _, ping := range [][]string{
			{"-I", neighbour.LAN.Addr().String(), inside.String()},
			{"-I", lane.Next().String(), inside.String()}, // as a lane's
			{"-I", neighbour.LAN.Addr().String(), lane.String()},
		} {
			if router && ping[1] == neighbour.LAN.Addr().String() && ping[2] == inside.String() {
				continue // the host's own business
			}
			_, _ = neighbour.RunContext(s.ctx, "ping", append([]string{"-c3", "-i0.1", "-W1"}, ping...)...)
		}
		s.requireNone(wire, fmt.Sprintf("of a neighbour by the wire, host is a router: %t", router))
		s.requireNone(veth, fmt.Sprintf("of a neighbour to a lane, host is a router: %t", router))
		s.sh("sysctl -qw net/ipv4/ip_forward=1")
	}
	s.leavesBy("steam", s.world.Wifi.Public)
	s.leavesBy("cable", s.world.Wire.Public)
}

// TestRulesTakenAway has another program take away what keeps a lane closed, again and again: that is healed at
// once each time, and nothing leaves meanwhile, as rules and table each do for the other.
func TestRulesTakenAway(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.run("up", "steam", "--uplink", lab.WiFi)
	before := s.sh("ip rule")
	wire, wifi := s.stray(), s.untranslated(lab.WiFi)
	program := s.talk("steam", s.world.Wifi.Public)
	for i := range 12 {
		take, back := "ip rule flush protocol 117", func() bool { return s.sh("ip rule") == before }
		if i%4 == 3 {
			take, back = "nft delete table inet uplane", func() bool { return s.shTry("nft list table inet uplane").code == 0 }
		}
		s.sh(take)
		start := time.Now()
		waitFor(t, back, "it is back after "+take)
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("healed after %v the %dth time", took, i+1)
		}
		program.heard(s, 1)
	}
	t.Logf("closed for %v at most", program.quiet())
	program.end(s)
	s.requireNone(wire, "by the wire")
	s.requireNone(wifi, "untranslated by the Wi-Fi")
}

// TestFlushes has another program, such as a firewall that reloads, flush all of nftables under traffic.
func TestFlushes(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.run("up", "steam", "--uplink", lab.WiFi)
	wire, wifi := s.stray(), s.untranslated(lab.WiFi)
	program := s.talk("steam", s.world.Wifi.Public)
	for i := range 8 {
		program.quiet()
		s.sh("nft flush ruleset")
		program.heard(s, 20)
		closed := program.quiet()
		t.Logf("flush %d: closed for %v", i+1, closed)
		if closed > 3*time.Second {
			t.Errorf("flush %d: closed for %v", i+1, closed)
		}
	}
	program.end(s)
	s.requireNone(wire, "by the wire")
	s.requireNone(wifi, "untranslated by the Wi-Fi")

	// What is not tracked is not translated.
	wire, wifi = s.stray(), s.untranslated(lab.WiFi)
	s.sh("nft 'table inet untracked { chain prerouting { type filter hook prerouting priority raw; notrack; }; }'")
	s.traffic("steam")
	s.requireNone(wire, "untracked by the wire")
	s.requireNone(wifi, "untracked by the Wi-Fi")
	s.sh("nft delete table inet untracked")
	s.leavesBy("steam", s.world.Wifi.Public)

	// Nobody heals: it stays closed.
	wire, wifi = s.stray(), s.untranslated(lab.WiFi)
	s.uplane.Kill()
	s.sh("nft flush ruleset")
	s.traffic("steam")
	s.requireNone(wire, "by the wire without a daemon")
	s.requireNone(wifi, "untranslated by the Wi-Fi without a daemon")
}

// captured counts those who reach a port of the host.
func (s *site) captured(port int) *atomic.Int64 {
	s.Helper()
	n := new(atomic.Int64)
	err := s.world.Host.Do(func() error {
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1) })
			return err
		}}
		streams, err := config.Listen(context.Background(), "tcp4", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		datagrams, err := config.ListenPacket(context.Background(), "udp4", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		s.Cleanup(func() { streams.Close(); datagrams.Close() })
		go func() {
			for {
				conn, err := streams.Accept()
				if err != nil {
					return
				}
				n.Add(1)
				conn.Close()
			}
		}()
		go func() {
			buf := make([]byte, 64)
			for {
				if _, _, err := datagrams.ReadFrom(buf); err != nil {
					return
				}
				n.Add(1)
			}
		}()
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
	return n
}

// tellsByTCP asks the internet by TCP who a node is; empty: no answer.
func (s *site) tellsByTCP(node *lab.Node) string {
	ctx, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	conn, err := node.Dial(ctx, "tcp4", netip.AddrPortFrom(lab.WhoamiAddr, lab.WhoamiPort).String())
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	buf := make([]byte, 64)
	n, _ := conn.Read(buf)
	from, _, _ := strings.Cut(string(buf[:n]), ":")
	return from
}

// TestProxyOfTheHost has transparent proxies on the host, as sing-box and mihomo set them up: for the host's neighbours
// they work, a lane's connections go by its uplink or not at all.
func TestProxyOfTheHost(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.leavesBy("steam", s.world.Wifi.Public)
	proxy := s.captured(7777)
	// A container beside the lane shows that the proxy works.
	s.sh(`ip netns add box; ip link add box0 type veth peer name eth0 netns box
until nmcli device set box0 managed no; do sleep 0.1; done # else it takes the address away, now and then
ip addr add 192.0.2.1/24 dev box0; ip link set dev box0 up
ip -n box addr add 192.0.2.2/24 dev eth0; ip -n box link set dev eth0 up; ip -n box route add default via 192.0.2.1`)
	box := s.node("box")
	for _, c := range []struct {
		name, on, off string
		right         bool // the lane must work
	}{
		{"redirect", `nft -f - <<'EOF'
table ip proxy {
	chain prerouting {
		type nat hook prerouting priority dstnat - 1
		meta l4proto tcp redirect to :7777
		udp dport { 7, 53 } redirect to :7777
	}
}
EOF`, "nft delete table ip proxy", true},
		{"redirect by iptables", `for p in tcp udp; do iptables -t nat -A PREROUTING -p $p -j REDIRECT --to-ports 7777; done`, "iptables -t nat -F PREROUTING", true},
		{"dnat", `iptables -t nat -I PREROUTING -p tcp -j DNAT --to-destination 192.168.10.4:7777; iptables -t nat -I PREROUTING -p udp -j DNAT --to-destination 192.168.10.4:7777`, "iptables -t nat -F PREROUTING", true},
		{"tproxy", `iptables -t mangle -A PREROUTING -p tcp -j TPROXY --on-port 7777 --tproxy-mark 1/1
iptables -t mangle -A PREROUTING -p udp --dport 7 -j TPROXY --on-port 7777 --tproxy-mark 1/1
ip rule add fwmark 1/1 lookup 107; ip route add local 0.0.0.0/0 dev lo table 107`, "iptables -t mangle -F PREROUTING; ip rule del lookup 107; ip route flush table 107", false},
		{"tproxy, with its rule in front", `iptables -t mangle -A PREROUTING -p tcp -j TPROXY --on-port 7777 --tproxy-mark 1/1
uplane down steam; ip rule add fwmark 1/1 lookup 107; ip route add local 0.0.0.0/0 dev lo table 107; uplane up steam`, "iptables -t mangle -F PREROUTING; ip rule del lookup 107; ip route flush table 107", false},
	} {
		s.sh(c.on)
		steam := s.node("steam")
		wire := s.stray()
		proxy.Store(0)
		got := s.tellsByTCP(steam)
		ctx, cancel := context.WithTimeout(s.ctx, time.Second)
		udp, err := steam.Whoami(ctx)
		cancel()
		if n := proxy.Load(); n > 0 {
			t.Errorf("%s: %d of the lane's connections went to the host's proxy", c.name, n)
		}
		if want := s.world.Wifi.Public.String(); got != want && (c.right || got != "") {
			t.Errorf("%s: by TCP the lane is %q", c.name, got)
		}
		if want := s.world.Wifi.Public; udp != want && (c.right || err == nil) {
			t.Errorf("%s: by UDP the lane is %v: %v", c.name, udp, err)
		}
		_ = s.tellsByTCP(box)
		if proxy.Load() == 0 {
			t.Errorf("%s: the proxy proves nothing, nobody reaches it", c.name)
		}
		got2, _ := wire.Stop()
		for _, p := range got2 {
			if !strings.HasPrefix(p.Src.String(), "192.0.2.") {
				t.Errorf("%s: by the wire %v", c.name, p)
			}
		}
		s.sh(c.off)
		s.leavesBy("steam", s.world.Wifi.Public)
	}
}

// TestTunnelThatWantsEverything is a VPN of the host's with the rules of wg-quick and a firewall that lets everything
// into it, set up while the daemon can't look, or before and after the lane.
func TestTunnelThatWantsEverything(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	into := s.tunnel()
	s.run("up", "steam", "--uplink", lab.WiFi)
	const vpn = `ip route replace default via 192.0.2.2 dev tun0 table 51820
ip rule add not fwmark 0xca6c table 51820
ip rule add table main suppress_prefixlength 0
iptables -I FORWARD -o tun0 -j ACCEPT; iptables -t nat -I POSTROUTING -o tun0 -j MASQUERADE`
	const gone = `ip rule del not fwmark 0xca6c table 51820; ip rule del table main suppress_prefixlength 0; iptables -F FORWARD; iptables -t nat -F POSTROUTING`

	s.sh(vpn)
	s.traffic("steam")
	s.leavesBy("steam", s.world.Wifi.Public)

	// Behind the VPN's rules, with routes of the lane's taken away, and without a daemon.
	s.run("down", "steam")
	s.run("up", "steam")
	s.traffic("steam")
	s.uplane.Kill()
	s.traffic("steam")
	s.sh("ip route flush table 100")
	s.traffic("steam")
	s.sh("ip rule flush protocol 117")
	s.traffic("steam")
	s.start()
	s.requireNone(into, "by the tunnel")
	s.sh(gone)
	s.run("down", "steam")
	s.run("up", "steam")
	s.leavesBy("steam", s.world.Wifi.Public)
}

// TestIPv6IsOpened has roots in the lane and on the host switch IPv6 on everywhere, where the host is an IPv6 router.
func TestIPv6IsOpened(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.run("up", "steam", "--uplink", lab.WiFi)
	for _, g := range []*lab.Gateway{s.world.Wire, s.world.Wifi} {
		third := g.LAN.Addr().As4()[2]
		if err := g.IP(fmt.Sprintf("address add 2001:db8:%d::1/64 dev lan nodad", third)); err != nil {
			t.Fatal(err)
		}
		s.sh(fmt.Sprintf("ip -6 addr add 2001:db8:%d::4/64 dev %s nodad; ip -6 route add default via 2001:db8:%d::1 dev %[2]s metric %[1]d", third, g.NIC, third))
	}
	s.sh("sysctl -qw net.ipv6.conf.all.forwarding=1; ping -6 -c1 -W2 2001:db8:10::1")
	leaks := func(card string) *lab.Capture {
		return s.capture(card, func(p lab.Packet) bool {
			return p.Outgoing && p.EtherType == unix.ETH_P_IPV6 && netip.MustParsePrefix("fd00::/8").Contains(p.Src)
		})
	}
	wire, wifi := leaks(lab.Wired), leaks(lab.WiFi)
	open := func() {
		t.Helper()
		s.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=0; ip -6 addr add fd00:1::1/64 dev ul-steam nodad || :")
		s.sh(`ip netns exec steam sysctl -qw net.ipv6.conf.all.disable_ipv6=0
ip -n steam -6 addr replace fd00:1::2/64 dev eth0 nodad; ip -n steam -6 route replace default via fd00:1::1 dev eth0 || :
ip -n steam -6 neigh replace fd00:1::1 lladdr $(cat /sys/class/net/ul-steam/address) dev eth0 || :`)
		s.shTry("ip netns exec steam ping -6 -i0.1 -c3 -W1 2001:db8:10::1; ip netns exec steam ping -6 -i0.1 -c3 -W1 2001:db8:50::1; ip netns exec steam ping -6 -c2 -W1 2001:db8:10::4")
	}
	open()
	s.uplane.Kill() // nobody shuts it again: the floor is all there is
	open()
	if got := s.sh("cat /proc/sys/net/ipv6/conf/ul-steam/disable_ipv6"); got != "0" {
		t.Errorf("this proves nothing: disable_ipv6=%s", got)
	}
	s.start()
	s.requireNone(wire, "IPv6 by the wire")
	s.requireNone(wifi, "IPv6 by the Wi-Fi")
	waitFor(t, func() bool { return s.sh("cat /proc/sys/net/ipv6/conf/ul-steam/disable_ipv6") == "1" }, "IPv6 is off on the lane's interface again")
	if got := s.sh("cat /proc/sys/net/ipv6/conf/wlp6s0/disable_ipv6"); got != "0" {
		t.Errorf("IPv6 of the host's card: disable_ipv6=%s", got)
	}
}
