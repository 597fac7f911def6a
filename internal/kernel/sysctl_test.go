package kernel

import (
	"strings"
	"testing"
	"time"

	"uplane/policy"
	"uplane/test/lab"
)

// TestHostSysctls has others change switches; what is known of one link is forgotten alone.
func TestHostSysctls(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks+"ip link add idle type bridge")
	k := open(t, func() {})
	const wifi6 = "net/ipv6/conf/wlp6s0/disable_ipv6"
	asked := []string{"net/ipv4/conf/wlp6s0/rp_filter", wifi6, "net/ipv4/conf/never/forwarding"}
	look := func() (policy.State, *policy.Host) {
		t.Helper()
		state, host, err := observeAll(k, asked)
		if err != nil {
			t.Fatal(err)
		}
		return state, host
	}
	wait := func(script, key, value string) {
		t.Helper()
		sh(t, script)
		for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
			if _, host := look(); host.Sysctls[key] == value {
				return
			} else if time.Now().After(deadline) {
				t.Fatalf("after %q %s is %q", script, key, host.Sysctls[key])
			}
		}
	}
	state, host := look()
	for _, key := range []string{"forwarding", "src_valid_mark", "arp_ignore", "arp_announce", "rp_filter"} {
		if v := host.Sysctls["net/ipv4/conf/wlp6s0/"+key]; v != "0" && key != "rp_filter" || v == "" {
			t.Errorf("%s is %q", key, v)
		}
	}
	if _, ok := host.Sysctls["net/ipv4/conf/enp7s0/rp_filter"]; ok {
		t.Error("what nobody asked for is read")
	}
	if _, ok := host.Sysctls["net/ipv4/conf/idle/forwarding"]; ok {
		t.Error("the switches of a link that is down are read")
	}
	if _, ok := host.Sysctls["net/ipv4/conf/never/forwarding"]; ok || !state.Has(policy.Sysctl{Key: wifi6, Value: "0"}) || len(state) != 2 {
		t.Errorf("asked for: %v", state)
	}
	if host.Forwards {
		t.Error("the host does not forward")
	}
	time.Sleep(20 * time.Millisecond)
	look()
	sh(t, "sysctl -qw net/ipv4/conf/enp7s0/src_valid_mark=1") // the kernel sends no event for this one
	wait("sysctl -qw net/ipv4/conf/wlp6s0/forwarding=1", "net/ipv4/conf/wlp6s0/forwarding", "1")
	if _, host := look(); host.Sysctls["net/ipv4/conf/enp7s0/src_valid_mark"] != "0" {
		t.Error("an event of one link has the others' switches read again")
	}
	wait("ip link set enp7s0 mtu 1400", "net/ipv4/conf/enp7s0/src_valid_mark", "1")
	asked = append(asked, "net/ipv4/conf/enp7s0/src_valid_mark")
	look()
	wait("sysctl -qw net/ipv4/conf/enp7s0/src_valid_mark=0", "net/ipv4/conf/enp7s0/src_valid_mark", "0")
	asked = asked[:len(asked)-1]
	// For disable_ipv6 there is no event either, but of the routes that go and come with it.
	sh(t, "ip -6 addr flush dev wlp6s0; ip link set wlp6s0 addrgenmode none")
	for _, by := range []string{"wlp6s0", "all"} {
		wait("sysctl -qw net/ipv6/conf/"+by+"/disable_ipv6=1", wifi6, "1")
		wait("sysctl -qw net/ipv6/conf/"+by+"/disable_ipv6=0", wifi6, "0")
	}
	time.Sleep(50 * time.Millisecond)
	look()
	if _, cached := k.sysctls["wlp6s0"][wifi6]; !cached {
		t.Errorf("%s is read in every pass", wifi6)
	}
	wait("sysctl -qw net/ipv4/ip_forward=1", "net/ipv4/conf/enp7s0/forwarding", "1")
	if _, host := look(); !host.Forwards {
		t.Error("the host forwards")
	}
	// Below IPv6's smallest MTU its switches are gone, and come back.
	wait("ip link set wlp6s0 mtu 576", wifi6, "")
	wait("ip link set wlp6s0 mtu 1500", wifi6, "0")
	// Another link takes the name.
	wait("ip link set wlp6s0 down; ip link set wlp6s0 name old; ip link add wlp6s0 type bridge; ip link set wlp6s0 up", "net/ipv4/conf/old/forwarding", "")
	if _, host := look(); host.Sysctls["net/ipv4/conf/wlp6s0/src_valid_mark"] != strings.TrimSpace(sh(t, "cat /proc/sys/net/ipv4/conf/wlp6s0/src_valid_mark")) {
		t.Error("the switches of the link that had the name are taken for the new one's")
	}
}

func BenchmarkReadSysctl(b *testing.B) {
	s := openSwitches()
	defer s.close()
	for b.Loop() {
		if _, err := s.read("net/ipv6/conf/lo/disable_ipv6"); err != nil {
			b.Fatal(err)
		}
	}
}
