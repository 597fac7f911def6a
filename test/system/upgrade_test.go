package system

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"uplane/test/lab"
)

// firstRelease is the commit of the release that is installed on machines.
const firstRelease = "c99a263"

// upgradeTest is a site on which the first release was installed first.
type upgradeTest struct {
	*site
	dir      string                    // of the first release
	firewall string                    // as uplane.toml says
	lanes    map[string]lab.LaneStatus // as the first release made them
}

// TestUpgrade replaces the first release while its lanes carry traffic, goes back to it, and replaces it again.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	lab.RequireRoot(t)
	dir := t.TempDir()
	if err := lab.BuildRelease(dir, firstRelease); err != nil {
		t.Fatal(err)
	}
	for _, firewall := range []string{"auto", "nftables", "iptables"} { // auto was iptables, and is nftables
		t.Run(firewall, func(t *testing.T) {
			t.Parallel()
			ctx, w := lab.Start(t, lab.Plain, lab.Options{})
			if err := w.Connect(ctx); err != nil {
				t.Fatal(err)
			}
			first, err := w.InstallRelease(dir)
			if err != nil {
				t.Fatal(err)
			}
			// It reads this when it starts only.
			if _, err := w.Host.Run("sh", "-c", "mkdir -p /etc/uplane; echo 'firewall = \""+firewall+"\"' >/etc/uplane/uplane.toml"); err != nil {
				t.Fatal(err)
			}
			s := &upgradeTest{startUplane(t, ctx, w, first), dir, firewall, map[string]lab.LaneStatus{}}
			s.longer(3 * time.Minute)
			before := s.traces()
			s.firstInstallation()
			s.replace("upgrade", s.present, s.clears)
			s.isAsNew()
			s.replace("downgrade", s.first, func() {})
			s.follows()
			s.replace("upgrade again", s.present, s.clears)
			s.isAsNew()

			s.sh("rm /etc/uplane/lanes.d/*; nmcli connection delete work")
			s.run("reload")
			s.sh("conntrack -D -p udp -s 10.0.0.0/8 2>/dev/null >&2 || :") // what drops their packets stays as long as they
			s.withoutTrace(before)
		})
	}
}

// firstInstallation has lanes of every kind by the first release.
func (s *upgradeTest) firstInstallation() {
	s.Helper()
	s.writeLane("steam", "uplink = \"wlp6s0\"\nmark = 100\nallow = [\"192.168.10.0/24\"]\n")
	s.run("reload")
	s.wait("steam", isState("up"))
	// After lane steam: without memory they would be before it.
	s.writeLane("fixed", "uplink = [\"wlp6s0\", \"enp7s0\"]\nsubnet = \"10.200.7.0/24\"\ntable = 250\n")
	s.writeLane("idle", "uplink = \"wlp6s0\"\nenabled = false\n")
	s.writeLane("plain", "uplink = \"connection:homewifi\"\nbridge = false\n")
	s.run("reload")
	s.run("profile", "add", "work", "--uplink", lab.WiFi)
	for _, name := range []string{"steam", "plain", "fixed", "work"} {
		s.lanes[name] = s.wait(name, isState("up"))
		s.leavesBy(name, s.world.Wifi.Public)
	}
}

// present installs this tree.
func (s *upgradeTest) present() (*lab.Uplane, error) { return s.world.Install(bin) }

// first installs the first release.
func (s *upgradeTest) first() (*lab.Uplane, error) { return s.world.InstallRelease(s.dir) }

// replace replaces the daemon under a download, which goes on to the end of check. Lanes keep what they were given, and
// leave as they did.
func (s *upgradeTest) replace(what string, install func() (*lab.Uplane, error), check func()) {
	s.Helper()
	stray := s.capture(lab.Wired, func(p lab.Packet) bool {
		return p.SrcPort == streamAddr.Port() || p.DstPort == streamAddr.Port()
	})
	end := s.download("steam")
	next, err := install()
	if err != nil {
		s.Fatal(err)
	}
	if err := s.uplane.Stop(); err != nil {
		s.Fatal(err)
	}
	s.uplane = next
	s.start()
	for lane, was := range s.lanes {
		is := s.wait(lane, isState("up"))
		if is.Subnet != was.Subnet || is.Table != was.Table || is.Bridge != was.Bridge || is.Uplink != was.Uplink {
			s.Errorf("%s: lane %s was %+v and is %+v", what, lane, was, is)
		}
		s.leavesBy(lane, s.world.Wifi.Public)
	}
	s.wait("idle", isState("down"))
	check()
	end()
	s.requireNone(stray, what+": by the wire")
}

// clears waits until nothing is left to do.
func (s *upgradeTest) clears() {
	s.Helper()
	waitFor(s.T, func() bool {
		left := s.objects()
		return !strings.Contains(left, "table ip uplane") && !regexp.MustCompile(`(?m)^52\d\d:`).MatchString(left) &&
			(s.firewall == "iptables" || !strings.Contains(left, "UPLANE-"))
	}, "what the first release has made goes")
	for lane := range s.lanes {
		s.settled(lane)
	}
}

// isAsNew makes all lanes anew, and finds what there was before.
func (s *upgradeTest) isAsNew() {
	s.Helper()
	upgraded := s.objects()
	s.run("down", "--all")
	s.sh("for lane in steam plain fixed; do uplane up $lane; done; nmcli connection up work")
	for lane := range s.lanes {
		s.wait(lane, isState("up"))
		s.settled(lane)
		s.leavesBy(lane, s.world.Wifi.Public)
	}
	requireSame(s.T, s.objects(), upgraded)
}

// accidental is what differs between two hosts with the same lanes.
var accidental = regexp.MustCompile(`(?m)^\d+: |@if\d+| \(id: \d+\)|link/ether \S+| packets \d+ bytes \d+|(,| })$`)

// objects are traces without what is accidental.
func (s *upgradeTest) objects() string {
	s.Helper()
	return accidental.ReplaceAllString(s.traces(), "")
}

// follows has the first release's lanes follow their uplinks. It does not know the table that the later one has left, whose
// maps have the uplinks of that time: with it a lane that moves to another card is closed.
func (s *upgradeTest) follows() {
	s.Helper()
	s.sh("nft delete table inet uplane 2>/dev/null || :")
	s.sh("nmcli device disconnect wlp6s0")
	s.wait("steam", isState("waiting"))
	s.failsAtOnce("steam")
	s.wait("fixed", func(l lab.LaneStatus) bool { return l.State == "up" && l.Uplink.Interface == lab.Wired })
	s.leavesBy("fixed", s.world.Wire.Public)
	s.sh("nmcli connection up homewifi")
	for lane := range s.lanes {
		s.wait(lane, func(l lab.LaneStatus) bool { return l.State == "up" && l.Uplink.Interface == lab.WiFi })
		s.leavesBy(lane, s.world.Wifi.Public)
	}
}
