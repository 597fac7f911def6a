package kernel

import (
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"uplane/policy"
	"uplane/test/lab"
)

// testState is everything of two lanes but their chains.
func testState(t *testing.T, k *Kernel) policy.State {
	t.Helper()
	_, host, err := k.Observe(nil)
	if err != nil {
		t.Fatal(err)
	}
	lanes := []policy.Lane{
		{Name: "backup", Uplink: []policy.Selector{{Kind: policy.ByInterface, Value: "wlp6s0"}}, NoBridge: true},
		{Name: "steam", Uplink: []policy.Selector{{Kind: policy.ByInterface, Value: "wlp6s0"}}, Mark: 100, Bridge: "br0",
			Allow: []netip.Prefix{netip.MustParsePrefix("192.168.10.0/24")}},
	}
	allocs, clashes := policy.Allocate(lanes, nil, nil, host)
	want, statuses := policy.Build(policy.Input{
		Lanes: lanes, Host: host, Allocs: allocs, Clashes: clashes,
		Uplinks: []policy.Uplink{{
			Interface: "wlp6s0", Phase: policy.PhaseActive,
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.50.4/24")},
			Routes: []policy.UplinkRoute{
				{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.50.1")},
				{Dst: netip.MustParsePrefix("198.18.0.0/15"), Via: netip.MustParseAddr("192.168.50.9")},
			},
			DNS: []netip.Addr{netip.MustParseAddr("192.168.50.1")},
		}},
	})
	for _, s := range statuses {
		if s.State != policy.Up {
			t.Fatalf("lane %s is %s: %s", s.Lane.Name, s.State, s.Reason)
		}
	}
	for o := range want {
		if _, ok := o.(policy.Chain); ok {
			delete(want, o)
		}
	}
	return want
}

// uplinkLinks makes the host's cards.
const uplinkLinks = `
ip link add wlp6s0 type veth peer name w0
ip link add enp7s0 type veth peer name e0
ip addr add 192.168.50.4/24 dev wlp6s0
ip addr add 192.168.10.4/24 dev enp7s0
for l in w0 e0 wlp6s0 enp7s0; do ip link set dev $l up; done
for l in wlp6s0 enp7s0; do # the kernel notes a carrier a moment later
	until ip -o link show dev $l | grep -q 'state UP'; do sleep 0.01; done
done
ip route add default via 192.168.10.1 dev enp7s0 proto dhcp
`

func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

func open(t *testing.T, changed func()) *Kernel {
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
func observe(t *testing.T, k *Kernel, want policy.State) policy.State {
	t.Helper()
	have, _, err := k.Observe(sysctlKeys(want))
	if err != nil {
		t.Fatal(err)
	}
	return have
}

func converge(t *testing.T, k *Kernel, want policy.State) {
	t.Helper()
	for _, op := range policy.Diff(observe(t, k, want), want) {
		if err := k.Apply(op); err != nil {
			t.Fatal(err)
		}
	}
	requireEqual(t, observe(t, k, want), want)
}

func requireEqual(t *testing.T, have, want policy.State) {
	t.Helper()
	if !maps.Equal(have, want) {
		var lines []string
		for _, op := range policy.Diff(have, want) {
			lines = append(lines, op.Verb.String()+": "+op.String())
		}
		t.Fatalf("the kernel differs from what is wanted by\n%s", strings.Join(lines, "\n"))
	}
}

// snapshot is the host as a person would look at it.
const snapshot = `ip -o link; ip -o -4 addr; ip -4 route show table all; ip rule; ip netns; ls /etc/netns /run/netns 2>&1 || :
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
	want := testState(t, k)
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
			gone.Add(s)
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
	want := testState(t, k)
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
	want := testState(t, k)
	converge(t, k, want)
	for _, undo := range []string{
		"ip route flush table 100",
		"ip route del unreachable default table 100 metric 4294967295",
		"ip rule del priority 5200 from 10.0.1.0/24",
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
		"ip addr flush dev br0",
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
		settle(t, k, want)
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
		ops = policy.Diff(observe(t, k, want), want)
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
ip route add 10.0.1.0/24 dev enp7s0 table 100
ip rule add from 10.0.3.0/24 lookup 101 priority 5200
mkdir -p /etc/netns/other; echo nameserver 1.1.1.1 > /etc/netns/other/resolv.conf
`)
	k := open(t, nil)
	before := sh(t, snapshot)
	want := testState(t, k)
	if slices.ContainsFunc(slices.Collect(maps.Keys(want)), func(o policy.Object) bool {
		r, ok := o.(policy.Route)
		return ok && (r.Table == 100 || r.Table == 101)
	}) {
		t.Errorf("tables in use by others were allocated:\n%s", want)
	}
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
	want := testState(t, k)
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
