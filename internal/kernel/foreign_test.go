package kernel

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"uplane/policy"
	"uplane/test/lab"
)

// rest is what a lane could leave behind on a bridge that stays.
const rest = `ip -4 addr show dev ul-steam | grep inet; ip route show table all | grep "proto uplane" || :; ip rule; ip netns; ip -o link | grep uplane || :
cat /proc/sys/net/ipv4/conf/ul-steam/forwarding /proc/sys/net/ipv6/conf/ul-steam/disable_ipv6 /sys/class/net/ul-steam/bridge/stp_state`

// TestForeignBridge has a lane on a bridge that is somebody else's, who takes its port away and runs
// the spanning tree protocol on it.
func TestForeignBridge(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks)
	sh(t, "ip link add ul-steam type bridge stp_state 1; ip link set ul-steam up; ip addr add 10.0.7.1/24 dev ul-steam")
	for _, k := range []*Kernel{open(t, nil), open(t, func() {})} {
		before := sh(t, rest)
		want := externalState()
		saved := observe(t, k, want)
		for _, undo := range []string{":", "ip link set ulv-steam nomaster", "ip link set ul-steam type bridge stp_state 1", "sysctl -qw net/ipv6/conf/ul-steam/disable_ipv6=0"} {
			sh(t, undo)
			inode := func() string {
				return sh(t, "stat -Lc %i /run/netns/steam 2>/dev/null || :; ip -n steam -o link show eth0 2>/dev/null || :")
			}
			was := inode()
			ops := func() []policy.Op { return policy.Diff(withChains(observe(t, k, want), want), want) }
			for deadline := time.Now().Add(5 * time.Second); undo != ":" && len(ops()) == 0; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%q goes unseen", undo)
				}
			}
			for _, op := range ops() {
				if err := k.Apply(op); err != nil {
					t.Fatal(err)
				}
			}
			requireEqual(t, withChains(observe(t, k, want), want), want)
			if undo != ":" && inode() != was {
				t.Errorf("after %q the lane's end is another: %s, not %s", undo, inode(), was)
			}
			if got := sh(t, "cat /sys/class/net/ul-steam/bridge/stp_state; cat /sys/class/net/ul-steam/brif/ulv-steam/state; ip -o link show ulv-steam"); !strings.HasPrefix(got, "0\n3\n") || !strings.Contains(got, "master ul-steam") {
				t.Errorf("after %q: %s", undo, got)
			}
		}
		none := policy.State{}
		for o := range saved {
			if _, ok := o.(policy.Sysctl); ok {
				none.Add("", o)
			}
		}
		for _, op := range policy.Diff(observe(t, k, want), none) {
			if err := k.Apply(op); err != nil {
				t.Fatal(err)
			}
		}
		if after := sh(t, rest); after != before {
			t.Errorf("left behind:\n%s\nnot\n%s", after, before)
		}
	}
}

// TestRelease gives a bridge of ours away.
func TestRelease(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks)
	k := open(t, nil)
	converge(t, k, testState())
	bridge := policy.Bridge{Name: "br0", Lane: "steam", MTU: 1500, Up: true}
	for range 2 { // the second time nothing is left to do
		if err := k.Apply(policy.Op{Verb: policy.Release, Object: bridge}); err != nil {
			t.Fatal(err)
		}
	}
	if got := sh(t, "ip -d link show br0"); !strings.Contains(got, "uplane-made:steam") || strings.Contains(got, "group 117") {
		t.Error(got)
	}
	state, host, err := observeAll(k, nil)
	if err != nil || state.Has(bridge) || len(host.Links["br0"].Addrs) != 2 {
		t.Errorf("%v %v\n%s", err, host.Links["br0"], state)
	}
	if !host.Links["br0"].Made {
		t.Error("it does not show that we have made it")
	}
	if err := k.RemoveLinks([]string{"br0"}); err != nil || strings.Contains(sh(t, "ip -o link"), "br0") {
		t.Errorf("it can't be removed: %v", err)
	}
}

// externalState is a lane on NetworkManager's ul-steam.
func externalState() policy.State {
	subnet := netip.MustParsePrefix("10.0.7.0/24")
	state := policy.State{}
	state.Add("steam",
		policy.Netns{Name: "steam", Up: true},
		policy.Veth{Name: "ulv-steam", Lane: "steam", Netns: "steam", Inner: "eth0", Bridge: "ul-steam", MTU: 1500, Up: true, InnerUp: true},
		policy.Addr{Netns: "steam", Link: "eth0", Prefix: netip.MustParsePrefix("10.0.7.2/24")},
		policy.Route{Netns: "steam", Table: policy.MainTable, Dst: policy.IPv4.Default(), Dev: "eth0", Via: netip.MustParseAddr("10.0.7.1")},
		policy.Route{Table: 100, Dst: subnet, Dev: "ul-steam"},
		policy.Route{Table: 100, Dst: policy.IPv4.Default(), Metric: policy.FloorMetric, Type: policy.Unreachable},
		policy.Rule{Family: policy.IPv4, From: subnet, Table: 100})
	state.Add("",
		policy.Sysctl{Key: "net/ipv4/conf/ul-steam/forwarding", Value: "1"},
		policy.Sysctl{Key: "net/ipv6/conf/ul-steam/disable_ipv6", Value: "1"},
		policy.Sysctl{Key: "net/bridge/conf/ul-steam/stp_state", Value: "0"},
		// Without what drops by interface, Diff moves no veth.
		policy.Element{Set: policy.LaneLinks, In: "ul-steam"}, policy.Element{Set: policy.LaneLinks, In: "ulv-steam"})
	return state
}

// withChains adds want's objects that are the firewall's to have.
func withChains(have, want policy.State) policy.State {
	for o := range want {
		if _, ok := o.(policy.Element); ok {
			have.Add("", o)
		}
	}
	return have
}
