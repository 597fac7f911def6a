package kernel

import (
	"testing"

	"uplane/policy"
	"uplane/test/lab"
)

// TestKeptIsWhatIsThere changes the host in ways that tell little of what they bring along, and compares what is kept
// from look to look with what a first look finds.
func TestKeptIsWhatIsThere(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks)
	k := open(t, func() {})
	want := testState()
	converge(t, k, want)
	for _, script := range []string{
		"ip link set wlp6s0 down; ip link set wlp6s0 name wlan7; ip link set wlan7 up",
		"ip link set br0 down; ip link set br0 name br9; ip link set br9 up",
		"ip link set ulv-steam group default alias ''; ip link set br9 group default",
		"ip -n steam link set eth0 name eth7",
		"ip -n steam link set eth7 netns backup",
		"ip -n backup link set eth7 down; ip -n backup addr add 10.0.2.2/24 dev eth7",
		"ip -n backup link set lo alias mine",
		"ip -n backup link set lo alias uplane:backup",
		"ip netns del steam; ip netns add steam; ip -n steam link set lo alias uplane:steam",
		"ip route add default via 192.168.10.9 dev enp7s0 src 192.168.10.4 metric 7; ip addr add 192.168.10.5/24 dev enp7s0",
		"ip addr del 192.168.10.4/24 dev enp7s0",
		"ip link add v1 type veth peer name v2; ip link set v1 master br9; ip link set v1 up; ip link del v1; ip link add v1 type bridge",
		"for i in $(seq 50); do ip link add x$i type bridge; ip addr add 10.77.$i.1/24 dev x$i; ip link set x$i up; done",
		"for i in $(seq 50); do ip link del x$i; done",
		"for i in $(seq 9); do ip rule add from 10.9.$i.0/24 priority 0 unreachable protocol 117; ip -6 rule add priority $((i % 3)) lookup $i; done",
		"for i in $(seq 9); do ip rule del from 10.9.$i.0/24; done; ip -6 rule del lookup 4; ip -6 rule add priority 1 lookup 4",
		"ip rule add priority 3 lookup 9; ip rule add priority 3 lookup 9 protocol 117; ip rule add priority 2 lookup 9; ip rule del priority 3 protocol 117",
		"for i in $(seq 300); do ip -6 rule add priority $((400 - i)) lookup $i protocol 117; done",
		"ip -6 rule flush",
		"for t in 5 6 7 8 9 10; do ip route add unreachable default table $t proto 117; ip -6 route add throw 2001:db8::/32 table $t proto 117; done",
		"ip route flush table 7; ip -6 route flush table all proto 117",
		"sysctl -qw net/ipv6/conf/all/disable_ipv6=1",
		"sysctl -qw net/ipv6/conf/all/disable_ipv6=0",
		"mv /etc/netns/steam /etc/netns/else; mkdir /etc/netns/steam; ln -s ../else/resolv.conf /etc/netns/steam/",
	} {
		t.Log(script)
		sh(t, script)
		requireFresh(t, k, want)
	}
	// And by our own hand: what was done is seen at once, whether the events have been read or not.
	for range 20 {
		for _, o := range []policy.Object{
			policy.Rule{Family: policy.IPv6, Priority: 9, Table: 4000},
			policy.Route{Table: 4000, Dst: policy.IPv6.Default(), Type: policy.Throw},
			policy.Route{Table: 4000, Dst: policy.IPv4.Default(), Metric: 1, Type: policy.Blackhole},
			policy.Bridge{Name: "br5", Lane: "steam", MTU: 1500},
		} {
			for _, verb := range []policy.Verb{policy.Add, policy.Remove} {
				if err := k.Apply(policy.Op{Verb: verb, Object: o}); err != nil {
					t.Fatal(err)
				}
				if have := observe(t, k, want); have.Has(o) != (verb == policy.Add) {
					t.Fatalf("after %v of %v it is there: %v", verb, o, have.Has(o))
				}
			}
		}
	}
}
