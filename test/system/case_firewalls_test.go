package system

import (
	"context"
	"strings"
	"testing"
	"time"

	"uplane/test/lab"
)

// unprintable is a rule in a table of iptables' that iptables itself can't read: then nobody may list or
// change that table by it.
const unprintable = `nft -f - <<'EOF'
table ip filter {
	chain FORWARD {
		type filter hook forward priority filter; policy accept;
		meta mark set meta mark & 0xff00ffff ^ 0x40000
	}
}
EOF`

// TestRuleThatIptablesCantRead has the daemon go on following, up, and restart, whatever is in others' tables.
func TestRuleThatIptablesCantRead(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.sh(unprintable)
	if r := s.shTry("iptables-save"); r.code == 0 && !strings.Contains(r.out+r.err, "incompatible") {
		t.Fatalf("iptables reads the rule, which proves nothing:\n%s%s", r.out, r.err)
	}
	follows := func() {
		t.Helper()
		s.followsGateway()
		s.settled("steam")
		s.wait("steam", isState("up"))
	}
	follows()
	s.run("up", "two", "--uplink", lab.WiFi)
	s.leavesBy("two", s.world.Wifi.Public)
	s.uplane.Kill()
	s.start()
	s.wait("two", isState("up"))
	follows()

	// All of it, ours included, saved and loaded again.
	s.sh("nft list ruleset >/tmp/ruleset; { echo flush ruleset; cat /tmp/ruleset; } | nft -f -")
	s.settled("steam")
	s.leavesBy("steam", s.world.Wifi.Public)
	s.leavesBy("two", s.world.Wifi.Public)
	follows()
	s.run("remove", "two")
	s.run("remove", "steam")
	if out := s.sh("nft list ruleset; ip rule; ip route show table all"); strings.Contains(out, "uplane") {
		t.Errorf("left:\n%s", out)
	}
}

// TestIptablesBlinded has the same with the hand recipe's way: what the daemon can't see is a condition, and all else follows.
func TestIptablesBlinded(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	s.sh(`mkdir -p /etc/uplane; echo 'firewall = "iptables"' >/etc/uplane/uplane.toml; uplane reload`)
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.leavesBy("steam", s.world.Wifi.Public)
	s.sh(unprintable)
	st := s.wait("steam", isState("degraded"))
	if !strings.Contains(st.Reason, "iptables") {
		t.Errorf("reason: %s", st.Reason)
	}
	s.sh("nmcli device modify wlp6s0 ipv4.gateway 192.168.50.2 ipv4.method manual ipv4.addresses 192.168.50.78/24 ipv4.dns 203.0.113.53")
	s.wait("steam", hasGateway("192.168.50.2"))
	waitFor(t, func() bool { return strings.Contains(s.sh("cat /etc/netns/steam/resolv.conf"), "203.0.113.53") }, "DNS follows")
	waitFor(t, func() bool { return strings.Contains(s.sh("ip route show table 100"), "via 192.168.50.2") }, "routes follow")
	s.sh("ip rule flush protocol 117")
	waitFor(t, func() bool { return strings.Contains(s.sh("ip rule"), "uplane") }, "rules are put back")
	s.uplane.Kill()
	s.start()
	s.wait("steam", isState("degraded"))
	s.leavesBy("steam", s.world.Wifi2.Public)
	s.sh("nft delete rule ip filter FORWARD handle $(nft -a list chain ip filter FORWARD | sed -n 's/.*mark set.* handle //p')")
	s.wait("steam", isState("up"))
	s.run("remove", "steam")
}

// TestReversePathFilters has all kinds of them. They look before translation, and so at the uplink's address.
func TestReversePathFilters(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{RPFilter: 1, RenewEvery: lab.QuickRenewal})
	s.longer(3 * time.Minute)
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.leavesBy("steam", s.world.Wifi.Public)
	for _, filter := range []string{
		`nft -f - <<'EOF'
table inet rp {
	chain prerouting {
		type filter hook prerouting priority raw;
		fib saddr . iif oif missing counter drop
	}
}
EOF`,
		"iptables -t raw -A PREROUTING -m rpfilter --invert -j DROP",
		"iptables -t raw -A PREROUTING -m rpfilter --validmark --invert -j DROP",
		"iptables -t mangle -A PREROUTING -m rpfilter --invert -j DROP",
	} {
		s.sh(filter)
		s.leavesBy("steam", s.world.Wifi.Public)
		s.run("down", "steam")
		s.run("up", "steam")
		s.leavesBy("steam", s.world.Wifi.Public)
		// What it is for still works: nobody comes in by the wrong card.
		ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
		if got, err := s.world.Host.Whoami(ctx); err != nil || got != s.world.Wire.Public {
			t.Errorf("the host leaves by %v: %v", got, err)
		}
		cancel()
		s.sh("nft flush ruleset")
		s.settled("steam")
	}
}

// TestAlternatives has the administrator switch between the variants of iptables under the daemon.
func TestAlternatives(t *testing.T) {
	s := newSite(t, lab.Plain, wired)
	s.longer(3 * time.Minute)
	if r := s.shTry("iptables-legacy -S && update-alternatives --query iptables"); r.code != 0 {
		t.Skipf("no legacy iptables here: %s", r.err)
	}
	s.sh(`mkdir -p /etc/uplane; echo 'firewall = "iptables"' >/etc/uplane/uplane.toml; uplane reload`)
	const ours = "{ iptables-nft-save; iptables-legacy-save; } 2>/dev/null | grep -ci uplane || :"
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.leavesBy("steam", s.world.Wifi.Public)
	rules := s.sh(ours)
	for _, variant := range []string{"legacy", "nft"} {
		s.sh("update-alternatives --set iptables /usr/sbin/iptables-" + variant)
		// The daemon that runs goes on as it is; the next one is of the new variant, and takes the old one's place.
		s.sh("uplane reload")
		s.leavesBy("steam", s.world.Wifi.Public)
		s.uplane.Kill()
		s.start()
		s.settled("steam")
		s.leavesBy("steam", s.world.Wifi.Public)
		waitFor(t, func() bool { return s.sh(ours) == rules }, "one variant has the lane's rules, once")
	}
	s.run("remove", "steam")
	waitFor(t, func() bool { return s.sh(ours) == "0" }, "no trace in either variant")
}
