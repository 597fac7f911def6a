package system

import (
	_ "embed"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"uplane/test/lab"
)

// TestMachineInstance has programs that run once hand over to those outside of the lane, and Flatpaks and snaps in it.
func TestMachineInstance(t *testing.T) {
	t.Parallel()
	lab.RequireRoot(t)
	onDebians(t, func(t *testing.T, release lab.Debian) {
		s := newDesktopTest(t, release)
		s.begin("Xvfb :7 -screen 0 1024x768x24")
		waitFor(t, func() bool { return s.shTry("test -S /tmp/.X11-unix/X7").code == 0 }, "the screen is there")
		// As a desktop does when it starts. What the bus starts for windows would have none, and let their programs wait.
		s.may(s.m.Alice, "export DISPLAY=:7; dbus-update-activation-environment --systemd DISPLAY")
		s.step("ordinary commands", s.runsOrdinary)
		s.step("firefox", s.handsOverFirefox)
		s.step("a terminal", s.handsOverTerminal)
		s.step("an application that nobody knows", s.handsOverUnknown)
		s.step("tmux", s.handsOverTmux)
		s.step("systemd-run", s.hasSystemdRun)
		s.step("root", s.runsAsRoot)
		s.step("flatpak", s.runsFlatpak)
		s.step("snap", s.refusesSnap)
	})
}

// begin starts a program of Alice's that stays, at her screen.
func (s *machineTest) begin(script string) *lab.Cmd {
	s.Helper()
	c := s.command(s.m.Alice, "export DISPLAY=:7; exec "+script)
	if err := c.Start(); err != nil {
		s.Fatal(err)
	}
	return c
}

// atScreen runs a script of Alice's at her screen.
func (s *machineTest) atScreen(script string) result {
	s.Helper()
	return s.as(s.m.Alice, "export DISPLAY=:7; "+script)
}

// tells checks what a command says and with what it ends.
func (s *machineTest) tells(script string, code int, words ...string) {
	s.Helper()
	r := s.atScreen(script)
	if r.code != code {
		s.Errorf("%s: %+v, not exit code %d", script, r, code)
	}
	for _, w := range words {
		if !strings.Contains(r.err, w) {
			s.Errorf("%s: %+v, without %q", script, r, w)
		}
	}
	if len(words) == 0 && strings.Contains(r.err, "uplane:") {
		s.Errorf("%s says %q", script, r.err)
	}
}

// askedBy are the public addresses from which a name was asked for.
func (s *machineTest) askedBy(name string) map[netip.Addr]bool {
	by := map[netip.Addr]bool{}
	for _, q := range s.m.Inet.Queries() {
		if q.Name == name {
			by[q.From.Addr()] = true
		}
	}
	return by
}

// leaves waits until a name has been asked for, by one way only.
func (s *machineTest) leaves(name string, way netip.Addr) {
	s.Helper()
	waitFor(s.T, func() bool { return len(s.askedBy(name)) > 0 }, name+" is asked for")
	if by := s.askedBy(name); len(by) != 1 || !by[way] {
		s.Errorf("%s was asked for by %v, not %v", name, by, way)
	}
}

// endsAll ends Alice's programs in the lane and of a name.
func (s *machineTest) endsAll(names ...string) {
	s.Helper()
	s.may(s.m.Alice, "uplane stop steam")
	for _, name := range names {
		s.sh("pkill -KILL --uid alice --exact " + name)
	}
}

func (s *machineTest) runsOrdinary() {
	// Others of the name have no windows, and are nobody's instances.
	s.begin("sleep 3000")
	s.tells("uplane run --strict steam -- sleep 0", 0)
	s.tells("uplane run --strict steam -- sh -c 'exit 3'", 3)
	s.tells("uplane run --strict steam -- nosuchcommand", 127, "command not found")
	s.tells("uplane run --strict steam -- systemd-run --version", 0)
	s.tells("uplane run --strict", 2, "expected a lane and a command")
	s.tells("uplane run --strct steam true", 2, "unknown flag --strct")
	if got := s.may(s.m.Alice, "uplane __complete run --s 2>/dev/null; uplane __complete run '' 2>/dev/null"); !strings.Contains(got, "--strict") || !strings.Contains(got, "\nsteam") {
		s.Errorf("completion: %q", got)
	}
}

func (s *machineTest) handsOverFirefox() {
	const firefox = "firefox-esr http://%s.test/"
	s.begin(fmt.Sprintf(firefox, "first"))
	s.leaves("first.test", s.m.Wire.Public)
	const words = "(firefox-esr), which runs outside of lane steam"
	const apart = "mkdir -p ~/.uplane/steam/firefox-esr; uplane run steam -- firefox-esr --new-instance --profile ~/.uplane/steam/firefox-esr"
	const try = "  try: close that one first, or: " + apart + "\n"
	s.tells("uplane run steam -- "+fmt.Sprintf(firefox, "second"), 0, "uplane: run: firefox-esr seems to have handed over to process ", words, try)
	s.leaves("second.test", s.m.Wire.Public)
	s.tells("uplane run --strict steam -- "+fmt.Sprintf(firefox, "third"), 125, "uplane: run: firefox-esr may hand over to process ", words, try)
	s.tells("uplane run --strict steam -- firefox-esr --version", 0)
	// What it tells to try.
	s.begin("sh -c '" + strings.Replace(apart, "run", "run --strict", 1) + " http://fourth.test/'")
	s.leaves("fourth.test", s.m.Wifi.Public)
	if by := s.askedBy("third.test"); len(by) > 0 {
		s.Errorf("what was refused was asked for by %v", by)
	}
	s.endsAll("firefox-esr")
}

func (s *machineTest) handsOverTerminal() {
	s.begin("xfce4-terminal -x sleep 3001")
	waitFor(s.T, func() bool { return s.shTry("pgrep -f '^sleep 3001'").code == 0 }, "the terminal is there")
	s.tells("uplane run steam -- xfce4-terminal -x sleep 3002", 0, "uplane: run: xfce4-terminal seems to have handed over", "xfce4-terminal --disable-server")
	waitFor(s.T, func() bool { return s.inLane("sleep 3002") == "no" }, "the terminal's second window is outside")
	s.tells("uplane run --strict steam -- xfce4-terminal -x sleep 3003", 125, "uplane: run: xfce4-terminal may hand over to process ")
	// By another name.
	s.tells("uplane run steam -- x-terminal-emulator -x sleep 3004", 0, "uplane: run: x-terminal-emulator seems to have handed over", "x-terminal-emulator --disable-server")
	s.begin("uplane run --strict steam -- xfce4-terminal --disable-server -x sleep 3005")
	waitFor(s.T, func() bool { return s.inLane("sleep 3005") == "yes" }, "a terminal of its own is in the lane")
	if s.inLane("sleep 3003") != "" {
		s.Error("what was refused runs")
	}
	s.endsAll("xfce4-terminal")
}

// inLane tells whether a command that runs does so in the lane.
func (s *machineTest) inLane(command string) string {
	s.Helper()
	return s.sh(`pid=$(pgrep --exact --full "` + command + `") || exit 0
		[ "$(stat -Lc %i /run/netns/steam)" = "$(stat -Lc %i /proc/$pid/ns/net)" ] && echo yes || echo no`)
}

// application is one that nobody has heard of; it writes down what it is activated with.
const application = `#!/usr/bin/python3
import gi, sys
gi.require_version("Gtk", "3.0")
from gi.repository import Gio, Gtk
app = Gtk.Application(application_id="org.example.Unheard", flags=Gio.ApplicationFlags.HANDLES_COMMAND_LINE)
def command_line(app, line):
    open("/home/alice/unheard", "a").write(line.get_arguments()[1] + " ")
    if not app.get_windows():
        Gtk.ApplicationWindow(application=app).show()
    return 0
app.connect("command-line", command_line)
sys.exit(app.run(sys.argv))
`

func (s *machineTest) handsOverUnknown() {
	s.write("/usr/bin/unheard", application)
	s.sh("chmod 755 /usr/bin/unheard")
	s.begin("unheard one")
	waitFor(s.T, func() bool { return s.shTry("cat /home/alice/unheard").out == "one " }, "the application has a window")
	s.tells("uplane run steam -- unheard two", 0, "uplane: run: unheard seems to have handed over to process ", "(unheard), which runs outside of lane steam", "try: close that one first\n")
	s.tells("uplane run --strict steam -- unheard three", 125, "uplane: run: unheard seems to have handed over to process ")
	if got := s.sh("cat /home/alice/unheard"); got != "one two three " {
		s.Errorf("the first was activated with %q", got)
	}
	s.endsAll("unheard")
	// The other way round: one in the lane is none outside of it.
	s.begin("uplane run steam -- unheard four")
	waitFor(s.T, func() bool { return strings.HasSuffix(s.sh("cat /home/alice/unheard"), "four ") }, "it runs in the lane")
	s.tells("uplane run --strict steam -- unheard five", 0)
	s.endsAll()
}

func (s *machineTest) handsOverTmux() {
	s.may(s.m.Alice, "tmux new-session -d 'sleep 3010'")
	s.tells("uplane run steam -- tmux new-session -d 'sleep 3011'", 0, "uplane: run: tmux leaves its work to process ", "(tmux: server), which runs outside of lane steam", "tmux -L steam\n")
	waitFor(s.T, func() bool { return s.inLane("sleep 3011") == "no" }, "what tmux has a server outside do is there")
	s.tells("uplane run --strict steam -- tmux new-session -d 'sleep 3012'", 125, "uplane: run: tmux leaves its work to process ")
	s.tells("uplane run --strict steam -- tmux -L steam new-session -d 'sleep 3013'", 0)
	waitFor(s.T, func() bool { return s.inLane("sleep 3013") == "yes" }, "tmux has a server in the lane")
	if s.inLane("sleep 3012") != "" {
		s.Error("what was refused runs")
	}
	s.endsAll("'tmux: server'")
}

func (s *machineTest) hasSystemdRun() {
	const words = "uplane: run: systemd-run has its work done by systemd, outside of lane steam"
	s.tells("uplane run steam -- systemd-run --user --quiet sleep 3020", 0, words)
	s.tells("uplane run --strict steam -- systemd-run --user --quiet sleep 3021", 125, words)
	waitFor(s.T, func() bool { return s.inLane("/usr/bin/sleep 3020") == "no" }, "what systemd-run has systemd do is outside")
	if s.inLane("/usr/bin/sleep 3021") != "" {
		s.Error("what was refused runs")
	}
	s.tells("uplane run --strict steam -- systemd-run --user --quiet --scope true", 0)
}

func (s *machineTest) runsAsRoot() {
	s.requireFailure(s.shTry("uplane run --strict steam -- true"), 125, "uplane: run: --strict: a program of root's takes uplane's place", "without sudo")
}

//go:embed testdata/flatpak.sh
var flatpaks string

// spawn has Flatpak's portal start a program, from inside a sandbox, with the host's own tools.
const spawn = `exec /run/host/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path /run/host/usr/lib/x86_64-linux-gnu /run/host/usr/bin/gdbus call --session \
	--dest org.freedesktop.portal.Flatpak --object-path /org/freedesktop/portal/Flatpak --method org.freedesktop.portal.Flatpak.Spawn \
	"b'/'" "[b'sleep', b'$1']" '@a{uh} {}' '@a{ss} {}' 0 '@a{sv} {}'`

func (s *machineTest) runsFlatpak() {
	s.write("/root/flatpak.sh", flatpaks)
	// It can't start without FUSE, and after five times Flatpak would wait half a minute for it.
	s.sh("mkdir -p /etc/systemd/user/xdg-document-portal.service.d; printf '[Unit]\nStartLimitIntervalSec=0\n' >/etc/systemd/user/xdg-document-portal.service.d/lab.conf")
	s.may(s.m.Alice, "systemctl --user daemon-reload")
	s.sh("sh /root/flatpak.sh 2>&1")
	ask := fmt.Sprintf("nc %v %d </dev/null", lab.WhoamiAddr, lab.WhoamiPort)
	for _, start := range []string{"flatpak run org.example.Ask", "/var/lib/flatpak/exports/bin/org.example.Ask", "sh -c 'exec flatpak run org.example.Ask \"$@\"' sh"} {
		if got := s.may(s.m.Alice, start+" "+ask); !strings.HasPrefix(got, s.m.Wire.Public.String()+":") {
			s.Errorf("%s: outside of the lane the internet sees %q", start, got)
		}
		if got := s.may(s.m.Alice, "uplane run --strict steam -- "+start+" "+ask); !strings.HasPrefix(got, s.m.Wifi.Public.String()+":") {
			s.Errorf("%s: the internet sees %q", start, got)
		}
	}
	// Names: of the helper's files all but resolv.conf are there.
	s.may(s.m.Alice, "uplane run steam -- flatpak run org.example.Ask nslookup flat.test || :")
	s.leaves("flat.test", s.m.Wifi.Public)
	if got := s.may(s.m.Alice, "uplane run steam -- flatpak run org.example.Ask cat /etc/resolv.conf /etc/hosts"); strings.Contains(got, lab.WireDNS.String()) ||
		!strings.Contains(got, lab.WifiDNS.String()) || !strings.Contains(got, "127.0.1.1 host") {
		s.Errorf("a sandbox has\n%s", got)
	}
	// The lane's follow its uplink while the sandbox is there, whatever the helper does.
	s.write("/home/alice/spawn", spawn)
	s.begin("uplane run steam -- flatpak run --filesystem=home org.example.Ask sh -c 'until [ -e /home/alice/look ]; do sleep 0.1; done; cat /etc/resolv.conf >/home/alice/saw; exec sleep 3030'")
	waitFor(s.T, func() bool { return s.shTry("pgrep -f 'until.*home/alice/look'").code == 0 }, "the sandbox is there")
	s.sh("cp /etc/resolv.conf /tmp/resolv.conf; echo nameserver 203.0.113.99 >/etc/resolv.conf.new; mv /etc/resolv.conf.new /etc/resolv.conf")
	waitFor(s.T, func() bool {
		return strings.Contains(s.shTry("cat /run/user/1000/.flatpak-helper/monitor/resolv.conf").out, "203.0.113.99")
	}, "the helper has the host's new resolv.conf")
	waitFor(s.T, func() bool {
		s.sh("cp /tmp/resolv.conf /etc/resolv.conf.new; mv /etc/resolv.conf.new /etc/resolv.conf; sleep 1") // it may miss one of two
		return strings.Contains(s.shTry("cat /run/user/1000/.flatpak-helper/monitor/resolv.conf").out, lab.WireDNS.String())
	}, "the helper has the host's own resolv.conf again")
	s.may(s.m.Alice, "touch look")
	waitFor(s.T, func() bool { return s.shTry("test -s /home/alice/saw").code == 0 }, "the sandbox has looked")
	if got := s.sh("cat /home/alice/saw"); !strings.Contains(got, lab.WifiDNS.String()) || strings.Contains(got, "203.0.113.99") {
		s.Errorf("the sandbox has seen\n%s", got)
	}
	if got := s.may(s.m.Alice, "uplane ps steam"); !strings.Contains(got, "sleep 3030") {
		s.Errorf("ps does not show the flatpak:\n%s", got)
	}
	s.may(s.m.Alice, "uplane stop steam")
	if s.inLane("sleep 3030") != "" {
		s.Error("stop does not end the flatpak")
	}
	// Programs that others start for it would be outside.
	const spawns = "flatpak run --filesystem=home --filesystem=host-os --talk-name=org.freedesktop.Flatpak org.example.Ask sh /home/alice/spawn "
	s.may(s.m.Alice, spawns+"3031")
	waitFor(s.T, func() bool { return s.inLane("sleep 3031") == "no" }, "the portal starts programs outside")
	s.requireFailure(s.as(s.m.Alice, "uplane run steam -- "+spawns+"3032"), 1, "AccessDenied")
	if s.inLane("sleep 3032") != "" {
		s.Error("the portal starts programs for the lane")
	}
	s.sh("pkill -f '^sleep 3031'")
	// Where the lane's environment has got out, nothing is changed.
	if got := s.may(s.m.Alice, "FLATPAK_BWRAP=/usr/bin/uplane flatpak run org.example.Ask cat /etc/resolv.conf"); !strings.Contains(got, lab.WireDNS.String()) {
		s.Errorf("outside of the lane a sandbox has\n%s", got)
	}
	s.may(s.m.Alice, "FLATPAK_BWRAP=/usr/bin/uplane "+spawns+"3034")
	waitFor(s.T, func() bool { return s.inLane("sleep 3034") == "no" }, "the portal starts programs outside")
	s.sh("pkill -f '^sleep 3034'")
	// One that runs outside.
	s.begin("flatpak run org.example.Ask sleep 3033")
	waitFor(s.T, func() bool { return s.inLane("sleep 3033") == "no" }, "a flatpak runs outside")
	const words = "which runs outside of lane steam"
	s.tells("uplane run steam -- flatpak run org.example.Ask true", 0, "uplane: run: flatpak seems to have handed over to process ", "(org.example.Ask), "+words)
	s.tells("uplane run --strict steam -- flatpak run org.example.Ask true", 125, "uplane: run: flatpak may hand over to process ", words)
	s.tells("uplane run --strict steam -- flatpak run org.example.Other", 1)
	s.sh("pkill -f '^sleep 3033'")
	// Root's need no daemon, and have the lane's names too.
	if got := s.sh("uplane run steam -- flatpak run org.example.Ask " + ask); !strings.HasPrefix(got, s.m.Wifi.Public.String()+":") {
		s.Errorf("of root's the internet sees %q", got)
	}
	s.sh("uplane run steam -- flatpak run org.example.Ask nslookup root.test || :")
	s.leaves("root.test", s.m.Wifi.Public)
}

// refusesSnap has a stand-in for snapd, which can't be installed with a snap in it here: its layout is what matters.
func (s *machineTest) refusesSnap() {
	s.sh(`printf '#!/bin/sh\necho ran\n' >/usr/bin/snap; chmod 755 /usr/bin/snap; mkdir -p /snap/bin; ln -s /usr/bin/snap /snap/bin/ask; ln -s /snap/bin/ask /usr/local/bin/linked
		printf '#!/bin/sh\n# a comment\nif true; then :; fi\nexec /snap/bin/ask "$@"\n' >/usr/local/bin/scripted; chmod 755 /usr/local/bin/scripted`)
	for _, command := range []string{"/snap/bin/ask", "linked", "scripted", "snap run ask"} {
		name, _, _ := strings.Cut(command, " ")
		for _, user := range []*lab.Node{s.m.Alice, s.m.Host.Node} {
			r := s.as(user, "uplane run steam -- "+command)
			s.requireFailure(r, 125, "uplane: run: "+name+" is a snap: ", "\n  try: ")
			if r.out != "" {
				s.Errorf("%s prints %q", command, r.out)
			}
		}
	}
	if got := s.may(s.m.Alice, "uplane run steam -- snap list"); got != "ran\n" {
		s.Errorf("snap list: %q", got)
	}
}
