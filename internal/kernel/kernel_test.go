package kernel

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"uplane/policy"
	"uplane/test/lab"
)

// testState is everything of two lanes but what is the firewall's: steam behind a bridge and with
// rules of every kind, backup without.
func testState() policy.State {
	state := policy.State{}
	addTestLane(state, "backup", "", "ulv-backup", 1, 100)
	addTestLane(state, "steam", "br0", "ulv-steam", 2, 101)
	state.Add("steam",
		policy.Route{Table: 101, Dst: netip.MustParsePrefix("192.168.10.0/24"), Type: policy.Throw},
		policy.Route{Table: 101, Dst: netip.MustParsePrefix("2001:db8:10::/64"), Type: policy.Throw},
		policy.Rule{Priority: 4000, Family: policy.IPv4, Mark: 100, Mask: 0xff, Table: 101},
		policy.Rule{Priority: 4000, Family: policy.IPv6, Mark: 0, Mask: 0xff, Table: 101})
	return state
}

func addTestLane(state policy.State, lane, bridge, veth string, n byte, table uint32) {
	subnet4 := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, n, 0}), 24)
	subnet6 := netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("fd00:1:2:%d::", n)), 64)
	outer, gateway := veth, subnet4.Addr().Next()
	if bridge != "" {
		outer = bridge
		state.Add(lane, policy.Bridge{Name: bridge, Lane: lane, MTU: 1500, Up: true})
	}
	state.Add(lane,
		policy.Netns{Name: lane, Up: true},
		policy.Veth{Name: veth, Lane: lane, Netns: lane, Inner: "eth0", Bridge: bridge, MTU: 1500, Up: true, InnerUp: true},
		policy.Addr{Link: outer, Prefix: netip.PrefixFrom(gateway, 24)},
		policy.Addr{Netns: lane, Link: "eth0", Prefix: netip.PrefixFrom(gateway.Next(), 24)},
		policy.Route{Netns: lane, Table: policy.MainTable, Dst: policy.IPv4.Default(), Dev: "eth0", Via: gateway},
		policy.Route{Table: table, Dst: netip.MustParsePrefix("198.18.0.0/15"), Dev: "wlp6s0", Via: netip.MustParseAddr("192.168.50.9")},
		policy.Sysctl{Key: "net/ipv4/conf/" + outer + "/forwarding", Value: "1"},
		policy.File{Path: policy.ResolvConfPath(lane), Content: policy.FileTag + lane + "\nnameserver 192.168.50.1\n"})
	state.Add("", policy.Sysctl{Key: "net/ipv4/conf/wlp6s0/forwarding", Value: "1"}, policy.Sysctl{Key: "net/ipv4/conf/wlp6s0/src_valid_mark", Value: "1"})
	for _, f := range []struct {
		policy.Family
		subnet, wifi  netip.Prefix
		gateway, host netip.Addr
	}{
		{policy.IPv4, subnet4, netip.MustParsePrefix("192.168.50.0/24"), netip.MustParseAddr("192.168.50.1"), gateway},
		{policy.IPv6, subnet6, netip.MustParsePrefix("2001:db8:50::/64"), netip.MustParseAddr("fe80::1"), subnet6.Addr().Next()},
	} {
		state.Add(lane,
			policy.Route{Table: table, Dst: f.subnet, Dev: outer},
			policy.Route{Table: table, Dst: f.wifi, Dev: "wlp6s0"},
			policy.Route{Table: table, Dst: f.Default(), Dev: "wlp6s0", Via: f.gateway},
			policy.Route{Table: table, Dst: f.Default(), Metric: policy.FloorMetric, Type: policy.Unreachable},
			policy.Rule{Priority: 0, Family: f.Family, To: f.subnet, Table: table},
			policy.Rule{Priority: 0, Family: f.Family, From: f.subnet, Mark: policy.Witness, Mask: policy.Witness, Table: table},
			policy.Rule{Priority: 0, Family: f.Family, From: f.subnet, Action: policy.UnreachableRule},
			policy.Rule{Priority: 1, Family: f.Family, From: f.subnet, Table: policy.MainTable, AtLeast: 1},
			policy.Rule{Priority: 1, Family: f.Family, To: f.subnet, Action: policy.Goto, Goto: 32766})
		if f.Family == policy.IPv6 {
			state.Add(lane, policy.Addr{Link: outer, Prefix: netip.PrefixFrom(f.host, 64)})
		}
	}
}

// uplinkLinks makes the host's cards.
const uplinkLinks = `
ip link add wlp6s0 type veth peer name w0
ip link add enp7s0 type veth peer name e0
ip addr add 192.168.50.4/24 dev wlp6s0
ip addr add 2001:db8:50::4/64 dev wlp6s0 nodad
ip addr add 192.168.10.4/24 dev enp7s0
for l in w0 e0 wlp6s0 enp7s0; do ip link set dev $l up; done
for l in wlp6s0 enp7s0; do # the kernel notes a carrier a moment later
	until ip -o link show dev $l | grep -q 'state UP'; do sleep 0.01; done
done
ip route add default via 192.168.10.1 dev enp7s0 proto dhcp
`

func sh(t testing.TB, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

func open(t testing.TB, changed func()) *Kernel {
	t.Helper()
	k, err := Open(slog.New(slog.DiscardHandler), changed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

func sysctlKeys(s policy.State) []string {
	var keys []string
	for o := range s {
		if c, ok := o.(policy.Sysctl); ok {
			keys = append(keys, c.Key)
		}
	}
	return keys
}

// observe returns what is ours, with the sysctls that want names.
func observe(t testing.TB, k *Kernel, want policy.State) policy.State {
	t.Helper()
	keys := sysctlKeys(want)
	have, _, err := observeAll(k, keys)
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(have, func(o policy.Object, _ string) bool {
		s, ok := o.(policy.Sysctl)
		return ok && !slices.Contains(keys, s.Key)
	})
	return have
}

func converge(t testing.TB, k *Kernel, want policy.State) {
	t.Helper()
	for _, op := range policy.Diff(observe(t, k, want), want) {
		if err := k.Apply(op); err != nil {
			t.Fatal(err)
		}
	}
	requireEqual(t, observe(t, k, want), want)
}

func requireEqual(t testing.TB, have, want policy.State) {
	t.Helper()
	if !maps.Equal(have, want) {
		var lines []string
		for o, lane := range have {
			if has, ok := want[o]; ok && has != lane {
				lines = append(lines, fmt.Sprintf("%v is of lane %q, not %q", o, lane, has))
			}
		}
		for _, op := range policy.Diff(have, want) {
			lines = append(lines, op.Verb.String()+": "+op.String())
		}
		t.Fatalf("the kernel differs from what is wanted by\n%s", strings.Join(lines, "\n"))
	}
}

// snapshot is the host as a person would look at it.
const snapshot = `ip -o link; ip -o addr | grep -v 'scope link'; ip -4 route show table all; ip -6 route show table all | grep -v 'table local'; ip rule; ip -6 rule; ip netns; ls /etc/netns /run/netns 2>&1 || :
for f in /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/arp_*; do echo $f $(cat $f); done`

func TestApplyThenObserve(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks)
	sh(t, "rmdir /run/netns")
	before := sh(t, snapshot)
	k := open(t, nil)
	want := testState()
	dirs := k.MissingDirs("steam")
	saved := observe(t, k, want)
	converge(t, k, want)
	if ops := policy.Diff(observe(t, k, want), want); len(ops) != 0 {
		t.Errorf("a second look finds %v", ops)
	}
	if got := strings.TrimSpace(sh(t, "cat /proc/sys/net/ipv4/ip_forward")); got != "0" {
		t.Errorf("ip_forward = %s", got)
	}
	if got := sh(t, "ip netns exec steam cat /etc/resolv.conf"); !strings.Contains(got, "nameserver 192.168.50.1\n") {
		t.Errorf("resolv.conf in the lane:\n%s", got)
	}

	gone := make(policy.State)
	for o := range saved {
		if s, ok := o.(policy.Sysctl); ok && !strings.Contains(s.Key, "br0") && !strings.Contains(s.Key, "ulv-") {
			gone.Add("", s)
		}
	}
	for _, op := range policy.Diff(observe(t, k, gone), gone) {
		if err := k.Apply(op); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range slices.Backward(dirs) {
		k.RemoveDir(d)
	}
	if after := sh(t, snapshot); after != before {
		t.Errorf("traces are left:\n%s", lineDiff(before, after))
	}
}

// TestPlanInShell runs the plan's lines as a person would, and finds what Apply makes.
func TestPlanInShell(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks)
	k := open(t, nil)
	want := testState()
	script := "set -e\n"
	for _, op := range policy.Diff(observe(t, k, want), want) {
		script += strings.Join(op.Shell(), "\n") + "\n"
	}
	sh(t, script)
	requireEqual(t, observe(t, k, want), want)

	script = "set -e\n"
	for _, op := range policy.Diff(observe(t, k, nil), nil) {
		script += strings.Join(op.Shell(), "\n") + "\n"
	}
	sh(t, script)
	requireEqual(t, observe(t, k, nil), policy.State{})
}

// TestDriftIsSeen undoes one thing at a time by hand; events alone must lead to it.
func TestDriftIsSeen(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks)
	changed := make(chan struct{}, 1)
	k := open(t, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	want := testState()
	converge(t, k, want)
	for _, undo := range []string{
		"ip route flush table 100",
		"ip -6 route flush table 100",
		"ip -6 route del fd00:1:2:2::/64 table 101",
		"ip -6 rule del priority 0 from fd00:1:2:1::/64 unreachable",
		"ip -6 addr flush dev br0 scope global",
		"sysctl -qw net/ipv6/conf/br0/disable_ipv6=1; sysctl -qw net/ipv6/conf/br0/disable_ipv6=0",
		"ip route del unreachable default table 100 metric 4294967295",
		"ip rule del priority 0 from 10.0.1.0/24 fwmark 0x10000000/0x10000000",
		"ip rule flush; ip rule add priority 32766 lookup main; ip rule add priority 32767 lookup default",
		"ip link del br0",
		"ip link del ulv-steam",
		"ip link del ulv-backup",
		"ip netns del steam",
		"ip -n steam link del eth0",
		"ip -n steam addr del 10.0.2.2/24 dev eth0",
		"ip -n steam route del default",
		"ip -n steam link set dev eth0 down",
		"ip -n steam link set dev lo down",
		"ip -n steam link set dev eth0 mtu 1400",
		"ip link set dev ulv-steam nomaster",
		"ip link set dev br0 down",
		"ip link set dev wlp6s0 down; ip link set dev wlp6s0 up; until ip -o link show dev wlp6s0 | grep -q 'state UP'; do sleep 0.01; done",
		"ip -4 addr flush dev br0",
		"sysctl -qw net/ipv4/conf/wlp6s0/forwarding=0",
		"sysctl -qw net/ipv4/ip_forward=1; sysctl -qw net/ipv4/ip_forward=0",
		"sysctl -qw net/ipv4/conf/wlp6s0/forwarding=0",
		"rm -r /etc/netns/steam",
		"echo nameserver 8.8.8.8 > /etc/netns/steam/resolv.conf",
		"ip netns exec steam sleep 60 >/dev/null 2>&1 & sleep 0.1; ip netns del steam",
	} {
		drain(changed)
		sh(t, undo)
		var have policy.State
		deadline := time.After(2 * time.Second)
		for have == nil || maps.Equal(have, want) {
			select {
			case <-changed:
				have = observe(t, k, want)
			case <-deadline:
				t.Fatalf("after %q nothing was noticed", undo)
			}
		}
		t.Log(undo)
		requireFresh(t, k, want)
		settle(t, k, want)
		requireFresh(t, k, want)
	}
}

// requireFresh checks that what is kept from look to look is what one finds who looks for the first time.
func requireFresh(t testing.TB, k *Kernel, want policy.State) {
	t.Helper()
	fresh := open(t, nil)
	defer fresh.Close()
	sorted := func(h *policy.Host) *policy.Host {
		slices.SortFunc(h.Routes, func(a, b policy.HostRoute) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		return h
	}
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
		have, host, err := observeAll(k, sysctlKeys(want))
		if err != nil {
			t.Fatal(err)
		}
		now, hostNow, err := observeAll(fresh, sysctlKeys(want))
		if err != nil {
			t.Fatal(err)
		}
		for o, lane := range have {
			switch o.(type) {
			case policy.Rule, policy.Route: // whose lane is known from when there was more of it
				if now.Has(o) {
					now[o] = lane
				}
			}
		}
		if maps.Equal(have, now) && reflect.DeepEqual(sorted(host), sorted(hostNow)) {
			return
		}
		if time.Now().After(deadline) { // till then the kernel may still be at it
			t.Errorf("what is kept is\n%+v\n%+v\nand what is there\n%+v\n%+v", host.Links, host.Routes, hostNow.Links, hostNow.Routes)
			requireEqual(t, have, now)
			t.FailNow()
		}
	}
}

func drain(c chan struct{}) {
	for {
		select {
		case <-c:
		case <-time.After(20 * time.Millisecond):
			return
		}
	}
}

// settle converges, like the loop in several passes: an event may be late.
func settle(t *testing.T, k *Kernel, want policy.State) {
	t.Helper()
	var ops []policy.Op
	for range 20 {
		have, host, err := observeAll(k, sysctlKeys(want))
		if err != nil {
			t.Fatal(err)
		}
		for o, lane := range want {
			// A file of ours that has lost its tag: who remembers it says so.
			if f, ok := o.(policy.File); ok && host.Files[f.Path] != "" {
				have.Add(lane, policy.File{Path: f.Path})
			}
		}
		ops = policy.Diff(have, want)
		if len(ops) == 0 {
			return
		}
		for _, op := range ops {
			if err := k.Apply(op); err != nil {
				t.Log(err)
				k.Invalidate()
				break
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("does not converge: %v", ops)
}

// TestForeignObjectsSurvive has look-alikes of everything in the lanes' way.
func TestForeignObjectsSurvive(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks+`
ip link add ul-other type bridge
ip link add ulv-x type veth peer name ulv-y
ip link set dev ul-other alias foreign up
ip netns add other
ip -n other link set lo up
ip route add 203.0.113.0/24 dev enp7s0 table 100
ip -6 route add 2001:db8:1::/64 dev enp7s0 table 100
ip rule add from 10.0.3.0/24 lookup 101 priority 5200
ip -6 rule add from 10::/64 lookup 101 priority 5200
mkdir -p /etc/netns/other; echo nameserver 1.1.1.1 > /etc/netns/other/resolv.conf
`)
	k := open(t, nil)
	before := sh(t, snapshot)
	want := testState()
	converge(t, k, want)
	for _, op := range policy.Diff(observe(t, k, nil), nil) {
		if err := k.Apply(op); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, "for l in wlp6s0 enp7s0; do sysctl -qw net/ipv4/conf/$l/forwarding=0; done")
	if after := sh(t, snapshot); after != before {
		t.Errorf("foreign objects changed:\n%s", lineDiff(before, after))
	}
	if _, err := os.Stat("/etc/netns/other/resolv.conf"); err != nil {
		t.Error(err)
	}
}

func TestRemoveLinksTogether(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks)
	k := open(t, nil)
	want := testState()
	converge(t, k, want)
	sh(t, "ip link add br9 type bridge")
	if err := k.RemoveLinks([]string{"br0", "ulv-steam", "ulv-backup", "never"}); err != nil {
		t.Fatal(err)
	}
	if err := k.RemoveLinks([]string{"br9"}); err == nil {
		t.Error("a foreign link was deleted")
	}
	for o := range observe(t, k, nil) {
		switch o.(type) {
		case policy.Veth, policy.Bridge:
			t.Errorf("%v is left", o)
		}
	}
}

// lineDiff returns the lines that only one of two texts has.
func lineDiff(before, after string) string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	var out []string
	for _, l := range a {
		if !slices.Contains(b, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

// observeAll is what k observes, as one state.
func observeAll(k *Kernel, keys []string) (policy.State, *policy.Host, error) {
	parts, host, err := k.Observe(keys)
	return policy.Setup{Parts: parts}.All(), host, err
}
