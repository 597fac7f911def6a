package system

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"uplane/test/lab"
)

// packaged is a machine with the package on it, which lives through the test's steps.
type packaged struct {
	*site
	m          *lab.Machine
	older, new string // packages
}

const olderVersion, newVersion = "0.0.1", "0.0.2"

// TestPackage has Debian's packages of two versions live on booted machines: from the first installation
// to the purge, after which nothing is left.
func TestPackage(t *testing.T) {
	t.Parallel()
	lab.RequireRoot(t)
	dir := t.TempDir()
	older, err := lab.BuildPackage(dir, olderVersion)
	if err != nil {
		t.Fatal(err)
	}
	newer, err := lab.BuildPackage(dir, newVersion)
	if err != nil {
		t.Fatal(err)
	}
	onDebians(t, func(t *testing.T, release lab.Debian) {
		_, m := lab.StartMachine(t, release, lab.Plain, lab.Options{})
		s := &packaged{&site{T: t, world: m.World}, m, older, newer}
		s.longer(3 * time.Minute)
		if err := m.Connect(s.ctx); err != nil {
			t.Fatal(err)
		}
		s.watchWire()
		files, traces := s.files(), s.withoutPeers()
		for _, step := range []struct {
			name string
			run  func()
		}{
			{"install", s.install},
			{"main job", s.mainJob},
			{"upgrade", s.upgrades},
			{"killed", s.killed},
			{"read-only /etc", s.readOnly},
			{"full disk", s.fullDisk},
			{"stop and down", s.stops},
			{"reboot", s.reboots},
			{"remove", s.removes},
			{"purge", s.purge},
		} {
			start := time.Now()
			step.run()
			t.Logf("%s: %v", step.name, time.Since(start).Round(10*time.Millisecond))
		}
		requireSame(t, traces, s.withoutPeers())
		requireSame(t, files, s.files())
		s.nothingLeaked()
	})
}

// watchWire captures what leaves by the wire of any lane.
func (s *packaged) watchWire() {
	s.Helper()
	var err error
	s.wire, err = s.world.Host.Capture(lab.Wired, func(p lab.Packet) bool { return p.Touches(laneSpace) })
	if err != nil {
		s.Fatal(err)
	}
}

func (s *packaged) nothingLeaked() {
	s.Helper()
	if leaked, err := s.wire.Stop(); err != nil || len(leaked) > 0 {
		s.Errorf("by the wire left %d packets of lanes: %v %v", len(leaked), leaked, err)
	}
}

// withoutPeers is traces without the other ends of the cards' cables, which a reboot changes.
func (s *packaged) withoutPeers() string {
	s.Helper()
	return regexp.MustCompile(`@if\d+`).ReplaceAllString(s.traces(), "")
}

// files lists everything on the disk but what Debian itself changes all the time.
func (s *packaged) files() string {
	s.Helper()
	return s.sh(`find / -xdev \( -path /root -o -path /tmp -o -path /var/tmp -o -path /var/log -o -path /var/cache -o -path /var/lib/apt -o -path /var/lib/dpkg/updates \
		-o -path /var/lib/NetworkManager -o -path /var/lib/systemd/timers -o -path /var/lib/dpkg/triggers \) -prune \
		-o -not -name '*-old' -not -path '/var/lib/systemd/random-seed' -print | sort`)
}

// apt installs a version and checks that it runs.
func (s *packaged) apt(deb, version string) {
	s.Helper()
	var err error
	if s.uplane, err = s.m.InstallPackage(s.ctx, deb); err != nil {
		s.Fatal(err)
	}
	if got := s.sh("systemctl is-enabled uplaned; systemctl is-active uplaned; uplane version; uplaned --version"); !strings.HasPrefix(got, "enabled\nactive\nuplane "+version+" (commit ") ||
		!strings.Contains(got, "\nuplaned "+version+" (commit ") {
		s.Fatalf("after apt:\n%s", got)
	}
}

// leaves checks that a lane leaves by the Wi-Fi and the host does not.
func (s *packaged) leaves(lane string) {
	s.Helper()
	s.leavesBy(lane, s.world.Wifi.Public)
	if got, err := s.world.Host.Whoami(s.ctx); err != nil || got != s.world.Wire.Public {
		s.Fatalf("the host leaves by %v: %v", got, err)
	}
}

// install installs the package; then an ordinary user brings up what the administrator wrote.
func (s *packaged) install() {
	s.apt(s.older, olderVersion)
	if got := s.run("list"); strings.Contains(got, "\n") {
		s.Fatalf("lanes on a fresh machine:\n%s", got)
	}
	s.writeLane("steam", "uplink = \"wlp6s0\"\nenabled = false\n")
	s.run("reload")
	if out, err := s.m.Bob.Run("uplane", "up", "steam"); err == nil || !strings.Contains(err.Error(), "permission denied") {
		s.Fatalf("bob, who is logged in nowhere, brings up a lane: %s %v", out, err)
	}
	out, err := s.m.Alice.Run("uplane", "up", "steam")
	if err != nil || out != "lane steam is up by wlp6s0" {
		s.Fatalf("alice brings up the lane: %q %v", out, err)
	}
	s.leaves("steam")
	if out, err := s.m.Alice.Run("uplane", "__complete", "down", ""); err != nil || !strings.HasPrefix(out, "steam\n:4\n") {
		s.Errorf("completion: %q %v", out, err)
	}
	s.write("/etc/uplane/lanes.d/steam.toml", "uplink = \"wlp6s0\"\n") // from now on at boot, too
	s.run("reload")
}

// mainJob: the unit's limits leave it all that it has to do.
func (s *packaged) mainJob() {
	if got := s.sh(`grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/$(systemctl show -p MainPID --value uplaned)/status`); got != "CapBnd:\t00000000002c3820\nNoNewPrivs:\t1\nSeccomp:\t2" {
		s.Errorf("the daemon is not limited:\n%s", got)
	}
	s.Log(s.sh("systemd-analyze security --no-pager uplaned | tail -1"))
	if got := s.sh("ip netns exec steam ip -4 -brief address show eth0"); !strings.Contains(got, "10.0.1.2/24") {
		s.Errorf("ip netns exec: %s", got)
	}
	s.run("run", "steam", "--", "ping", "-c1", "-W2", lab.WhoamiAddr.String())
	s.sh("systemctl reload uplaned")
	for _, backend := range []string{"nftables", "iptables"} {
		s.write("/etc/uplane/uplane.toml", "firewall = \""+backend+"\"\n")
		s.sh("systemctl restart uplaned")
		s.settled("steam")
		s.leaves("steam")
		// What the other one had built goes once its successor is in place.
		inIptables := strings.Contains(s.sh("iptables-save 2>/dev/null"), "UPLANE-FORWARD")
		ownTable := strings.Contains(s.sh("nft list tables"), "inet uplane")
		if inIptables != (backend == "iptables") || ownTable == inIptables {
			s.Errorf("%s: chains in iptables: %v, a table of our own: %v", backend, inIptables, ownTable)
		}
	}
	s.sh("rm /etc/uplane/uplane.toml")
	s.run("profile", "add", "work", "--uplink", lab.WiFi)
	s.wait("work", isState("up"))
	s.leaves("work")
	s.run("profile", "remove", "work")
	s.settled("steam")
	if got := s.sh(`journalctl --unit=uplaned --output=cat | grep -E 'level=(WARN|ERROR)' || :`); got != "" {
		s.Errorf("the daemon complains:\n%s", got)
	}
}

// upgrades exchanges the package under a lane's traffic.
func (s *packaged) upgrades() {
	for _, to := range []struct{ deb, version string }{{s.new, newVersion}, {s.older, olderVersion}} {
		index := s.sh("cat /sys/class/net/ulv-steam/ifindex")
		pid := s.sh("systemctl show -p MainPID --value uplaned")
		end := s.download("steam")
		s.apt(to.deb, to.version)
		s.settled("steam")
		if lost := end(); lost > 0 {
			s.Errorf("%d datagrams are missing", lost)
		}
		if s.sh("systemctl show -p MainPID --value uplaned") == pid {
			s.Error("it is still the old daemon")
		}
		if now := s.sh("cat /sys/class/net/ulv-steam/ifindex"); now != index {
			s.Errorf("the lane's link was %s and is %s", index, now)
		}
		if got := s.sh(`journalctl --unit=uplaned --output=cat _PID=$(systemctl show -p MainPID --value uplaned) | grep msg=applied || :`); got != "" {
			s.Errorf("the other daemon writes:\n%s", got)
		}
	}
}

// killed kills the daemon when a lane is half built and half gone; systemd starts it again.
func (s *packaged) killed() {
	end := s.download("steam")
	for _, phase := range []struct{ before, when, ask string }{
		{"", "ip netns | grep -q second", "up second --uplink wlp6s0"},
		{"uplane remove second", "ip link show ulv-second", "up second --uplink wlp6s0"},
		{"uplane remove second", "ip -n second route | grep -q default", "up second --uplink wlp6s0"},
		{"uplane up second --uplink wlp6s0", "! ip link show ulv-second", "remove second"},
		{"uplane up second --uplink wlp6s0", "! ip rule | grep -q 10.0.2.0/24", "down second"},
	} {
		waitFor(s.T, func() bool { return s.shTry(phase.before).code == 0 }, "the daemon is back: "+phase.before)
		s.sh("uplane " + phase.ask + " >/dev/null 2>&1 & until " + phase.when + "; do :; done >/dev/null 2>&1; systemctl kill --signal=KILL uplaned; wait")
	}
	if lost := end(); lost > 0 {
		s.Errorf("%d datagrams are missing", lost)
	}
	waitFor(s.T, func() bool {
		s.uplaneTry("remove", "second") // it may be gone, or the daemon not back yet
		r := s.uplaneTry("list")
		return r.code == 0 && !strings.Contains(r.out, "second")
	}, "lane second is gone")
	s.settled("steam")
	s.leaves("steam")
	if got := s.sh("ip netns; ip -brief link; ip rule; nft list ruleset"); strings.Contains(got, "second") || strings.Contains(got, "10.0.2.") {
		s.Errorf("left of lane second:\n%s", got)
	}
}

// readOnly takes from the daemon the right to write to /etc.
func (s *packaged) readOnly() {
	s.sh("mount --bind /etc /etc && mount -o remount,ro,bind /etc && systemctl restart uplaned")
	s.settled("steam")
	s.leaves("steam")
	s.requireFailure(s.uplaneTry("up", "other", "--uplink", lab.WiFi), 1, "read-only file system")
	s.run("down", "steam")
	if r := s.uplaneTry("up", "steam"); r.code == 0 {
		s.leaves("steam")
	} else {
		s.requireFailure(r, 1, "read-only file system")
	}
	s.sh("umount /etc")
	s.run("up", "steam")
	s.settled("steam")
	s.leaves("steam")
}

// fullDisk leaves the daemon no room to remember anything.
func (s *packaged) fullDisk() {
	s.sh(`cp -a /var/lib/uplane /run/saved; mount -t tmpfs -o size=64k,mode=755 tmpfs /var/lib/uplane; mv /run/saved/* /var/lib/uplane; rmdir /run/saved
		dd if=/dev/zero of=/var/lib/uplane/full bs=1k 2>/dev/null || :
		systemctl restart uplaned`)
	s.settled("steam")
	s.leaves("steam")
	s.run("up", "third", "--uplink", lab.WiFi)
	s.wait("third", func(l lab.LaneStatus) bool {
		return l.State == "degraded" && strings.HasSuffix(l.Reason, "no space left on device")
	})
	s.leaves("steam")
	s.sh("rm /var/lib/uplane/full")
	s.wait("third", isState("up"))
	s.leaves("third")
	s.run("remove", "third")
	s.sh("umount /var/lib/uplane; systemctl restart uplaned")
	s.settled("steam")
	s.leaves("steam")
}

// stops ends the daemon, which lanes outlive, and then lanes, by a daemon and without one.
func (s *packaged) stops() {
	s.sh("systemctl stop uplaned")
	s.leaves("steam")
	s.sh("systemctl start uplaned")
	s.run("profile", "add", "work", "--uplink", lab.WiFi)
	s.wait("work", isState("up"))
	noLanes := func() {
		s.Helper()
		if got := s.sh("ip netns; ip route show table all proto uplane; ip rule | grep -v 'from all lookup' || :; nft list ruleset | grep -i uplane || :; ls -d /etc/netns /run/netns 2>/dev/null || :"); got != "" {
			s.Errorf("after down --all:\n%s", got)
		}
	}
	// The conversations of the downloads keep what drops their packets, for two minutes after the last one.
	s.sh("conntrack -D -p udp -s 10.0.1.0/24 2>/dev/null >&2 || :")
	s.run("down", "--all")
	noLanes()
	s.run("up", "steam")
	s.sh("nmcli connection up work")
	s.wait("work", isState("up"))
	s.sh("systemctl --quiet mask --now uplaned")
	s.leaves("work")
	s.run("down", "--all")
	noLanes()
	s.sh("systemctl --quiet unmask uplaned; systemctl start uplaned; nmcli connection delete work")
	s.run("up", "steam")
	s.leaves("steam")
}

// reboots: what starts after the network finds its lane.
func (s *packaged) reboots() {
	s.write("/etc/systemd/system/witness.service", `[Unit]
Wants=network-online.target
After=network-online.target
[Service]
Type=oneshot
ExecStart=sh -c 'ip route show table 100; ip netns exec steam ping -c1 -W2 `+lab.WhoamiAddr.String()+`'
StandardOutput=file:/run/witness
StandardError=file:/run/witness
[Install]
WantedBy=multi-user.target
`)
	s.sh("systemctl --quiet enable witness.service")
	s.nothingLeaked()
	if err := s.m.Reboot(s.ctx); err != nil {
		s.Fatal(err)
	}
	s.watchWire()
	waitFor(s.T, func() bool {
		return s.sh("systemctl is-active --quiet network-online.target && cat /run/witness || :") != ""
	}, "the network is online")
	if got := s.sh("systemctl is-failed witness.service || :; cat /run/witness"); !strings.Contains(got, "default via 192.168.50.1 dev wlp6s0") || !strings.Contains(got, " 0% packet loss") {
		s.Errorf("when the network was online, the lane was\n%s", got)
	}
	s.wait("steam", isState("up"))
	s.leaves("steam")
	s.sh("systemctl --quiet disable witness.service; rm /etc/systemd/system/witness.service")
}

// removes takes the package away, and puts it back.
func (s *packaged) removes() {
	s.write("/etc/systemd/system/game.service", "[Service]\nExecStart=sleep infinity\n")
	s.sh("uplane adopt game steam; systemctl --quiet enable --now game")
	s.run("profile", "add", "work", "--uplink", lab.WiFi)
	s.wait("work", isState("up"))
	s.sh("dpkg --remove uplane")
	// A dispatcher script may still tell of lane work's end.
	waitFor(s.T, func() bool { return s.shTry("pgrep uplane").code == 1 }, "nothing of ours runs")
	if got := s.sh("ip netns; systemctl is-active game || :; nft list ruleset | grep -i uplane || :; ls -d /run/uplane 2>/dev/null || :; systemctl --failed --plain --no-legend"); got != "inactive" {
		s.Errorf("after the removal:\n%s", got)
	}
	if got := s.sh("ls /etc/uplane/lanes.d"); got != "steam.toml" {
		s.Errorf("of the configuration is left: %s", got)
	}
	s.sh("nmcli connection delete work")
	s.apt(s.new, newVersion)
	s.wait("steam", isState("up"))
	s.leaves("steam")
	waitFor(s.T, func() bool { return s.shTry("systemctl is-active game").code == 0 }, "what hangs onto the lane runs again")
}

// purge takes away everything but the user's own service.
func (s *packaged) purge() {
	s.sh("dpkg --purge uplane; systemctl start game; systemctl stop game; rm /etc/systemd/system/game.service; systemctl daemon-reload")
}
