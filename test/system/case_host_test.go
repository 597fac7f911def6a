package system

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"uplane/test/lab"
)

// TestServersThatCantBeAsked has DHCP name DNS servers that are the host itself, or nobody, while the host has a
// resolver for everybody.
func TestServersThatCantBeAsked(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	resolver := s.captured(53)
	host := s.world.Wifi.DHCP().Address
	bad := []netip.Addr{
		netip.MustParseAddr("10.0.1.1"), host.Addr(), s.world.Wire.DHCP().Address.Addr(),
		netip.MustParseAddr("192.168.50.255"), netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("127.0.0.53"),
	}
	lease := func(servers ...netip.Addr) {
		t.Helper()
		d := s.world.Wifi.DHCP()
		d.DNS = servers
		if err := s.world.Wifi.SetDHCP(s.ctx, d); err != nil {
			t.Fatal(err)
		}
		s.sh("nmcli connection up homewifi")
	}
	s.run("up", "steam", "--uplink", lab.WiFi)
	lease(append(slices.Clone(bad), lab.WifiDNS)...)
	names := func() string { return s.sh("grep nameserver /etc/netns/steam/resolv.conf || :") }
	s.wait("steam", isState("up"))
	waitFor(t, func() bool { return names() == "nameserver "+lab.WifiDNS.String() }, "bad servers are left out")
	s.run("run", "steam", "--", "getent", "hosts", "whoami.test")
	lease(bad...)
	st := s.wait("steam", isState("degraded"))
	if !strings.Contains(st.Reason, "DNS") || names() != "" {
		t.Errorf("reason %q, with servers %q", st.Reason, names())
	}
	for _, a := range bad {
		if conn, err := s.node("steam").Dial(s.ctx, "udp4", netip.AddrPortFrom(a, 53).String()); err == nil {
			_, _ = conn.Write([]byte("a question"))
			conn.Close()
		}
	}
	s.traffic("steam")
	if n := resolver.Load(); n > 0 {
		t.Errorf("the host's resolver was asked %d times", n)
	}
}

// TestFilesOfOthers has an administrator's own resolv.conf for a namespace of a lane's name.
func TestFilesOfOthers(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	const own = "nameserver 192.0.2.53\n"
	for _, name := range []string{"resolv.conf", "nsswitch.conf"} {
		s.sh("mkdir -p /etc/netns/play")
		s.write("/etc/netns/play/"+name, own)
		r := s.uplaneTry("up", "play", "--uplink", lab.WiFi)
		if r.code == 0 || !strings.Contains(r.out+r.err, "exists and is not ours") {
			t.Errorf("up: code %d: %s%s", r.code, r.out, r.err)
		}
		s.wait("play", isState("error"))
		if got := s.sh("cat /etc/netns/play/" + name); got != strings.TrimSpace(own) {
			t.Errorf("%s after up: %s", name, got)
		}
		s.run("down", "play")
		s.uplaneTry("up", "play")
		s.run("remove", "play")
		if got := s.sh("cat /etc/netns/play/" + name); got != strings.TrimSpace(own) {
			t.Errorf("%s after remove: %s", name, got)
		}
		s.sh("rm -r /etc/netns/play")
	}
	s.run("up", "play", "--uplink", lab.WiFi)
	s.leavesBy("play", s.world.Wifi.Public)
}

// TestFileOverwritten has somebody overwrite a lane's file in all ways that editors and programs have.
func TestFileOverwritten(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.run("up", "steam", "--uplink", lab.WiFi)
	const file = "/etc/netns/steam/resolv.conf"
	const said = "grep -v '^#' " + file // it is padded by comments
	right := s.shTry(said).out
	veth := s.sh("cat /sys/class/net/ulv-steam/ifindex")
	for _, do := range []string{
		"echo nameserver 192.0.2.53 > " + file,
		"echo nameserver 192.0.2.53 >> " + file,
		"echo nameserver 192.0.2.53 > /tmp/new; mv /tmp/new " + file,
		": > " + file,
		"rm " + file,
		"ln -sf /etc/resolv.conf " + file,
	} {
		s.sh(do)
		waitFor(t, func() bool { return s.shTry(said).out == right }, "put right after "+do)
		s.works("steam")
		if got := s.sh("cat /sys/class/net/ulv-steam/ifindex"); got != veth {
			t.Errorf("%s: the lane has another veth", do)
		}
	}
	if !strings.Contains(s.uplane.Log(), "that another program wrote\" path="+file) {
		t.Error("nothing is said of it in the log")
	}
	if got := s.sh("cat /etc/resolv.conf"); got != "nameserver "+lab.WireDNS.String() {
		t.Errorf("the host's resolv.conf is %q", got)
	}
	s.run("remove", "steam")
	if r := s.shTry("ls " + file); r.code == 0 {
		t.Error("left: " + file)
	}
}

// TestSmallMTU has DHCP give an MTU with which the kernel has no IPv6 on a card.
func TestSmallMTU(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.run("up", "steam", "--uplink", lab.WiFi)
	d := s.world.Wifi.DHCP()
	d.MTU = 576
	if err := s.world.Wifi.SetDHCP(s.ctx, d); err != nil {
		t.Fatal(err)
	}
	s.sh("nmcli connection modify homewifi ipv6.method disabled; nmcli connection up homewifi") // it gives no less than 1280 else
	for _, link := range []string{lab.WiFi, "ul-steam", "ulv-steam"} {
		waitFor(t, func() bool { return s.sh("cat /sys/class/net/"+link+"/mtu") == "576" }, link+" has the MTU")
	}
	quiet := func() {
		t.Helper()
		s.settled("steam")
		s.wait("steam", isState("up"))
		s.leavesBy("steam", s.world.Wifi.Public)
		before := s.uplane.Applied()
		s.run("plan", "steam")
		if n := s.uplane.Applied() - before; n > 0 {
			t.Errorf("%d operations on a lane that is as it shall be", n)
		}
	}
	quiet()
	s.uplane.Kill()
	s.start()
	quiet()
	d.MTU = 0
	if err := s.world.Wifi.SetDHCP(s.ctx, d); err != nil {
		t.Fatal(err)
	}
	s.sh("nmcli connection up homewifi; ip link set dev wlp6s0 mtu 1500")
	waitFor(t, func() bool { return s.sh("cat /sys/class/net/ulv-steam/mtu") == "1500" }, "the MTU is back")
	quiet()
	if got := s.sh("cat /proc/sys/net/ipv6/conf/ul-steam/disable_ipv6"); got != "1" {
		t.Errorf("IPv6 on the lane's interface: disable_ipv6=%s", got)
	}
}

// TestSwitchesOfOthers has others change the host's switches while a lane is up: what they set stays.
func TestSwitchesOfOthers(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	read := func(key string) string { return s.sh("cat /proc/sys/" + key) }
	const conf = "net/ipv4/conf/wlp6s0/"
	s.run("up", "steam", "--uplink", lab.WiFi)
	for key, want := range map[string]string{"net/ipv4/ip_forward": "0", conf + "forwarding": "1", conf + "src_valid_mark": "1"} {
		if got := read(key); got != want {
			t.Errorf("%s is %s with a lane", key, got)
		}
	}
	s.run("down", "steam")
	for key, want := range map[string]string{"net/ipv4/ip_forward": "0", conf + "forwarding": "0", conf + "src_valid_mark": "0"} {
		if got := read(key); got != want {
			t.Errorf("%s is %s after the lane", key, got)
		}
	}

	// Docker starts while the lane is up.
	s.run("up", "steam")
	s.sh("sysctl -qw net/ipv4/ip_forward=1")
	s.settled("steam")
	s.run("down", "steam")
	for _, key := range []string{"net/ipv4/ip_forward", conf + "forwarding", "net/ipv4/conf/enp7s0/forwarding"} {
		if got := read(key); got != "1" {
			t.Errorf("%s is %s, as nobody left it", key, got)
		}
	}
	s.sh("sysctl -qw net/ipv4/ip_forward=0")

	// Docker starts while the lane is up and no daemon runs.
	s.run("up", "steam")
	s.uplane.Kill()
	s.sh("sysctl -qw net/ipv4/ip_forward=1")
	s.start()
	s.run("down", "steam")
	if got := read(conf + "forwarding"); got != "1" {
		t.Errorf("forwarding is %s, as nobody left it", got)
	}
	s.sh("sysctl -qw net/ipv4/ip_forward=0")

	// Others want another value than ours while the lane is up: ours, until the lane goes, then theirs.
	s.sh("ip addr add 192.168.50.99/24 dev enp7s0") // a sibling, which must not answer for the Wi-Fi
	s.run("up", "steam")
	const sibling = "net/ipv4/conf/enp7s0/arp_ignore"
	waitFor(t, func() bool { return read(sibling) == "1" }, "the sibling does not answer")
	s.sh("sysctl -qw " + sibling + "=2; uplane reload") // the kernel tells nobody
	waitFor(t, func() bool { return read(sibling) == "1" }, "the sibling does not answer")
	s.settled("steam")
	s.run("down", "steam")
	if got := read(sibling); got != "2" {
		t.Errorf("%s is %s, as nobody left it", sibling, got)
	}
}

// TestSwitchesInside: what programs may do outside they may do in a lane.
func TestSwitchesInside(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.sh("sysctl -qw net/ipv4/ping_group_range='0 2147483647' net/ipv4/ip_unprivileged_port_start=80")
	s.run("up", "steam", "--uplink", lab.WiFi)
	for _, key := range []string{"ping_group_range", "ip_unprivileged_port_start"} {
		outside, inside := s.sh("cat /proc/sys/net/ipv4/"+key), s.sh("ip netns exec steam cat /proc/sys/net/ipv4/"+key)
		if outside != inside {
			t.Errorf("%s is %s outside and %s inside", key, outside, inside)
		}
	}
	if got := s.sh("ip netns exec steam cat /proc/sys/net/ipv4/tcp_mtu_probing"); got != "1" {
		t.Errorf("tcp_mtu_probing is %s", got)
	}
	s.sh("cp $(command -v ping) /run/ping") // without its capabilities
	const ping = "setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all --no-new-privs /run/ping -c1 -W2 203.0.113.10"
	s.sh(ping)
	s.sh("ip netns exec steam " + ping)
}

// TestCleanupFails has one lane's file be one that nobody can remove.
func TestCleanupFails(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.run("up", "other", "--uplink", lab.WiFi)
	k := s.keep("other")
	s.sh("mount --bind /etc/netns/steam/resolv.conf /etc/netns/steam/resolv.conf")
	s.uplaneTry("down", "steam")
	waitFor(t, func() bool { return strings.Contains(s.uplane.Log(), "level=ERROR") }, "an operation fails")
	s.wait("other", isState("up"))
	s.leavesBy("other", s.world.Wifi.Public)
	k.alive(s, "another lane's failure")
	s.run("up", "third", "--uplink", lab.WiFi)
	s.wait("third", isState("up"))
	s.leavesBy("third", s.world.Wifi.Public)
	s.followsGatewayOf("other")
	s.sh("umount /etc/netns/steam/resolv.conf")
	waitFor(t, func() bool { return s.shTry("ls /etc/netns/steam").code != 0 }, "removed in the end")
}

// followsGatewayOf changes the Wi-Fi's gateway and has a lane follow.
func (s *site) followsGatewayOf(lane string) {
	s.Helper()
	s.sh("nmcli device modify wlp6s0 ipv4.gateway 192.168.50.2 ipv4.method manual ipv4.addresses 192.168.50.78/24")
	s.wait(lane, hasGateway("192.168.50.2"))
	s.leavesBy(lane, s.world.Wifi2.Public)
	s.sh("nmcli connection up homewifi")
	s.wait(lane, hasGateway("192.168.50.1"))
}

// TestHolderKeepsIt has new lanes ask for what one has already.
func TestHolderKeepsIt(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.run("up", "steam", "--uplink", lab.WiFi)
	held := s.wait("steam", isState("up"))
	s.run("up", "zero", "--uplink", lab.WiFi, "--subnet", "10.77.1.0/24", "--mark", "100", "--table", "4242")
	k := s.keep("steam")
	for _, asks := range [][]string{{"--table", "4242"}, {"--subnet", "10.77.0.0/16"}, {"--mark", "100"}} {
		r := s.uplaneTry(append([]string{"up", "a-new", "--uplink", lab.WiFi}, asks...)...)
		s.requireFailure(r, 1, strings.TrimPrefix(asks[0], "--"), "lane zero")
		if r := s.shTry("ls /etc/uplane/lanes.d/a-new.toml"); r.code == 0 {
			t.Errorf("up a-new %v was refused, and written", asks)
		}
	}
	for name, asks := range map[string]string{
		"a-subnet": `subnet = "` + held.Subnet + `"`,
		"a-table":  "table = 100",
		"a-net":    `subnet = "10.77.0.0/16"`,
		"a-mark":   "mark = 100",
		"a-bridge": `bridge = "ul-steam"`,
	} {
		s.writeLane(name, "uplink = \"wlp6s0\"\nenabled = true\n"+asks+"\n")
		s.uplaneTry("reload") // tells what is wrong
		st := s.wait(name, isState("error"))
		holder := "steam"
		if name == "a-net" || name == "a-mark" {
			holder = "zero"
		}
		if !strings.Contains(st.Reason, "another") || !strings.Contains(st.Reason, "lane "+holder) && !strings.Contains(st.Reason, "another lane") {
			t.Errorf("%s: %s", name, st.Reason)
		}
		if got := s.wait(holder, isState("up")); got.Reason != "" {
			t.Errorf("%s: the holder's reason: %s", name, got.Reason)
		}
		k.alive(s, name)
		s.uplane.Kill()
		s.start()
		s.wait(name, isState("error"))
		if got := s.wait("steam", isState("up")); got.Subnet != held.Subnet || got.Table != held.Table {
			t.Errorf("after a restart beside %s it has %+v, not %+v", name, got, held)
		}
		s.sh("rm /etc/uplane/lanes.d/" + name + ".toml; uplane reload")
		k.alive(s, name)
	}
}
