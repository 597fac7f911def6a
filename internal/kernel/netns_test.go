package kernel

import (
	"testing"

	"uplane/policy"
	"uplane/test/lab"
)

// TestLaneSwitches checks that no link in a lane speaks IPv6, however it came there, while programs can use ::1; and
// that what programs may do outside they may do in a lane.
func TestLaneSwitches(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks+`
sysctl -qw net/ipv4/ping_group_range="3 2147483647" net/ipv4/ip_unprivileged_port_start=80`)
	k := open(t, nil)
	const look = `ip -n steam -6 -o addr show scope link; ip -n steam -6 -o addr show scope global; ip -n steam -6 -o addr show dev lo | grep -o ::1/128
ip netns exec steam sysctl -n net/ipv6/conf/eth0/disable_ipv6 net/ipv6/conf/eth0/accept_ra net/ipv6/conf/eth0/autoconf net/ipv4/tcp_mtu_probing
ip netns exec steam sysctl -n net/ipv4/ping_group_range net/ipv4/ip_unprivileged_port_start`
	const right = "::1/128\n1\n0\n0\n1\n3\t2147483647\n80\n"
	converge(t, k, testState())
	if got := sh(t, look); got != right {
		t.Error(got)
	}
	sh(t, "ip -n steam link add more0 type veth peer name more1; ip -n steam link set more0 up; ip -n steam link set more1 up")
	if got := sh(t, look); got != right {
		t.Errorf("with a link of its own:\n%s", got)
	}
	// The plan's lines make the same.
	for _, op := range policy.Diff(observe(t, k, nil), nil) {
		if err := k.Apply(op); err != nil {
			t.Fatal(err)
		}
	}
	script := "set -e\n"
	want := testState()
	for _, op := range policy.Diff(observe(t, k, want), want) {
		for _, line := range op.Shell() {
			script += line + "\n"
		}
	}
	sh(t, script)
	if got := sh(t, look); got != right {
		t.Errorf("by hand:\n%s", got)
	}
}
