package system

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"uplane/dispatcher"
	"uplane/internal/units"
	"uplane/test/lab"
)

// unitsTest is a site on a booted Debian, with the real nm-dispatcher and systemd. It lives through the
// steps one after the other.
type unitsTest struct {
	*site
	m *lab.Machine
}

func TestMachineUnits(t *testing.T) {
	t.Parallel()
	lab.RequireRoot(t)
	onDebians(t, func(t *testing.T, release lab.Debian) {
		s := newUnitsTest(t, release)
		for _, step := range []struct {
			name string
			do   func()
		}{
			{"preUp", s.preUp}, {"renews", func() { s.renews(release) }}, {"activates", s.activates}, {"masks", func() { s.masks(release) }},
			{"uninstalls", s.uninstalls}, {"hangs", s.hangs}, {"scripts", s.scripts}, {"profiles", s.profiles}, {"alice", s.alice},
			{"targets", s.targets}, {"unitsDoc", s.unitsDoc}, {"unitOfTheDoc", s.unitOfTheDoc},
			{"restarts", s.restarts}, {"reboots", s.reboots}, {"scripts", s.scripts},
		} {
			start := time.Now()
			step.do()
			t.Logf("%s: %v", step.name, time.Since(start).Round(10*time.Millisecond))
		}
	})
}

func newUnitsTest(t *testing.T, release lab.Debian) *unitsTest {
	ctx, m := lab.StartMachine(t, release, lab.Plain, wired)
	if err := m.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	s := &unitsTest{&site{T: t, ctx: ctx, world: m.World}, m}
	// What systemd starts shall not sleep a second before it ends, as programs with the race detector do.
	s.sh("mkdir -p /etc/systemd/system.conf.d /etc/uplane /usr/games")
	s.write("/etc/systemd/system.conf.d/lab.conf", "[Manager]\nDefaultEnvironment=GORACE=atexit_sleep_ms=0\n")
	s.write("/etc/uplane/uplane.toml", "uplink = \"wlp6s0\"\n")
	s.sh("systemctl daemon-reexec") // a reload would do from systemd 253 on
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := m.Host.Run("journalctl", "--no-pager", "--output=short-precise", "--lines=80", "--unit=NetworkManager-dispatcher")
			t.Logf("nm-dispatcher:\n%s", log)
		}
	})
	// It runs after ours, so what it has written of an event ours has dealt with.
	s.write("/etc/NetworkManager/dispatcher.d/99-test", "#!/bin/sh\necho \"$1 $2 $IP4_GATEWAY\" >>/run/events\n")
	s.write("/usr/games/server", fmt.Sprintf(server, lab.WhoamiAddr, lab.WhoamiPort))
	s.sh("chmod 755 /etc/NetworkManager/dispatcher.d/99-test /usr/games/server")
	s.site = startSite(t, ctx, m.World)
	s.hastenScripts()
	s.longer(5 * time.Minute)
	s.run("up", "steam", "--uplink", lab.WiFi)
	return s
}

// preUp has NetworkManager wait for a lane.
func (s *unitsTest) preUp() {
	m := s.watchStates()
	defer m.stop()
	for range 3 {
		s.disconnect()
		took := s.connect(m)
		s.Logf("up in %v, of which %v in pre-up", took, m.get(nmActivated).at.Sub(m.get(nmIPCheck).at))
	}
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.m.Wifi.Public)
}

// renews has a renewal bring another router, of which nm-dispatcher tells nothing (1.42) or the old one (1.52).
func (s *unitsTest) renews(release lab.Debian) {
	old := s.m.Wifi.Router
	for _, router := range []*lab.Router{s.m.Wifi2, s.m.Wifi.Router} {
		writes := s.watchWrites()
		s.renew(router, release)
		s.wait("steam", hasGateway(router.LAN.Addr().String()))
		s.leavesBy("steam", router.Public)
		for line := range strings.Lines(writes()) {
			if strings.HasPrefix(line, "default via "+old.LAN.Addr().String()) && strings.Contains(line, "table 100") {
				s.Errorf("the lane had the old router again: %s", line)
			}
		}
		old = router
	}
}

// renew waits until the Wi-Fi has another router and nm-dispatcher, if it tells of it, is done.
func (s *unitsTest) renew(router *lab.Router, release lab.Debian) {
	s.Helper()
	s.sh("rm -f /run/events")
	s.offer(router)
	way := "default via " + router.LAN.Addr().String()
	waitFor(s.T, func() bool { return strings.Contains(s.sh("ip route show dev wlp6s0"), way) }, "NetworkManager has the new router")
	if release != lab.Bookworm {
		s.heard("wlp6s0 dhcp4-change")
		s.Logf("%s, and nm-dispatcher said: %s", way, s.sh("grep 'wlp6s0 dhcp4' /run/events"))
		if got := s.sh("ip route show table 100 default"); !strings.Contains(got, way) {
			s.Errorf("the lane's table has %s", got)
		}
	}
}

// offer has the DHCP server hand out another router.
func (s *unitsTest) offer(router *lab.Router) {
	s.Helper()
	d := s.m.Wifi.DHCP()
	d.Router = router.LAN.Addr()
	if err := s.m.Wifi.SetDHCP(s.ctx, d); err != nil {
		s.Fatal(err)
	}
}

// heard waits until nm-dispatcher is done with an event.
func (s *unitsTest) heard(event string) {
	s.Helper()
	waitFor(s.T, func() bool { return strings.Contains(s.shTry("cat /run/events").out, event) }, "nm-dispatcher is done with "+event)
}

// activates has an event start a daemon that is installed and does not run.
func (s *unitsTest) activates() {
	// An event cancels a stop that has not ended, unless the daemon is masked meanwhile.
	stop := func() { s.sh("systemctl mask --runtime --now uplaned; systemctl unmask --runtime uplaned") }
	m := s.watchStates()
	defer m.stop()
	s.disconnect()
	stop()
	s.connect(m)
	s.sh("systemctl is-active uplaned")
	s.leavesBy("steam", s.m.Wifi.Public)

	stop()
	s.disconnect()
	waitFor(s.T, func() bool { return s.shTry("systemctl is-active uplaned").code == 0 }, "the event starts the daemon")
	s.connect(m)
	s.wait("steam", isState("up"))
}

// masks has events make lanes true without a daemon: one of a file and one of a profile.
func (s *unitsTest) masks(release lab.Debian) {
	s.sh("systemctl mask --now uplaned")
	s.withoutDaemon()
	s.sh("nmcli connection add type bridge ifname ul-work con-name work autoconnect no ipv4.method manual ipv4.addresses 10.0.8.1/24")
	s.activate("work")
	s.leavesBy("work", s.m.Wifi.Public)
	s.isTarget("work", true)
	s.sh("nmcli connection down work")
	waitFor(s.T, func() bool { return !strings.Contains(s.sh("ip netns; ip rule; ip -o link"), "work") }, "nothing is left of the profile's lane")
	s.isTarget("work", false)
	s.activate("work")
	s.sh("rm -f /run/events; nmcli connection down homewifi")
	s.heard("wlp6s0 down")
	for _, lane := range []string{"steam", "work"} {
		s.failsAtOnce(lane)
		s.isTarget(lane, false)
	}
	s.sh("nmcli connection up homewifi")
	s.leavesBy("steam", s.m.Wifi.Public)
	s.leavesBy("work", s.m.Wifi.Public)
	if release != lab.Bookworm {
		s.renew(s.m.Wifi2, release)
		s.leavesBy("steam", s.m.Wifi2.Public)
		s.leavesBy("work", s.m.Wifi2.Public)
		s.offer(s.m.Wifi.Router)
		s.sh("nmcli connection up homewifi")
	}
	s.leavesBy("steam", s.m.Wifi.Public)
	s.leavesBy("work", s.m.Wifi.Public)
	s.sh("systemctl unmask uplaned")
	s.start()
	s.wait("steam", isState("up"))
	s.wait("work", isState("up"))
	s.settled("steam")
	s.settled("work")
	if n := s.uplane.Applied(); n != 0 {
		s.Errorf("%d writes to adopt what did not change:\n%s", n, s.uplane.Log())
	}
	s.sh("nmcli connection delete work")
}

// activate brings up a lane's profile. Of a bridge nmcli says so before it has its address.
func (s *unitsTest) activate(profile string) {
	s.Helper()
	s.sh("nmcli connection up " + profile)
	if err := s.m.WaitActive(s.ctx, profile); err != nil {
		s.Fatal(err)
	}
}

// withoutDaemon has the uplink go and come back.
func (s *unitsTest) withoutDaemon() {
	s.Helper()
	m := s.watchStates()
	defer m.stop()
	s.disconnect()
	s.failsAtOnce("steam")
	took := s.connect(m)
	s.Logf("up in %v, of which %v in pre-up", took, m.get(nmActivated).at.Sub(m.get(nmIPCheck).at))
	s.leavesBy("steam", s.m.Wifi.Public)
	if r := s.shTry("pgrep -x uplaned"); r.code == 0 {
		s.Errorf("a daemon runs: %s", r.out)
	}
}

// uninstalls takes the daemon away, with what the bus knows of it.
func (s *unitsTest) uninstalls() {
	s.sh(`systemctl disable --now uplaned
		rm /usr/lib/systemd/system/uplaned.service /usr/share/dbus-1/system-services/org.uplane.Uplane1.service /usr/sbin/uplaned
		systemctl daemon-reload; systemctl reload dbus`)
	s.withoutDaemon()
	var err error
	if s.uplane, err = s.m.Install(bin); err != nil {
		s.Fatal(err)
	}
	s.hastenScripts()
	s.start()
	s.wait("steam", isState("up"))
}

// hangs has NetworkManager go on without a daemon that does not answer.
func (s *unitsTest) hangs() {
	m := s.watchStates()
	defer m.stop()
	s.disconnect()
	m.forget()
	s.sh("systemctl kill --kill-who=main --signal=STOP uplaned")
	s.sh("nmcli connection up homewifi")
	waitFor(s.T, func() bool { return !m.get(nmActivated).at.IsZero() }, "NetworkManager says activated")
	held := m.get(nmActivated).at.Sub(m.get(nmIPCheck).at)
	if held < dispatcher.Limit-time.Second || held > dispatcher.Limit+2*time.Second {
		s.Errorf("a daemon that hangs holds NetworkManager for %v, not %v", held, dispatcher.Limit)
	}
	s.sh("systemctl kill --kill-who=main --signal=CONT uplaned")
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.m.Wifi.Public)
}

// scripts checks that nm-dispatcher takes our scripts as they are, and that none has failed.
func (s *unitsTest) scripts() {
	for _, script := range []string{"50-uplane", "pre-up.d/50-uplane"} {
		if got := s.sh("stat -c '%a %U:%G' /usr/lib/NetworkManager/dispatcher.d/" + script); got != "755 root:root" {
			s.Errorf("%s is %s", script, got)
		}
	}
	for line := range strings.Lines(s.sh("journalctl --no-pager --unit NetworkManager-dispatcher --unit NetworkManager")) {
		if strings.Contains(line, "50-uplane") && !strings.Contains(line, "uplane: dispatch:") || strings.Contains(line, "panic") {
			s.Errorf("the journal has %s", line)
		}
	}
}

// profiles runs docs/profiles.md.
func (s *unitsTest) profiles() {
	s.run("remove", "steam")
	s.followProfileDoc()
}

// alice, who sits there, may do with a lane's profile what polkit lets her do with any; bob may not.
func (s *unitsTest) alice() {
	for _, verb := range []struct{ verb, state string }{{"down", "down"}, {"up", "up"}} {
		// Of a refused "down" nmcli says nothing by its exit code.
		if out, _ := s.m.Bob.Run("nmcli", "connection", verb.verb, "games"); !strings.Contains(strings.ToLower(out), "not authorized") {
			s.Errorf("bob may: %s", out)
		}
		if out, err := s.m.Alice.Run("nmcli", "connection", verb.verb, "games"); err != nil {
			s.Fatalf("alice may not: %s", out)
		}
		if st := s.wait("games", isState(verb.state)); st.Profile != "games" {
			s.Errorf("lane games is profile %q", st.Profile)
		}
	}
	s.leavesBy("games", s.m.Wifi.Public)
}

// isTarget waits until a lane's target is active, or inactive.
func (s *unitsTest) isTarget(lane string, active bool) {
	s.Helper()
	waitFor(s.T, func() bool { return (s.shTry("systemctl is-active "+units.Target(lane)).code == 0) == active },
		fmt.Sprintf("%s is active: %v", units.Target(lane), active))
}

// targets has the lane's target follow it.
func (s *unitsTest) targets() {
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.isTarget("steam", true)
	s.run("down", "steam")
	s.isTarget("steam", false)
	s.run("up", "steam")
	s.isTarget("steam", true)
	if err := s.m.Wifi.Carrier(false); err != nil {
		s.Fatal(err)
	}
	s.isTarget("steam", false)
	if err := s.m.Wifi.Carrier(true); err != nil {
		s.Fatal(err)
	}
	s.isTarget("steam", true)
}

// server is a service that says over and over as whom the internet sees it.
const server = `#!/usr/bin/python3 -u
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
while True:
    try:
        s.sendto(b"who am I?", ("%v", %d))
        print(s.recv(64).decode().split(":")[0])
    except OSError as e:
        print(e)
    time.sleep(0.1)
`

// serves waits until the service that runs now has been seen to leave by a gateway.
func (s *unitsTest) serves(by *lab.Gateway) {
	s.Helper()
	last := ""
	waitFor(s.T, func() bool {
		last = s.shTry(`journalctl --no-pager --output=cat --lines=1 _SYSTEMD_INVOCATION_ID=$(systemctl show --property=InvocationID --value game.service)`).out
		return strings.TrimSpace(last) == by.Public.String()
	}, "game.service leaves by "+by.Name)
}

// runsInLane checks where the service is and whom it asks for names.
func (s *unitsTest) runsInLane(yes bool) {
	s.Helper()
	got := s.sh(`pid=$(systemctl show --property=MainPID --value game.service)
		stat -Lc %i /proc/$pid/ns/net /run/netns/steam | uniq | wc -l; grep nameserver /proc/$pid/root/etc/resolv.conf`)
	if in := strings.HasPrefix(got, "1\n") && strings.Contains(got, lab.WifiDNS.String()); in != yes {
		s.Errorf("game.service runs in the lane: %v, and not %v:\n%s", in, yes, got)
	}
}

// unitsDoc runs the commands of docs/units.md, with a service that there was before.
func (s *unitsTest) unitsDoc() {
	s.write("/etc/systemd/system/game.service", "[Service]\nUser=alice\nExecStart=/usr/games/server\n[Install]\nWantedBy=multi-user.target\n")
	s.sh("systemctl daemon-reload; systemctl start game.service")
	s.serves(s.m.Wire)
	lines := strings.Split(strings.TrimSpace(strings.Join(s.boxes("units.md", "sh"), "")), "\n")
	for _, line := range lines {
		s.sh(line)
		switch command, _, _ := strings.Cut(line, "  "); command {
		case "sudo uplane adopt game.service steam", "sudo systemctl enable game.service", "sudo systemctl unmask uplaned":
		case "sudo systemctl restart game.service":
			s.serves(s.m.Wifi)
			s.runsInLane(true)
			s.sh("nmcli device disconnect wlp6s0")
			s.isService(false)
			s.sh("nmcli connection up homewifi")
			s.isService(true)
			s.serves(s.m.Wifi)
		case "sudo uplane adopt --undo game.service":
			s.sh("systemctl restart game.service")
			s.serves(s.m.Wire)
			s.runsInLane(false)
			s.sh("systemctl disable --now game.service")
			if got := s.sh("find /etc/systemd/system -path '*game*' -o -path '*uplane-lane*'"); got != "/etc/systemd/system/game.service" {
				s.Errorf("left:\n%s", got)
			}
		case "sudo systemctl mask --now uplaned":
			s.withoutDaemon()
		case "sudo systemctl start uplaned":
			s.wait("steam", isState("up"))
		default:
			s.Errorf("nobody checks what becomes of %q", line)
		}
	}
	if len(lines) != 7 {
		s.Errorf("docs/units.md has %d commands:\n%s", len(lines), strings.Join(lines, "\n"))
	}
}

func (s *unitsTest) isService(active bool) {
	s.Helper()
	waitFor(s.T, func() bool { return (s.shTry("systemctl is-active game.service").code == 0) == active }, fmt.Sprintf("game.service is active: %v", active))
}

// unitOfTheDoc installs the unit of docs/units.md.
func (s *unitsTest) unitOfTheDoc() {
	unit := s.boxes("units.md", "ini")[0]
	path, _, _ := strings.Cut(strings.TrimPrefix(unit, "# "), "\n")
	s.write(path, unit)
	s.sh("systemctl daemon-reload; systemctl enable game.service")
	s.sh("nmcli device disconnect wlp6s0")
	s.isTarget("steam", false)
	s.requireFailure(s.shTry("systemctl start game.service"), 1, "ependency")
	s.sh("nmcli connection up homewifi")
	s.isService(true)
	s.serves(s.m.Wifi)
	s.runsInLane(true)
	if err := s.m.Wifi.Carrier(false); err != nil {
		s.Fatal(err)
	}
	s.isService(false)
	if err := s.m.Wifi.Carrier(true); err != nil {
		s.Fatal(err)
	}
	s.isService(true)
	s.serves(s.m.Wifi)
}

// restarts: a service does not notice that what keeps its lane begins anew.
func (s *unitsTest) restarts() {
	pid := s.sh("systemctl show --property=MainPID --value game.service")
	for _, restart := range []string{"systemctl restart uplaned", "systemctl daemon-reexec", "systemctl restart NetworkManager"} {
		s.sh(restart)
		if err := s.m.WaitActive(s.ctx, "homewifi"); err != nil {
			s.Fatal(err)
		}
		s.wait("steam", isState("up"))
		s.serves(s.m.Wifi)
		s.isTarget("steam", true)
		if now := s.sh("systemctl show --property=MainPID --value game.service"); now != pid {
			s.Fatalf("%s: game.service is process %s, not %s", restart, now, pid)
		}
	}
}

// reboots: lanes of files and of profiles, and the service, are there by themselves.
func (s *unitsTest) reboots() {
	if leaked, err := s.wire.Stop(); err != nil || len(leaked) > 0 {
		s.Errorf("by the wire left %d packets of lanes: %v %v", len(leaked), leaked, err)
	}
	if err := s.m.Reboot(s.ctx); err != nil {
		s.Fatal(err)
	}
	var err error
	if s.wire, err = s.m.Host.Capture(lab.Wired, func(p lab.Packet) bool { return p.Touches(laneSpace) }); err != nil {
		s.Fatal(err)
	}
	for _, lane := range []string{"steam", "chat", "games"} {
		s.wait(lane, isState("up"))
		s.leavesBy(lane, s.m.Wifi.Public)
		s.isTarget(lane, true)
	}
	s.isService(true)
	s.serves(s.m.Wifi)
	s.runsInLane(true)
}
