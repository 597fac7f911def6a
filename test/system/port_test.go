package system

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uplane/test/lab"
)

// stranger is a router that somebody else connects to a lane's bridge, by the host's port eth7.
type stranger struct {
	*site
	node    *lab.Node
	mac     string
	capture *lab.Capture // of what comes in
}

// strangerNet is what it advertises.
var strangerNet = netip.MustParsePrefix("2001:db8:7::/64")

func (s *site) stranger() *stranger {
	s.Helper()
	s.sh(`[ ! -e /proc/sys/net/bridge ] || sysctl -qw net/bridge/bridge-nf-call-iptables=0 net/bridge/bridge-nf-call-ip6tables=0 # or our table sees some of it
ip netns add stranger
ip link add eth7 type veth peer name p7 netns stranger
ip netns exec stranger sysctl -qw net/ipv6/conf/p7/accept_dad=0 net/ipv6/conf/all/forwarding=1
ip -n stranger addr add 10.0.1.66/24 dev p7
ip -n stranger addr add 2001:db8:7::1/64 dev p7
ip -n stranger link set dev p7 up
ip link set dev eth7 up
until ip -n stranger -6 addr show dev p7 scope link | grep -q fe80:; do sleep 0.01; done`)
	node, err := s.world.Host.Namespace("stranger")
	if err != nil {
		s.Fatal(err)
	}
	x := &stranger{site: s, node: node, mac: s.mac("stranger", "p7")}
	x.capture, err = node.Capture("p7", func(p lab.Packet) bool { return !p.Outgoing })
	if err != nil {
		s.Fatal(err)
	}
	return x
}

func (s *site) mac(netns, link string) string {
	s.Helper()
	return strings.TrimSpace(s.sh("ip netns exec " + netns + " cat /sys/class/net/" + link + "/address"))
}

// advertise sends a router advertisement to all on the link.
func (x *stranger) advertise() {
	x.Helper()
	prefix := strangerNet.Addr().As16()
	ra := append([]byte{
		134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, // lifetime 1800 s
		3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0, // on-link, autonomous
	}, prefix[:]...)
	err := x.node.Do(func() error {
		link, err := net.InterfaceByName("p7")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		to := &unix.SockaddrInet6{ZoneId: uint32(link.Index), Addr: netip.MustParseAddr("ff02::1").As16()}
		return unix.Sendto(fd, ra, 0, to)
	})
	if err != nil {
		x.Fatal(err)
	}
}

// tempt does all to get a packet out of the lane that the stranger can do, and what a program in it would send.
func (x *stranger) tempt(lane string) {
	x.Helper()
	for range 3 {
		x.advertise()
		x.shTry("ip -n " + lane + " neigh replace 10.0.1.66 lladdr " + x.mac + " dev eth0 nud permanent")
		x.shTry("ip netns exec " + lane + " ping -c3 -i0.02 -W1 10.0.1.66")
		x.shTry("ip netns exec " + lane + " ping -6 -c3 -i0.02 -W1 2001:db8:7::1")
	}
}

// from returns what came from one of the addresses since then.
func (x *stranger) from(since time.Time, macs ...string) (out []lab.Packet) {
	for _, p := range x.capture.Packets() {
		for _, mac := range macs {
			if p.SrcMAC == mac && p.Time.After(since) {
				out = append(out, p)
			}
		}
	}
	return out
}

// TestForeignPort connects a router to a lane's bridge, of the lane's own or NetworkManager's: no rule, table
// or chain sees what passes between two ports.
func TestForeignPort(t *testing.T) {
	for name, up := range map[string]func(*site){
		"file":    func(s *site) { s.run("up", "steam") },
		"profile": func(s *site) { s.sh(byHand) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newProfileSite(t)
			up(s)
			s.wait("steam", hasSubnet("10.0.1.0/24"))
			p := s.sender("steam")
			p.goesOn()
			x := s.stranger()
			if _, err := s.world.Host.Start("ip", "netns", "exec", "steam", "ping", "-i", "0.002", "-q", "10.0.1.66"); err != nil {
				t.Fatal(err)
			}
			x.tempt("steam")
			bridge := s.sh("ip -d link show ul-steam | grep -o 'stp_state .'")
			for range 3 {
				macs := []string{s.mac("steam", "eth0")}
				start := time.Now()
				s.sh("ip link set eth7 master ul-steam")
				st := s.wait("steam", isState("error"))
				closed := time.Now()
				if got := x.from(start, macs...); len(got) > 0 { // every 2 ms one is sent
					t.Logf("before the lane was closed, %v passed", got[len(got)-1].Time.Sub(got[0].Time))
				}
				if !strings.Contains(st.Reason, "ip link set eth7 nomaster") {
					t.Error(st.Reason)
				}
				x.tempt("steam")
				s.leavesNot("steam")
				if got := s.sh("ip netns exec steam ping -6 -c1 -W1 ::1; ip netns exec steam ip -6 route show default"); strings.Contains(got, "via") {
					t.Error(got)
				}
				if got := x.from(closed, macs...); len(got) > 0 {
					t.Errorf("%d packets after it was closed: %v", len(got), got)
				}
				s.sh("ip link set eth7 nomaster")
				s.wait("steam", hasSubnet("10.0.1.0/24"))
				p.goesOn()
				s.settled("steam")
				macs = append(macs, s.mac("steam", "eth0"))
				x.tempt("steam")
				if got := x.from(closed, macs...); len(got) > 0 {
					t.Errorf("%d packets after the port had gone: %v", len(got), got)
				}
			}
			if got := s.sh("ip -d link show ul-steam | grep -o 'stp_state .'"); got != bridge {
				t.Errorf("was %s, is %s", bridge, got)
			}
			x.whileNobodyLooks(p)
			for _, packet := range x.capture.Packets() {
				if strangerNet.Contains(packet.Src) {
					t.Errorf("by IPv6: %v", packet)
				}
			}
		})
	}
}

// whileNobodyLooks connects the stranger while there is no daemon: the lane takes no address from it.
func (x *stranger) whileNobodyLooks(p *program) {
	x.Helper()
	x.uplane.Kill()
	x.sh("ip link set eth7 master ul-steam")
	waitFor(x.T, func() bool { return strings.Contains(x.sh("bridge link show dev eth7"), "state forwarding") }, "the port carries packets")
	x.tempt("steam")
	six := func() string {
		x.Helper()
		return x.sh("ip -n steam -6 addr show dev eth0; ip -n steam -6 route show")
	}
	if got := six(); got != "" {
		x.Errorf("IPv6 in the lane:\n%s", got)
	}
	// It would: whoever is root in the lane may let it.
	x.sh("ip netns exec steam sysctl -qw net/ipv6/conf/eth0/accept_ra=1 net/ipv6/conf/eth0/autoconf=1 net/ipv6/conf/eth0/disable_ipv6=0")
	waitFor(x.T, func() bool {
		x.advertise()
		return strings.Contains(six(), "2001:db8:7:") && strings.Contains(six(), "default via fe80:")
	}, "an advertisement is heard")
	x.capture.Stop()
	x.start()
	x.wait("steam", isState("error"))
	x.leavesNot("steam")
	x.sh("ip link set eth7 nomaster")
	x.wait("steam", hasSubnet("10.0.1.0/24"))
	p.goesOn()
	if got := six(); got != "" {
		x.Errorf("IPv6 in the lane:\n%s", got)
	}
}

// TestSharedBridge has a profile of a bridge that others have made and use. Whatever NetworkManager does to it,
// the daemon does nothing.
func TestSharedBridge(t *testing.T) {
	s := newProfileSite(t)
	s.uplane.Kill()
	s.sh(`ip netns add box
ip link add docker0 type bridge
ip link add vethc type veth peer name eth0 netns box
ip link set docker0 up; ip link set vethc up
ip -n box addr add 10.0.3.9/24 dev eth0; ip -n box link set eth0 up`)
	s.write("/etc/NetworkManager/system-connections/games.nmconnection",
		strings.NewReplacer("br-games", "docker0", "stp=false", "stp=true\nforward-delay=2").Replace(keyfile))
	s.sh(`chmod 600 /etc/NetworkManager/system-connections/games.nmconnection; nmcli connection reload; nmcli connection up 'my games'
ip link set vethc master docker0`)
	look := func() string {
		s.Helper()
		return s.sh(`ip -4 -o addr show dev docker0; ip -d link show docker0 | grep -o 'stp_state .'; ls /sys/class/net/docker0/brif; nft list ruleset | grep -A99 uplane || :
ip rule; ip route show table all | grep docker0 | sed 's/ linkdown//'
cat /proc/sys/net/ipv4/conf/docker0/forwarding /proc/sys/net/ipv6/conf/docker0/disable_ipv6`)
	}
	waitFor(t, func() bool { return strings.Contains(look(), "10.0.3.1/24") }, "NetworkManager has the bridge")
	before := look()
	if !strings.Contains(before, "stp_state 1") {
		t.Fatal(before)
	}
	s.start()
	st := s.wait("games", isState("error"))
	if !strings.Contains(st.Reason, "bridge docker0 has a port that is not the lane's, vethc") {
		t.Error(st.Reason)
	}
	requireSame(t, before, look())
	s.leavesNot("games")
	for range 2 {
		s.sh("ip link set vethc nomaster")
		s.wait("games", hasSubnet("10.0.3.0/24"))
		s.leavesBy("games", s.world.Wifi.Public)
		s.sh("ip link set vethc master docker0")
		s.wait("games", isState("error"))
		for deadline := time.Now().Add(5 * time.Second); look() != before && time.Now().Before(deadline); {
			time.Sleep(20 * time.Millisecond)
		}
		requireSame(t, before, look())
		s.sh("ip netns exec box ping -c1 -W5 10.0.3.1")
	}
}
