package system

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"uplane/test/lab"
)

// TestKernelWithoutNetfilterNetlink has the daemon on a kernel that has neither nf_tables nor a list of connections. Lanes are
// kept by legacy iptables, and what goes says what it can't know.
func TestKernelWithoutNetfilterNetlink(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.uplane.Kill()
	s.uplane.RefuseNetlink(unix.NETLINK_NETFILTER, unix.EPROTONOSUPPORT)
	s.start()
	s.run("up", "steam", "--uplink", lab.WiFi, "--mark", "100")
	s.leavesBy("steam", s.world.Wifi.Public)
	s.settled("steam")
	if legacy, nft := s.sh("iptables-legacy-save"), s.sh("nft list ruleset"); !strings.Contains(legacy, "-A FORWARD -j UPLANE-FORWARD") || nft != "" {
		t.Errorf("the firewall is\n%s%s", legacy, nft)
	}
	s.followsGateway()
	s.sh("iptables-legacy -F UPLANE-FORWARD; iptables-legacy -t nat -F UPLANE-POSTROUTING")
	s.run("reload") // nobody tells of such changes
	s.settled("steam")
	s.worksAndCloses("steam")

	s.run("up", "second", "--uplink", lab.WiFi)
	s.leavesBy("second", s.world.Wifi.Public)
	s.run("remove", "second")
	if got := s.run("status", "steam", "--json"); !strings.Contains(got, `"reason": "NoConntrack"`) {
		t.Errorf("nobody says what can't be known:\n%s", got)
	}
	s.run("remove", "steam")
	if got := s.sh("ip netns; iptables-legacy-save | grep -e -A.UPLANE | grep -v DROP || :"); got != "" {
		t.Errorf("left:\n%s", got)
	}
}

// TestKernelWithoutIPv6 has the daemon on a host that has no switches of IPv6, which is how a kernel without it looks.
func TestKernelWithoutIPv6(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.uplane.Kill()
	// Nothing below /proc can be taken away, but what is kept can be put elsewhere.
	s.sh(`mkdir /run/lab/net; mount --bind /proc/sys/net /run/lab/net; mount -t tmpfs tmpfs /proc/sys/net
		for part in core ipv4 netfilter; do mkdir /proc/sys/net/$part; mount --bind /run/lab/net/$part /proc/sys/net/$part; done`)
	s.start()
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.leavesBy("steam", s.world.Wifi.Public)
	s.settled("steam")
	s.followsGateway()
	s.worksAndCloses("steam")
	s.run("remove", "steam")
	if got := s.sh("ip netns; ip rule | grep uplane || :"); got != "" {
		t.Errorf("left:\n%s", got)
	}
}

// worksAndCloses takes a lane's uplink away, and gives it back.
func (s *site) worksAndCloses(lane string) {
	s.Helper()
	s.sh("nmcli device disconnect " + lab.WiFi)
	s.wait(lane, isState("waiting"))
	s.failsAtOnce(lane)
	s.sh("nmcli connection up homewifi")
	s.wait(lane, isState("up"))
	s.leavesBy(lane, s.world.Wifi.Public)
}
