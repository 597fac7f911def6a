package system

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"uplane/test/lab"
)

// wgQuick is what wg-quick does for a tunnel that takes everything, without numbers for its rules.
const (
	wgQuick = `ip route replace default via 192.0.2.2 dev tun0 table 51820
ip rule add not fwmark 0xca6c table 51820
ip rule add table main suppress_prefixlength 0`
	wgQuickDown = `ip rule del not fwmark 0xca6c table 51820; ip rule del table main suppress_prefixlength 0; ip route flush table 51820`
)

// TestVPNAfterLanes has wg-quick start after lanes: they work, and so do those that come later. A lane that comes
// when there were none before stands behind the VPN's rules: it says so, and nothing leaves.
func TestVPNAfterLanes(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	into := s.tunnel()
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.sh(wgQuick)
	s.leavesBy("steam", s.world.Wifi.Public)
	s.run("up", "later", "--uplink", lab.WiFi)
	s.wait("later", isState("up"))
	s.leavesBy("later", s.world.Wifi.Public)
	s.run("up", "marked", "--uplink", lab.WiFi, "--mark", "100")
	s.leavesBy("marked", s.world.Wifi.Public)
	s.run("down", "steam")
	s.run("up", "steam")
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.world.Wifi.Public)
	s.followsGateway()

	// With the last lane goes what stands in front.
	for _, lane := range []string{"steam", "later", "marked"} {
		s.run("down", lane)
	}
	s.uplaneTry("up", "steam")
	st := s.wait("steam", isState("degraded"))
	if !strings.Contains(st.Reason, "51820") || !strings.Contains(st.Reason, "ip rule") {
		t.Errorf("the reason names no rule: %s", st.Reason)
	}
	s.traffic("steam")
	s.requireNone(into, "by the tunnel")
	s.sh(wgQuickDown)
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.world.Wifi.Public)
}

// TestRuleToPutBack has somebody delete the rule that leads to lanes, so that it stands behind the one from them. The
// host still answers lanes, ARP included.
func TestRuleToPutBack(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.run("up", "alone", "--uplink", lab.WiFi, "--subnet", "10.99.0.0/24")
	for _, c := range []struct{ lane, rule, gateway string }{
		{"steam", "to 10.0.0.0/16 lookup 117117", "10.0.1.1"},
		{"alone", "to 10.99.0.0/24 lookup 117117", "10.99.0.1"},
	} {
		s.sh("ip rule del priority 0 " + c.rule)
		waitFor(t, func() bool { return strings.Contains(s.sh("ip rule"), c.rule) }, "the rule is back")
		s.sh("ip -n " + c.lane + " neigh flush all; ip neigh flush all")
		s.leavesBy(c.lane, s.world.Wifi.Public)
		s.sh("ip netns exec " + c.lane + " ping -c1 -W2 " + c.gateway)
	}
}

// kept is a TCP connection from a lane to the internet that lives through what happens.
type kept struct {
	conn net.Conn
	in   *bufio.Reader
}

func (s *site) keep(lane string) *kept {
	s.Helper()
	conn, err := s.node(lane).Dial(s.ctx, "tcp", netip.AddrPortFrom(lab.WhoamiAddr, lab.WhoamiPort).String())
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { conn.Close() })
	k := &kept{conn, bufio.NewReader(conn)}
	if _, err := k.in.ReadString('\n'); err != nil {
		s.Fatal(err)
	}
	return k
}

// alive checks that the connection still carries something both ways.
func (k *kept) alive(s *site, after string) {
	s.Helper()
	_ = k.conn.SetDeadline(time.Now().Add(5 * time.Second))
	_, err := fmt.Fprintln(k.conn, "still here")
	if err == nil {
		_, err = k.in.ReadString('\n')
	}
	if err != nil {
		s.Errorf("after %s the connection is broken: %v", after, err)
	}
}

// TestBroadRoutes has VPNs and DHCP servers bring routes to all private addresses.
func TestBroadRoutes(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.run("up", "steam", "--uplink", lab.WiFi)
	subnet := s.wait("steam", isState("up")).Subnet
	k := s.keep("steam")
	check := func(after string) {
		t.Helper()
		s.settled("steam")
		if got := s.wait("steam", isState("up")).Subnet; got != subnet {
			t.Errorf("after %s the lane has %s, not %s", after, got, subnet)
		}
		s.leavesBy("steam", s.world.Wifi.Public)
		k.alive(s, after)
	}
	s.tunnel()
	s.sh("ip route add 10.0.0.0/8 dev tun0")
	check("a route to 10.0.0.0/8")
	s.run("up", "later", "--uplink", lab.WiFi)
	s.leavesBy("later", s.world.Wifi.Public)
	s.uplane.Kill()
	s.start()
	check("a restart")
	s.sh("ip route add 10.0.0.0/16 dev tun0")
	check("a route to the lanes' block")
	s.sh("ip route del 10.0.0.0/8; ip route del 10.0.0.0/16")

	d := s.world.Wifi.DHCP()
	for _, to := range []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"} {
		d.Routes = append(d.Routes, lab.Route{To: netip.MustParsePrefix(to), Via: d.Router})
	}
	if err := s.world.Wifi.SetDHCP(s.ctx, d); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(s.sh("ip route"), "172.16.0.0/12") }, "the lease has brought the routes")
	check("DHCP's routes")
	s.run("up", "last", "--uplink", lab.WiFi)
	s.wait("last", isState("up"))
	s.leavesBy("last", s.world.Wifi.Public)
}

// TestMovedLane moves a lane from one address to another, and from one uplink to another while the first stays
// connected. Programs that only receive hear of it at once.
func TestMovedLane(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.wire.Stop() // the lane leaves by the wire in the end
	s.wire = nil
	s.stream()
	s.run("up", "steam", "--uplink", lab.WiFi)
	for _, move := range []struct {
		by   string
		seen netip.Addr
	}{
		{"nmcli device modify wlp6s0 ipv4.method manual ipv4.addresses 192.168.50.78/24 ipv4.gateway 192.168.50.1", s.world.Wifi.Public},
		{"uplane up steam --uplink enp7s0", s.world.Wire.Public},
	} {
		l := s.listen("steam")
		start := time.Now()
		s.sh(move.by)
		moved := time.Now()
		select {
		case <-l.tcpBroken:
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: a program that only receives hangs", move.by)
		}
		if l.brokenTime.Sub(moved) > time.Second {
			t.Errorf("%s took %v, and the program hears of it %v after that", move.by, moved.Sub(start), l.brokenTime.Sub(moved))
		}
		var timeout net.Error
		if errors.As(l.tcpErr, &timeout) && timeout.Timeout() {
			t.Errorf("%s: the program's own time-out: %v", move.by, l.tcpErr)
		}
		s.leavesBy("steam", move.seen)
	}
	wifi := s.untranslated(lab.WiFi)
	late := s.capture(lab.WiFi, func(p lab.Packet) bool { return p.Outgoing && p.Dst == lab.WhoamiAddr && p.DstPort == lab.WhoamiPort })
	program := s.talk("steam", s.world.Wire.Public)
	program.heard(s, 20)
	program.end(s)
	s.requireNone(wifi, "untranslated by the former uplink")
	s.requireNone(late, "by the former uplink")
}
