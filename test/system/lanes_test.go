package system

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"uplane/test/lab"
)

// numbers are what a lane was given: its subnet, table and bridge.
func (s *site) numbers(lane string) string {
	s.Helper()
	l, err := s.uplane.Lane(s.ctx, lane)
	if err != nil {
		s.Fatal(err)
	}
	return fmt.Sprintf("%s %d %s", l.Subnet, l.Table, l.Bridge)
}

// reboot has the kernel forget all that is the daemon's, and /run. NetworkManager goes on.
func (s *site) reboot() {
	s.Helper()
	s.uplane.Kill()
	s.sh(`ip link del group 117
		for n in $(ip netns list | cut -d' ' -f1); do ip netns del $n; done
		for t in $(ip route show table all proto uplane | grep -o 'table [0-9]*' | cut -c7- | sort -u); do ip route flush table $t proto uplane; done
		while ip rule del protocol uplane; do :; done 2>/dev/null
		nft flush ruleset
		sysctl -qw net/ipv4/conf/wlp6s0/forwarding=0 net/ipv4/conf/enp7s0/forwarding=0 net/ipv4/conf/wlp6s0/src_valid_mark=0 net/ipv4/conf/enp7s0/src_valid_mark=0
		umount /run/netns 2>/dev/null || :
		rm -rf /run/netns /run/uplane /etc/netns; mkdir /run/netns`)
	s.start()
}

// TestSeveralLanes has lanes with the same uplink and with different ones, on a host that has much
// already of what they would take.
func TestSeveralLanes(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.sh(`ip link add ul-one type bridge; ip link add ulv-two type bridge
		ip link add lan type bridge; ip addr add 10.0.1.1/24 dev lan; ip link set lan up
		ip route add 10.0.2.0/24 dev lan table 777
		ip rule add to 10.0.3.0/24 lookup main priority 900
		ip rule add from 192.0.2.7 lookup 100 priority 901
		ip route add 192.0.2.0/24 dev lan table 101
		ip route add 10.0.4.0/22 dev lan
		ip route add 0.0.0.0/1 via 192.168.10.1 dev enp7s0 metric 5000; ip route add 128.0.0.0/1 via 192.168.10.1 dev enp7s0 metric 5000`)
	before := s.traces()

	uplinks := map[string]string{"one": lab.WiFi, "two": lab.WiFi, "three": lab.Wired, "four": "type:ethernet"}
	var wg sync.WaitGroup
	for lane, uplink := range uplinks {
		wg.Go(func() {
			if _, err := s.uplane.Run(s.ctx, "up", lane, "--uplink", uplink); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all := func() (out []string) {
		for _, lane := range []string{"one", "two", "three", "four"} {
			out = append(out, s.numbers(lane))
		}
		return out
	}
	given := all()
	var subnets, tables, bridges []string
	for _, g := range given {
		f := strings.Fields(g)
		subnets, tables, bridges = append(subnets, f[0]), append(tables, f[1]), append(bridges, f[2])
	}
	for _, list := range [][]string{subnets, tables, bridges} {
		slices.Sort(list)
	}
	// In a block that the host has nothing of, so that one rule can speak of all of it.
	if want := []string{"10.1.0.0/24", "10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"}; !slices.Equal(subnets, want) {
		t.Errorf("subnets %q, not %q", subnets, want)
	}
	if want := []string{"102", "103", "104", "105"}; !slices.Equal(tables, want) {
		t.Errorf("tables %q, not %q", tables, want)
	}
	if len(slices.Compact(bridges)) != 4 || slices.Contains(bridges, "ul-one") {
		t.Errorf("bridges %q", bridges)
	}
	work := func() {
		t.Helper()
		for _, lane := range []string{"one", "two"} {
			s.leavesBy(lane, s.world.Wifi.Public)
		}
		s.leavesBy("three", s.world.Wire.Public)
		four, err := s.uplane.Lane(s.ctx, "four")
		if err != nil {
			t.Fatal(err)
		}
		s.leavesBy("four", map[string]netip.Addr{lab.Wired: s.world.Wire.Public, lab.WiFi: s.world.Wifi.Public}[four.Uplink.Interface])
	}
	work()
	// One lane does not reach another.
	if out, err := s.uplane.Run(s.ctx, "run", "one", "ping", "-c1", "-W1", strings.Replace(strings.Fields(given[1])[0], "0/24", "2", 1)); err == nil {
		t.Errorf("lane one reaches lane two:\n%s", out)
	}

	s.uplane.Kill()
	s.start()
	s.settled("one")
	if again := all(); !slices.Equal(again, given) || s.uplane.Applied() != 0 {
		t.Errorf("after a restart %q, before %q; %d writes", again, given, s.uplane.Applied())
	}
	s.reboot()
	for lane := range uplinks {
		s.wait(lane, isState("up"))
	}
	if again := all(); !slices.Equal(again, given) {
		t.Errorf("after a reboot %q, before %q", again, given)
	}
	work()

	// One goes, the rest stay as they are.
	s.run("remove", "two")
	s.run("down", "four")
	if again := []string{s.numbers("one"), s.numbers("three")}; !slices.Equal(again, []string{given[0], given[2]}) {
		t.Errorf("another lane's removal changes numbers: %q, before %q", again, given)
	}
	s.leavesBy("one", s.world.Wifi.Public)
	s.leavesBy("three", s.world.Wire.Public)
	s.run("up", "five", "--uplink", lab.WiFi)
	s.run("up", "four")
	if got := s.numbers("four"); got != given[3] {
		t.Errorf("lane four was %s and is %s after a while down", given[3], got)
	}
	for _, lane := range []string{"one", "three", "four", "five"} {
		s.run("remove", lane)
	}
	s.withoutTrace(before)
}

// TestClashLater brings a network that has a lane's subnet, when the lane is up.
func TestClashLater(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(2 * time.Minute)
	s.run("up", "auto", "--uplink", lab.WiFi, "--bridge", "false")
	s.run("up", "fixed", "--uplink", lab.WiFi, "--subnet", "10.0.77.0/24", "--table", "500")
	s.sh("ip link add hotel type bridge; ip link set hotel up")
	clash := func(lane, add, del string, words ...string) {
		t.Helper()
		s.sh("ip " + add)
		st := s.wait(lane, isState("error"))
		for _, w := range words {
			if !strings.Contains(st.Reason, w) {
				t.Errorf("%s: no %q in reason %q", add, w, st.Reason)
			}
		}
		if out, err := s.world.Host.RunContext(s.ctx, "ip", "netns", "exec", lane, "ping", "-c1", "-W1", lab.WhoamiAddr.String()); err == nil {
			t.Errorf("a lane that clashes leaves:\n%s", out)
		}
		s.sh("ip " + del)
		s.wait(lane, isState("up"))
		s.leavesBy(lane, s.world.Wifi.Public)
	}
	renumbered := func(add, what string) {
		t.Helper()
		old := s.numbers("auto")
		s.sh("ip " + add)
		s.wait("auto", func(lab.LaneStatus) bool { return s.numbers("auto") != old })
		s.wait("auto", isState("up"))
		s.leavesBy("auto", s.world.Wifi.Public)
		s.settled("auto")
		// What drains goes when the last connection has ended.
		waitFor(t, func() bool {
			return !strings.Contains(s.sh("ip rule; ip route show table all; ip -o addr; nft list ruleset"), what)
		}, what+" is gone")
	}
	renumbered("addr add 10.0.1.9/24 dev hotel", "10.0.1.1")
	s.sh("ip addr del 10.0.1.9/24 dev hotel")
	if got := s.numbers("auto"); got != "10.1.0.0/24 100 " { // of a block that the host has nothing of
		t.Errorf("a lane is renumbered back: %s", got)
	}
	renumbered("rule add from 10.1.0.64/26 lookup main priority 32000", "10.1.0.0/24")
	renumbered("route add 192.0.2.0/24 dev hotel table 100", "default table 100 proto uplane")
	s.sh("ip route del 192.0.2.0/24 dev hotel table 100; ip rule del priority 32000")

	clash("fixed", "addr add 10.0.77.200/25 dev hotel", "addr del 10.0.77.200/25 dev hotel",
		"subnet 10.0.77.0/24 overlaps with 10.0.77.128/25", "choose another subnet")
	clash("fixed", "route add 10.0.77.0/30 via 192.168.10.1", "route del 10.0.77.0/30", "subnet 10.0.77.0/24 overlaps with 10.0.77.0/30")
	// Whoever else looks a running lane's table up takes nothing from it; a new lane keeps clear of such a table.
	s.sh("ip rule add from 192.0.2.8 lookup 500 priority 33; ip rule add from 192.0.2.8 lookup 501 priority 34")
	s.settled("fixed")
	s.wait("fixed", isState("up"))
	s.leavesBy("fixed", s.world.Wifi.Public)
	s.requireFailure(s.uplaneTry("up", "late", "--uplink", lab.WiFi, "--table", "501"), 1, "table 501 is in use by the ip rule with priority 34")
	s.uplaneTry("remove", "late")
	s.sh("ip rule del priority 33; ip rule del priority 34")
	s.leavesBy("auto", s.world.Wifi.Public)
	s.run("remove", "fixed")

	// The hotel's DHCP itself hands out the lane's subnet.
	s.run("up", "fixed", "--uplink", lab.WiFi, "--subnet", "192.168.60.0/24")
	home, hotel := s.world.Wifi.DHCP(), s.world.Wifi.DHCP()
	hotel.Address, hotel.Router = netip.MustParsePrefix("192.168.60.5/24"), netip.MustParseAddr("192.168.60.1")
	for _, d := range []lab.DHCP{hotel, home} {
		if err := s.world.Wifi.SetDHCP(s.ctx, d); err != nil {
			t.Fatal(err)
		}
		s.sh("nmcli connection up homewifi")
		s.wait("auto", hasGateway(d.Router.String()))
		s.leavesBy("auto", s.world.Wifi.Public)
		if d.Router == hotel.Router {
			s.wait("fixed", isState("error"))
		}
	}
	s.wait("fixed", isState("up"))
	s.leavesBy("fixed", s.world.Wifi.Public)
}

// TestLongNames has names that no interface can have.
func TestLongNames(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	before := s.traces()
	lanes := []string{"the-game_of_my-life-number-0-0-1", "the-game_of_my-life-number-0-0-2", "0"}
	for _, lane := range lanes {
		s.run("up", lane, "--uplink", lab.WiFi)
		s.leavesBy(lane, s.world.Wifi.Public)
		if got := s.run("run", lane, "cat", "/etc/resolv.conf"); !strings.HasPrefix(got, "# uplane:"+lane+":") {
			t.Errorf("%s has the resolv.conf %s", lane, got)
		}
	}
	s.uplane.Kill()
	s.start()
	s.settled(lanes[0])
	if n := s.uplane.Applied(); n != 0 {
		t.Errorf("%d writes to adopt lanes", n)
	}
	for _, lane := range lanes {
		s.leavesBy(lane, s.world.Wifi.Public)
		s.run("remove", lane)
	}
	s.withoutTrace(before)
	s.requireFailure(s.uplaneTry("up", lanes[0]+"x", "--uplink", lab.WiFi), 1, "invalid lane name", "1 to 32")
}

// TestNFTables does the main job without iptables.
func TestNFTables(t *testing.T) {
	t.Parallel()
	ctx, w := lab.Start(t, lab.Plain, lab.Options{RPFilter: 1})
	if err := w.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := w.Host.Run("sh", "-ec", `mkdir -p /etc/uplane; echo 'firewall = "nftables"' > /etc/uplane/uplane.toml
		for f in $(ls /usr/sbin/*tables* /sbin/*tables* | sort -u); do rm -f $f; done`); err != nil {
		t.Fatal(out, err)
	}
	s := startSite(t, ctx, w)
	before := s.traces()
	s.run("up", "steam", "--uplink", lab.WiFi, "--mark", "100")
	s.leavesBy("steam", w.Wifi.Public)
	if got := s.sh("nft list ruleset"); !strings.Contains(got, "10.0.1.0/24") || strings.Contains(got, "table ip filter") {
		t.Errorf("ruleset:\n%s", got)
	}
	s.sh("nft flush ruleset")
	s.settled("steam")
	s.leavesBy("steam", w.Wifi.Public)
	s.sh("nmcli device disconnect wlp6s0")
	s.wait("steam", isState("waiting"))
	s.failsAtOnce("steam")
	s.sh("nmcli connection up homewifi")
	s.wait("steam", isState("up"))
	s.leavesBy("steam", w.Wifi.Public)
	s.uplane.Kill()
	s.start()
	s.settled("steam")
	if n := s.uplane.Applied(); n != 0 {
		t.Errorf("%d writes to adopt a lane", n)
	}
	s.run("remove", "steam")
	s.withoutTrace(before)
}

// TestOtherFirewall changes what the firewall is made with, there and back, under a lane's traffic.
func TestOtherFirewall(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(2 * time.Minute)
	before := s.traces()
	raw, err := s.world.Host.Capture(lab.WiFi, func(p lab.Packet) bool { return p.Touches(laneSpace) })
	if err != nil {
		t.Fatal(err)
	}
	s.run("up", "steam", "--uplink", lab.WiFi)
	answers := s.sendAlways("steam")
	for range 2 {
		for backend, only := range map[string]string{"iptables": "UPLANE-FORWARD", "nftables": "table inet uplane"} {
			s.write("/etc/uplane/uplane.toml", "firewall = \""+backend+"\"\n")
			s.run("reload")
			s.settled("steam")
			s.leavesBy("steam", s.world.Wifi.Public)
			// What the other one had built goes once its successor is in place.
			waitFor(t, func() bool {
				rules := s.sh("nft list ruleset 2>/dev/null")
				return strings.Contains(rules, only) && strings.Contains(rules, "UPLANE-") != strings.Contains(rules, "table inet uplane")
			}, "there is nothing but "+backend+"'s")
		}
	}
	s.run("remove", "steam")
	for from, n := range answers() {
		if from != s.world.Wifi.Public {
			t.Errorf("the internet saw the lane %d times as %v", n, from)
		}
	}
	if got, err := raw.Stop(); err != nil || len(got) > 0 {
		t.Errorf("with the lane's own address left %d packets: %v %v", len(got), got, err)
	}
	s.withoutTrace(before)
}

// TestNothingLeaks has programs in a lane that never stop sending, while everything about the lane
// changes. Neither their packets nor what comes of them may show on the wire.
func TestNothingLeaks(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(2 * time.Minute)
	// The host itself has no business there, not even to say that nobody listens to an answer that comes late.
	toInternet := func(p lab.Packet) bool { return p.Dst == lab.WhoamiAddr }
	wire, err := s.world.Host.Capture(lab.Wired, toInternet)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.world.Host.Capture(lab.WiFi, func(p lab.Packet) bool { return p.Touches(laneSpace) })
	if err != nil {
		t.Fatal(err)
	}
	// In the lane's namespace of the moment, from its first moment on.
	if _, err := s.world.Host.Start("sh", "-c", "while :; do ip netns exec steam ping -n -q -i 0.005 -c 200 -W 1 "+lab.WhoamiAddr.String()+" || sleep 0.002; done >/dev/null 2>&1"); err != nil {
		t.Fatal(err)
	}
	up := func() { s.run("up", "steam", "--uplink", lab.WiFi); s.leavesBy("steam", s.world.Wifi.Public) }
	up()
	answers := s.sendAlways("steam")
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"another gateway", func() {
			s.sh("nmcli device modify wlp6s0 ipv4.gateway 192.168.50.2 ipv4.method manual ipv4.addresses 192.168.50.78/24")
			s.wait("steam", hasGateway("192.168.50.2"))
			s.sh("nmcli connection up homewifi")
			s.wait("steam", hasGateway("192.168.50.1"))
		}},
		{"disconnect", func() {
			s.sh("nmcli device disconnect wlp6s0")
			s.wait("steam", isState("waiting"))
			s.sh("nmcli connection up homewifi")
			s.wait("steam", isState("up"))
		}},
		{"the daemon is killed, and the uplink goes", func() {
			s.uplane.Kill()
			s.sh("nmcli device disconnect wlp6s0; sleep 0.2; nmcli connection up homewifi; sleep 0.2; ip link set wlp6s0 down; sleep 0.2; ip link set wlp6s0 up")
			if err := s.world.WaitActive(s.ctx, "homewifi"); err != nil {
				t.Fatal(err)
			}
			s.start()
			s.wait("steam", isState("up"))
		}},
		{"the daemon is killed, and all that it knew is gone", func() {
			s.uplane.Kill()
			s.sh("rm -r /run/uplane /var/lib/uplane")
			s.start()
			s.wait("steam", isState("up"))
		}},
		{"NetworkManager is killed", func() {
			s.world.KillNM()
			s.wait("steam", isState("degraded"))
			if err := s.world.StartNM(s.ctx); err != nil {
				t.Fatal(err)
			}
			s.wait("steam", isState("up"))
		}},
		{"another subnet", func() { s.run("up", "steam", "--subnet", "10.0.9.0/24"); s.wait("steam", isState("up")) }},
		{"no bridge", func() { s.run("up", "steam", "--bridge", "false"); s.wait("steam", isState("up")) }},
		{"another table and a mark", func() { s.run("up", "steam", "--table", "4000", "--mark", "77"); s.wait("steam", isState("up")) }},
		{"a clash", func() {
			s.sh("ip link add hotel type bridge; ip addr add 10.0.9.9/24 dev hotel")
			s.wait("steam", isState("error"))
			s.sh("ip link del hotel")
			s.wait("steam", isState("up"))
		}},
		{"down and up", func() { s.run("down", "steam"); up() }},
		{"remove and up", func() { s.run("remove", "steam"); up() }},
	} {
		step.do()
		if t.Failed() {
			t.Fatalf("after %q", step.name)
		}
		s.leavesBy("steam", s.world.Wifi.Public)
		if leaked := wire.Packets(); len(leaked) > 0 {
			t.Fatalf("%s: by the wire left %d packets of the lane: %v", step.name, len(leaked), leaked[0])
		}
		if leaked := raw.Packets(); len(leaked) > 0 {
			t.Fatalf("%s: with the lane's own address left %d packets: %v", step.name, len(leaked), leaked[0])
		}
	}
	for from, n := range answers() {
		if from != s.world.Wifi.Public && from != s.world.Wifi2.Public {
			t.Errorf("the internet saw the lane %d times as %v", n, from)
		}
	}

	// Where a lane may leave by the wire, it is never with its own address.
	if got, err := wire.Stop(); err != nil || len(got) > 0 {
		t.Errorf("left by the wire: %v %v", got, err)
	}
	s.run("up", "steam", "--uplink", "connection:homewifi", "--uplink", "interface:enp7s0")
	for range 2 {
		s.sh("nmcli device disconnect wlp6s0")
		s.wait("steam", func(l lab.LaneStatus) bool { return l.Uplink.Interface == lab.Wired })
		s.leavesBy("steam", s.world.Wire.Public)
		s.sh("nmcli connection up homewifi")
		s.wait("steam", func(l lab.LaneStatus) bool { return l.Uplink.Interface == lab.WiFi })
		s.leavesBy("steam", s.world.Wifi.Public)
	}
	if got, err := raw.Stop(); err != nil || len(got) > 0 {
		t.Errorf("with the lane's own address left %d packets: %v %v", len(got), got, err)
	}
}

// sendAlways sends from one socket of a lane, whatever becomes of the lane. The returned function
// ends that and tells how often the internet saw which address.
func (s *site) sendAlways(lane string) func() map[netip.Addr]int {
	s.Helper()
	node, err := s.world.Host.Namespace(lane)
	if err != nil {
		s.Fatal(err)
	}
	conn, err := node.ListenPacket("udp", ":0")
	if err != nil {
		s.Fatal(err)
	}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(lab.WhoamiAddr, lab.WhoamiPort))
	ctx, cancel := context.WithCancel(context.Background())
	s.Cleanup(cancel)
	seen := map[netip.Addr]int{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_, _ = conn.WriteTo([]byte("?"), to) // errors are what a lane without uplink gives
			time.Sleep(2 * time.Millisecond)
		}
		_ = conn.Close()
	})
	wg.Go(func() {
		buf := make([]byte, 64)
		for ctx.Err() == nil {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				time.Sleep(time.Millisecond) // an ICMP error, or the end
				continue
			}
			if from, err := netip.ParseAddrPort(strings.TrimSpace(string(buf[:n]))); err == nil {
				seen[from.Addr()]++
			}
		}
	})
	return func() map[netip.Addr]int {
		cancel()
		wg.Wait()
		return seen
	}
}
