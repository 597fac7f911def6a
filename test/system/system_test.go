package system

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"uplane/test/lab"
)

// bin has both binaries, with the race detector.
var bin string

func TestMain(m *testing.M) {
	// The race detector makes every program sleep a second before it ends.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	dir, err := os.MkdirTemp("", "uplane-bin-")
	if err == nil {
		err = lab.Build(dir, "-race")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = dir
	// Or every program that ends sleeps for a second, waiting for races.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// site is a world with a connected host, the daemon running, and a lane.
type site struct {
	*testing.T
	ctx    context.Context
	world  *lab.World
	uplane *lab.Uplane
	wire   *lab.Capture // what leaves by the wire, of any lane
}

var wired = lab.Options{RenewEvery: lab.QuickRenewal}

// laneSpace is where automatic lanes live, and nothing else of a world's.
var laneSpace = netip.MustParsePrefix("10.0.0.0/8")

func newSite(t *testing.T, kind lab.Kind, options lab.Options) *site {
	t.Helper()
	t.Parallel()
	ctx, w := lab.Start(t, kind, options)
	if err := w.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	return startSite(t, ctx, w)
}

func startSite(t *testing.T, ctx context.Context, w *lab.World) *site {
	t.Helper()
	u, err := w.Install(bin)
	if err != nil {
		t.Fatal(err)
	}
	return startUplane(t, ctx, w, u)
}

func startUplane(t *testing.T, ctx context.Context, w *lab.World, u *lab.Uplane) *site {
	t.Helper()
	var err error
	if err := u.Start(ctx); err != nil {
		t.Fatal(err)
	}
	s := &site{T: t, ctx: ctx, world: w, uplane: u}
	if w.Wire != nil {
		// At the host's card itself: whatever comes out there has left the host.
		s.wire, err = w.Host.Capture(lab.Wired, func(p lab.Packet) bool { return p.Touches(laneSpace) })
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if s.wire != nil {
			if leaked, err := s.wire.Stop(); err != nil || len(leaked) > 0 {
				t.Errorf("by the wire left %d packets of lanes: %v %v", len(leaked), leaked, err)
			}
		}
		if strings.Contains(u.Log(), "DATA RACE") || strings.Contains(u.Log(), "panic:") {
			t.Errorf("the daemon:\n%s", u.Log())
		}
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", u.Log())
		}
	})
	return s
}

// run runs uplane and must succeed.
func (s *site) run(args ...string) string {
	s.Helper()
	out, err := s.uplane.Run(s.ctx, args...)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// sh runs a script on the host and must succeed.
func (s *site) sh(script string) string {
	s.Helper()
	out, err := s.world.Host.RunContext(s.ctx, "sh", "-ec", script)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

func (s *site) wait(lane string, ok func(lab.LaneStatus) bool) lab.LaneStatus {
	s.Helper()
	st, err := s.uplane.Wait(s.ctx, lane, ok)
	if err != nil {
		s.Fatal(err)
	}
	return st
}

func isState(state string) func(lab.LaneStatus) bool {
	return func(l lab.LaneStatus) bool { return l.State == state }
}

func hasGateway(gw string) func(lab.LaneStatus) bool {
	return func(l lab.LaneStatus) bool { return l.IPv4.Gateway == gw }
}

// leavesBy checks by which public address the internet sees a lane.
func (s *site) leavesBy(lane string, want netip.Addr) {
	s.Helper()
	node, err := s.world.Host.Namespace(lane)
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
	defer cancel()
	got, err := node.Whoami(ctx)
	if err != nil || got != want {
		s.Fatalf("lane %s leaves by %v, not %v: %v\n%s", lane, got, want, err,
			s.sh("ip rule; ip route show table all | grep -v local; nft list ruleset; cat /etc/netns/*/resolv.conf"))
	}
}

// failsAtOnce checks that a lane's program gets an error soon: from its own socket, or by ICMP.
func (s *site) failsAtOnce(lane string) {
	s.Helper()
	start := time.Now()
	out, err := s.world.Host.RunContext(s.ctx, "ip", "netns", "exec", lane, "ping", "-c1", "-W5", lab.WhoamiAddr.String())
	if err == nil {
		s.Fatalf("lane %s still leaves:\n%s", lane, out)
	}
	text := strings.ToLower(out)
	told := strings.Contains(text, "unreachable") || strings.Contains(text, "no route to host")
	if took := time.Since(start); took > 2*time.Second || !told {
		s.Fatalf("lane %s hangs for %v instead of failing at once:\n%s", lane, took, out)
	}
}

// table returns the lane's table, a line a route, sorted.
func (s *site) table(n int) []string {
	s.Helper()
	out := s.sh(fmt.Sprintf("ip route show table %d", n))
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	slices.Sort(lines)
	return lines
}

func (s *site) requireTable(n int, want ...string) {
	s.Helper()
	slices.Sort(want)
	if got := s.table(n); !slices.Equal(got, want) {
		s.Fatalf("table %d is\n%s\nnot\n%s", n, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// trace is everything that a lane may leave on a host.
const trace = `ip -o link; ip -o -4 addr | sed 's/valid_lft.*//'; ip -4 route show table all; ip rule; ip netns; ls -d /etc/netns /run/netns /etc/netns/* 2>&1 || :
nft list ruleset
for f in /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/src_valid_mark /proc/sys/net/ipv[46]/conf/*/arp_* /proc/sys/net/ipv6/conf/*/disable_ipv6; do [ -e $f ] && echo $f $(cat $f); done
ls /etc/uplane/lanes.d 2>/dev/null || :`

// traces is the trace without what changes by itself.
func (s *site) traces() string {
	var out []string
	for _, l := range strings.Split(s.sh(trace), "\n") {
		if !strings.Contains(l, "expires") {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

func requireSame(t *testing.T, before, after string) {
	t.Helper()
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	var diff []string
	for _, l := range a {
		if !slices.Contains(b, l) {
			diff = append(diff, "- "+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			diff = append(diff, "+ "+l)
		}
	}
	if len(diff) > 0 {
		t.Errorf("traces:\n%s", strings.Join(diff, "\n"))
	}
}

func TestMainJob(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	before := s.traces()
	out := s.run("up", "steam", "--uplink", lab.WiFi)
	if !strings.Contains(out, "lane steam is up by wlp6s0") {
		t.Errorf("up says %q", out)
	}
	s.leavesBy("steam", s.world.Wifi.Public)
	if got, err := s.world.Host.Whoami(s.ctx); err != nil || got != s.world.Wire.Public {
		t.Errorf("the host leaves by %v: %v", got, err)
	}
	if got := s.sh("cat /proc/sys/net/ipv4/ip_forward"); got != "0" {
		t.Errorf("ip_forward is %s", got)
	}
	s.requireTable(100, "10.0.1.0/24 dev ul-steam proto uplane scope link",
		"192.168.50.0/24 dev wlp6s0 proto uplane scope link",
		"default via 192.168.50.1 dev wlp6s0 proto uplane",
		"unreachable default proto uplane metric 4294967295")
	if got := s.sh("cat /etc/uplane/lanes.d/steam.toml"); !strings.Contains(got, `uplink = "wlp6s0"`) {
		t.Errorf("lane file:\n%s", got)
	}
	s.run("run", "steam", "--", "ping", "-c1", "-W2", lab.WhoamiAddr.String())

	s.run("down", "steam")
	if got := s.run("status", "steam"); !strings.HasPrefix(got, "lane steam is down") {
		t.Errorf("status says %q", got)
	}
	s.run("up", "steam")
	s.leavesBy("steam", s.world.Wifi.Public)
	s.run("remove", "steam")
	requireSame(t, before, s.traces())
}

// TestFollowsUplink changes the uplink in every way, with probes running all the time.
func TestFollowsUplink(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.run("up", "steam", "--uplink", lab.WiFi)
	wifi := s.world.Wifi
	s.leavesBy("steam", wifi.Public)

	// A true renewal brings another router.
	d := wifi.DHCP()
	d.Router = s.world.Wifi2.LAN.Addr()
	d.DNS = []netip.Addr{lab.WireDNS}
	d.Routes = []lab.Route{{To: netip.MustParsePrefix("198.18.0.0/15"), Via: wifi.LAN.Addr()}}
	if err := wifi.SetDHCP(s.ctx, d); err != nil {
		t.Fatal(err)
	}
	s.wait("steam", hasGateway(d.Router.String()))
	s.leavesBy("steam", s.world.Wifi2.Public)
	waitFor(t, func() bool {
		return strings.Contains(s.sh("cat /etc/netns/steam/resolv.conf"), "nameserver 203.0.113.53")
	}, "resolv.conf follows the lease")
	s.requireTable(100, "10.0.1.0/24 dev ul-steam proto uplane scope link",
		"192.168.50.0/24 dev wlp6s0 proto uplane scope link",
		"198.18.0.0/15 via 192.168.50.1 dev wlp6s0 proto uplane",
		"default via "+d.Router.String()+" dev wlp6s0 proto uplane",
		"unreachable default proto uplane metric 4294967295")

	// The profile is changed by hand.
	s.sh("nmcli device modify wlp6s0 ipv4.gateway 192.168.50.1 ipv4.method manual ipv4.addresses 192.168.50.77/24")
	s.wait("steam", hasGateway("192.168.50.1"))
	s.leavesBy("steam", wifi.Public)

	// A profile whose routes live in a table of their own.
	s.sh("nmcli connection modify homewifi ipv4.route-table 300; nmcli connection up homewifi")
	s.wait("steam", hasGateway(d.Router.String()))
	s.leavesBy("steam", s.world.Wifi2.Public)
	s.sh("nmcli connection modify homewifi ipv4.route-table 0; nmcli device reapply wlp6s0")
	s.wait("steam", hasGateway(d.Router.String()))
	s.leavesBy("steam", s.world.Wifi2.Public)

	// Disconnected: nothing leaves, at once; back: it does again.
	s.sh("nmcli device disconnect wlp6s0")
	s.wait("steam", isState("waiting"))
	s.failsAtOnce("steam")
	s.requireTable(100, "10.0.1.0/24 dev ul-steam proto uplane scope link", "unreachable default proto uplane metric 4294967295")
	s.requireTable(117117, "10.0.1.0/24 dev ul-steam proto uplane scope link", "blackhole 10.0.1.0/24 proto uplane metric 4294967295")
	s.sh("nmcli connection up homewifi")
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.world.Wifi2.Public)

	// The cable is pulled and plugged in again.
	if err := wifi.Carrier(false); err != nil {
		t.Fatal(err)
	}
	s.wait("steam", isState("waiting"))
	s.failsAtOnce("steam")
	if err := wifi.Carrier(true); err != nil {
		t.Fatal(err)
	}
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.world.Wifi2.Public)

	// The link is taken down under NetworkManager's hands and routes go without an event.
	s.sh("ip link set dev wlp6s0 down; sleep 0.3; ip link set dev wlp6s0 up")
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.world.Wifi2.Public)
}

func waitFor(t *testing.T, ok func() bool, what string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// TestPreference has a list of uplinks of which the better one comes and goes.
func TestPreference(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.wire.Stop() // here the wire is the lane's second choice
	s.wire = nil
	s.run("up", "steam", "--uplink", "connection:homewifi", "--uplink", "interface:enp7s0")
	s.leavesBy("steam", s.world.Wifi.Public)
	s.sh("nmcli device disconnect wlp6s0")
	s.wait("steam", func(l lab.LaneStatus) bool { return l.Uplink.Interface == lab.Wired })
	s.leavesBy("steam", s.world.Wire.Public)
	s.sh("nmcli connection up homewifi")
	s.wait("steam", func(l lab.LaneStatus) bool { return l.Uplink.Interface == lab.WiFi })
	s.leavesBy("steam", s.world.Wifi.Public)
}

// TestRestarts has everything around a lane die and come back.
func TestRestarts(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.run("up", "steam", "--uplink", lab.WiFi, "--mark", "100")
	s.run("up", "second", "--uplink", lab.WiFi, "--bridge", "false")
	s.leavesBy("steam", s.world.Wifi.Public)

	s.uplane.Kill()
	s.leavesBy("steam", s.world.Wifi.Public)
	events := s.watchWrites()
	if err := s.uplane.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.wait("steam", isState("up"))
	s.wait("second", isState("up"))
	time.Sleep(300 * time.Millisecond)
	if n := s.uplane.Applied(); n != 0 {
		t.Errorf("%d writes to adopt what did not change:\n%s", n, s.uplane.Log())
	}
	if got := events(); got != "" {
		t.Errorf("the kernel heard of changes:\n%s", got)
	}

	if err := s.world.RestartNM(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.world.Wifi.Public)
	s.followsGateway()

	if err := s.world.RestartBus(s.ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.world.RestartNM(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.world.Wifi.Public)
	s.followsGateway()

	// Gone without a daemon, removed by the next one.
	s.uplane.Kill()
	if err := s.uplane.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.run("remove", "steam")
	s.run("remove", "second")
	if out := s.sh("ip netns; ip rule | grep uplane || :; nft list ruleset | grep -i uplane || :"); out != "" {
		t.Errorf("left:\n%s", out)
	}
}

// followsGateway changes the profile's gateway there and back.
func (s *site) followsGateway() {
	s.Helper()
	s.sh("nmcli device modify wlp6s0 ipv4.gateway 192.168.50.2 ipv4.method manual ipv4.addresses 192.168.50.78/24")
	s.wait("steam", hasGateway("192.168.50.2"))
	s.sh("nmcli connection up homewifi")
	s.wait("steam", hasGateway("192.168.50.1"))
	s.leavesBy("steam", s.world.Wifi.Public)
}

// watchWrites records rtnetlink and nftables events of routes, rules and rules
// of the firewall until the returned function is called.
func (s *site) watchWrites() func() string {
	s.Helper()
	ip := s.world.Host.CommandContext(s.ctx, "ip", "monitor", "link", "route", "rule", "nsid")
	nft := s.world.Host.CommandContext(s.ctx, "nft", "monitor")
	var ipOut, nftOut strings.Builder
	ip.Stdout, nft.Stdout = &ipOut, &nftOut
	for _, c := range []*lab.Cmd{ip, nft} {
		if err := c.Start(); err != nil {
			s.Fatal(err)
		}
	}
	return func() string {
		for _, c := range []*lab.Cmd{ip, nft} {
			_ = c.Process.Signal(syscall.SIGTERM)
			_ = c.Wait()
		}
		var out strings.Builder
		for line := range strings.Lines(ipOut.String()) {
			if !strings.Contains(line, " fe80::") { // a card's own, some seconds after it came up
				out.WriteString(line)
			}
		}
		return out.String() + nftOut.String()
	}
}

// TestDriftIsHealed undoes each part of a lane from outside, with the daemon watching.
func TestDriftIsHealed(t *testing.T) {
	nftables := []string{
		"nft flush ruleset",
		"nft delete table inet uplane",
		"nft flush table inet uplane",
		"nft add table inet uplane '{ flags dormant; }'",
		"nft flush chain inet uplane forward",
		"nft insert rule inet uplane forward accept",
		"nft add chain inet uplane more",
		"nft delete rule inet uplane guard handle $(nft -a list chain inet uplane guard | grep -o 'handle [0-9]*' | tail -1 | cut -c8-)",
		"nft flush map inet uplane forward",
		"nft flush set inet uplane nets",
		"nft 'delete element inet uplane lanes { ul-steam }'",
		"nft 'add element inet uplane lanes { enp7s0 }'",
	}
	iptables := []string{
		"for t in filter nat mangle; do iptables -t $t -F; done",
		"nft flush ruleset",
		"iptables -D FORWARD -j UPLANE-FORWARD",
		"iptables -I FORWARD -j ACCEPT",
		"iptables -D UPLANE-FORWARD 2",
		"iptables -t mangle -I UPLANE-PREROUTING -j ACCEPT",
	}
	for backend, drifts := range map[string][]string{"nftables": nftables, "iptables": iptables} {
		t.Run(backend, func(t *testing.T) {
			s := newSite(t, lab.Plain, wired)
			s.longer(2 * time.Minute)
			s.sh("mkdir -p /etc/uplane")
			s.write("/etc/uplane/uplane.toml", "firewall = \""+backend+"\"\n")
			s.run("reload")
			s.run("up", "steam", "--uplink", lab.WiFi, "--mark", "100")
			plan := func() string { return s.run("plan", "steam") }
			for _, undo := range slices.Concat(drifts, []string{
				"ip route flush table 100",
				"ip route del default table 100",
				"ip route flush table 117117",
				"ip rule del priority 0 from 10.0.0.0/16; ip rule del priority 0 to 10.0.0.0/16",
				"ip rule del priority 40000 from 10.0.1.0/24; ip rule del priority 40002",
				"ip rule del priority 0 fwmark 100/0xefffffff",
				"while ip rule del protocol uplane; do :; done",
				"ip link del ul-steam",
				"ip link del ulv-steam",
				"ip netns del steam",
				"ip -n steam addr flush dev eth0",
				"ip -n steam link set dev eth0 down",
				"sysctl -qw net/ipv4/conf/wlp6s0/forwarding=0",
				"rm -r /etc/netns/steam || :", // it may be back before rm is done
			}) {
				s.sh(undo)
				start := time.Now()
				for plan() != "nothing to do: lane steam is as it shall be" {
					if time.Since(start) > 10*time.Second {
						t.Fatalf("after %q still to do:\n%s", undo, plan())
					}
					time.Sleep(10 * time.Millisecond)
				}
				s.leavesBy("steam", s.world.Wifi.Public)
			}
		})
	}
}

// TestFight has another program undo a rule again and again: the lane says so, and the rule is healed all the same.
func TestFight(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.run("up", "steam", "--uplink", lab.WiFi)
	const stop = "/run/peace"
	_, err := s.world.Host.Start("sh", "-c", "until [ -e "+stop+" ]; do ip rule del priority 40000 from 10.0.1.0/24 2>/dev/null; sleep 0.02; done; rm "+stop)
	if err != nil {
		t.Fatal(err)
	}
	st := s.wait("steam", isState("degraded"))
	if !strings.Contains(st.Reason, "another program keeps undoing") || !strings.Contains(st.Reason, "from 10.0.1.0/24 fwmark") {
		t.Errorf("reason: %s", st.Reason)
	}
	s.sh("touch " + stop + "; while [ -e " + stop + " ]; do sleep 0.01; done; sleep 0.2; ip rule | grep -q '^40000:.*10.0.1.0/24'")
	s.leavesBy("steam", s.world.Wifi.Public)
	s.settled("steam")
}

// TestTwin has both cards in one network, where the wire would answer for the Wi-Fi.
func TestTwin(t *testing.T) {
	s := newSite(t, lab.Twin, lab.Options{RPFilter: 1})
	before := s.traces()
	s.run("up", "steam", "--uplink", lab.WiFi)
	in, err := s.world.Host.Capture(lab.Wired, func(p lab.Packet) bool { return !p.IsARP() && p.Src == lab.WhoamiAddr })
	if err != nil {
		t.Fatal(err)
	}
	s.sh("ip neigh flush all")
	s.leavesBy("steam", s.world.Wifi.Public)
	for range 10 {
		s.run("run", "steam", "--", "ping", "-c1", "-W2", lab.WhoamiAddr.String())
	}
	if got, err := in.Stop(); err != nil || len(got) > 0 {
		t.Errorf("%d answers to the lane came in by the wire: %v %v", len(got), got, err)
	}
	s.run("remove", "steam")
	requireSame(t, before, s.traces())
}
