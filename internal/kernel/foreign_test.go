package kernel

import (
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
		want := externalState(t, k)
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
				none.Add(o)
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
	converge(t, k, testState(t, k))
	bridge := policy.Bridge{Name: "br0", Lane: "steam", MTU: 1500, Up: true}
	for range 2 { // the second time nothing is left to do
		if err := k.Apply(policy.Op{Verb: policy.Release, Object: bridge}); err != nil {
			t.Fatal(err)
		}
	}
	if got := sh(t, "ip -d link show br0"); !strings.Contains(got, "uplane-made:steam") || strings.Contains(got, "group 117") {
		t.Error(got)
	}
	state, host, err := k.Observe(nil)
	if err != nil || state.Has(bridge) || len(host.Links["br0"].Addrs) != 1 {
		t.Errorf("%v %v\n%s", err, host.Links["br0"], state)
	}
	policy.TakeBack(state, host, []policy.Profile{{Interface: "br0"}})
	if _, stays := host.Links["br0"]; !stays {
		t.Error("it is taken back while a profile has it")
	}
	policy.TakeBack(state, host, nil)
	if !state.Has(policy.Bridge{Name: "br0", MTU: 1500, Up: true}) {
		t.Errorf("it is not taken back:\n%s", state)
	}
	if err := k.RemoveLinks([]string{"br0"}); err != nil || strings.Contains(sh(t, "ip -o link"), "br0") {
		t.Errorf("it can't be removed: %v", err)
	}
}

// externalState is a lane on NetworkManager's ul-steam, without its chains.
func externalState(t *testing.T, k *Kernel) policy.State {
	t.Helper()
	_, host, err := k.Observe(nil)
	if err != nil {
		t.Fatal(err)
	}
	lanes := []policy.Lane{{Name: "steam", Uplink: []policy.Selector{{Kind: policy.ByInterface, Value: "wlp6s0"}}, Bridge: "ul-steam", External: true}}
	allocs, clashes := policy.Allocate(lanes, nil, nil, host)
	want, statuses := policy.Build(policy.Input{Lanes: lanes, Host: host, Allocs: allocs, Clashes: clashes})
	if s := statuses[0]; s.State != policy.Waiting || s.Alloc.Subnet.String() != "10.0.7.0/24" {
		t.Fatalf("lane is %s (%s) with %v", s.State, s.Reason, s.Alloc)
	}
	return want
}

// withChains adds want's chains, which are package netfilter's, to have: without them Diff moves no veth.
func withChains(have, want policy.State) policy.State {
	for o := range want {
		if _, ok := o.(policy.Chain); ok {
			have.Add(o)
		}
	}
	return have
}
