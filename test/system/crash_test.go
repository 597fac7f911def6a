package system

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"uplane/test/lab"
)

// killAfter kills the daemon a while after uplane began to ask something of it.
func (s *site) killAfter(d time.Duration, args ...string) {
	s.Helper()
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = s.uplane.Run(s.ctx, args...) }) // it may well fail
	time.Sleep(d)
	s.uplane.Kill()
	wg.Wait()
}

// tagged shows all that carries a tag of ours: what a daemon without memory can know to be its own.
func (s *site) tagged() string {
	s.Helper()
	return s.sh(`ip link show group 117; ip link show group 1970302062; ip -o link | grep uplane: || :
		ip netns; ls /run/netns 2>/dev/null || :
		ip rule | grep uplane || :; ip route show table all proto uplane
		nft list ruleset | grep -i uplane || :
		grep -ls '^# uplane:' /etc/netns/*/resolv.conf || :`)
}

// TestCrashes kills the daemon at any moment of building and removing lanes. Whatever moment that
// is, the next one builds and removes them as if nothing had been.
func TestCrashes(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.longer(3 * time.Minute)
	before := s.traces()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	// Building takes some 30 ms here, removing 60.
	moment := func() time.Duration { return time.Duration(random.IntN(70)) * time.Millisecond }
	for range 10 {
		s.killAfter(moment(), "up", "steam", "--uplink", lab.WiFi, "--mark", "100")
		s.start()
		s.run("up", "steam", "--uplink", lab.WiFi, "--mark", "100")
		s.run("up", "second", "--uplink", lab.WiFi, "--bridge", "false")
		s.leavesBy("steam", s.world.Wifi.Public)
		s.leavesBy("second", s.world.Wifi.Public)
		s.killAfter(moment(), "remove", "steam")
		s.start()
		s.uplaneTry("remove", "steam") // it may be gone
		s.leavesBy("second", s.world.Wifi.Public)
		s.killAfter(moment(), "down", "second")
		s.start()
		s.run("remove", "second")
		s.withoutTrace(before)
		if t.Failed() {
			return
		}
	}
}

// TestCrashWithoutMemory kills the daemon and takes away its files, too.
func TestCrashWithoutMemory(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.longer(3 * time.Minute)
	before := s.tagged()
	forget := func() { s.sh("rm -rf /run/uplane /var/lib/uplane") }
	for i := range 6 {
		d := time.Duration(rand.IntN(60)) * time.Millisecond
		s.killAfter(d, "up", "steam", "--uplink", lab.WiFi, "--mark", "100")
		forget()
		if i%2 == 0 {
			s.start()
			s.run("up", "steam", "--uplink", lab.WiFi, "--mark", "100")
			s.leavesBy("steam", s.world.Wifi.Public)
			s.killAfter(d, "remove", "steam")
			forget()
		}
		s.sh("rm -f /etc/uplane/lanes.d/*") // by hand, while no daemon runs
		s.start()
		waitFor(t, func() bool { return s.tagged() == before }, "nothing is left")
		if got := s.run("list"); got != "" && got[:4] != "LANE" {
			t.Errorf("list: %s", got)
		}
	}

	// Up, adopted without a memory, in full working order, without a write.
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.uplane.Kill()
	forget()
	s.start()
	s.settled("steam")
	if n := s.uplane.Applied(); n != 0 {
		t.Errorf("%d writes to adopt what did not change:\n%s", n, s.uplane.Log())
	}
	s.leavesBy("steam", s.world.Wifi.Public)
	s.run("remove", "steam")
	if got := s.tagged(); got != before {
		t.Errorf("left:\n%s", got)
	}
}

// TestHalfMade has what a daemon leaves that dies between two steps of one operation.
func TestHalfMade(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.run("down", "steam")
	s.sh("for t in nat mangle; do iptables -t $t -N x; iptables -t $t -X x; done; mkdir /etc/netns") // what scripts will need
	before := s.traces()
	for name, script := range map[string]string{
		"a link without its alias":           "ip link add name ul-steam group 117 type bridge",
		"a link that was to be deleted":      "ip link add name ul-steam group 1970302062 type bridge",
		"a pair without its alias":           "ip link add name ulv-steam group 117 type veth peer name eth0 group 0",
		"a namespace that was not yet bound": "mkdir -p /run/netns; echo '# uplane:steam' > /run/netns/steam",
		"an empty folder":                    "mkdir -p /etc/netns/steam",
		"a chain of an earlier release":      "iptables -t mangle -N UPLANE-PREROUTING; iptables -t nat -N UPLANE-POSTROUTING",
		"an empty table":                     "nft add table inet uplane",
		"a table that is not ours in full":   "nft 'add table inet uplane; add chain inet uplane forward { type filter hook forward priority 7; }; add set inet uplane lanes { type ipv4_addr; }'",
		"rules of an earlier release":        "ip rule add from 10.0.1.0/24 lookup 100 priority 5200 protocol uplane; ip route add unreachable default table 100 metric 7 proto uplane",
		"rules without what they lead to":    "ip rule add from 10.0.0.0/16 goto 40000 priority 0 protocol uplane; ip rule add from 10.0.1.0/24 unreachable priority 40002 protocol uplane",
	} {
		s.uplane.Kill()
		s.sh(script)
		s.start()
		if r := s.uplaneTry("up", "steam"); r.code != 0 {
			t.Errorf("%s: %s", name, r.err)
			continue
		}
		s.settled("steam")
		s.leavesBy("steam", s.world.Wifi.Public)
		s.run("down", "steam")
		s.withoutTrace(before)
	}
}
