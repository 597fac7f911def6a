package system

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"uplane/internal/api"
	"uplane/test/lab"
)

// machineTest is a site on a booted Debian, which lives through a test's steps one after the other.
type machineTest struct {
	*site
	m *lab.Machine
}

// TestMachine has the daemon as a service of the real systemd, and its API with the real polkit, logind and D-Bus
// activation. Root has made lane steam; Alice sits in front of the machine, and Bob is logged in nowhere.
func TestMachine(t *testing.T) {
	t.Parallel()
	lab.RequireRoot(t)
	onDebians(t, func(t *testing.T, release lab.Debian) {
		s := newMachineTest(t, release)
		s.step("systemd takes the units", s.verifies)
		s.step("who may do what", s.asksPolkit)
		s.step("a password", s.asksForPassword)
		s.step("the administrator's rule", s.followsRules)
		s.step("no polkit", s.hasNoPolkit)
		s.step("the name is root's", s.guardsItsName)
		s.step("start and reload", s.saysWhenReady)
		s.step("a crash and a hang", s.isRestarted)
		s.step("started by a call", s.isActivated)
		s.step("stopped", s.staysStopped)
		s.step("not wanted", s.isNotWanted)
		s.step("sleep", s.wakesUp)
		s.step("a reboot", s.reboots)
		if failed := s.sh("systemctl --failed --plain --no-legend"); failed != "" {
			t.Errorf("units have failed:\n%s", failed)
		}
	})
}

// onDebians runs a test on each release, side by side.
func onDebians(t *testing.T, test func(t *testing.T, release lab.Debian)) {
	for _, release := range []lab.Debian{lab.Bookworm, lab.Trixie} {
		t.Run(string(release), func(t *testing.T) {
			t.Parallel()
			test(t, release)
		})
	}
}

// desktop is what a machine with a desktop has besides, one for all tests: to make its image takes minutes.
var desktop = []string{
	"xvfb", "xauth", "x11-utils", "x11-apps", "imagemagick", // windows of X11
	"sway", "foot", "grim", // windows of Wayland
	"chromium", "firefox-esr", "xfce4-terminal", "tmux", "python3-gi", "gir1.2-gtk-3.0",
	"flatpak", "bubblewrap", "busybox-static",
	"pipewire-pulse", "wireplumber", "pulseaudio-utils", "xdg-desktop-portal", "xdg-desktop-portal-gtk", "dconf-cli", "dconf-gsettings-backend",
	"fontconfig", "fonts-dejavu-core", "acl", "libglib2.0-bin", "desktop-file-utils",
	"bash-completion", "zsh", "fish", "vim-tiny",
}

func newDesktopTest(t *testing.T, release lab.Debian) *machineTest {
	return newMachineTest(t, release, desktop...)
}

func newMachineTest(t *testing.T, release lab.Debian, packages ...string) *machineTest {
	return newMachineTestWith(t, release, lab.Options{Packages: packages})
}

func newMachineTestWith(t *testing.T, release lab.Debian, options lab.Options) *machineTest {
	ctx, m := lab.StartMachine(t, release, lab.Plain, options)
	if err := m.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	s := &machineTest{m: m}
	// A daemon with the race detector would take a second more to end.
	if _, err := m.Host.Run("mkdir", "-p", "/etc/systemd/system/uplaned.service.d"); err != nil {
		t.Fatal(err)
	}
	const quick = "/etc/systemd/system/uplaned.service.d/quick.conf"
	if err := os.WriteFile(m.Host.Path(quick), []byte("[Service]\nEnvironment=GORACE=atexit_sleep_ms=0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.site = startSite(t, ctx, m.World)
	s.longer(3 * time.Minute)
	s.run("up", "steam", "--uplink", lab.WiFi)
	return s
}

// step says how long a step took.
func (s *machineTest) step(name string, do func()) {
	start := time.Now()
	do()
	s.Logf("%s: %v", name, time.Since(start).Round(time.Millisecond))
}

// as runs a script as one of the machine's users.
func (s *machineTest) as(user *lab.Node, script string) result {
	s.Helper()
	return s.finish(s.command(user, script))
}

func (s *machineTest) command(user *lab.Node, script string) *lab.Cmd {
	return user.CommandContext(s.ctx, "env", "GORACE=atexit_sleep_ms=0", "sh", "-c", script)
}

// may checks that a user's script succeeds, and returns what it prints.
func (s *machineTest) may(user *lab.Node, script string) string {
	s.Helper()
	r := s.as(user, script)
	if r.code != 0 {
		s.Errorf("%s may not %s: %+v", user.Name, script, r)
	}
	return r.out
}

// mayNot checks that a user's script fails and says all of words.
func (s *machineTest) mayNot(user *lab.Node, script string, words ...string) {
	s.Helper()
	s.requireFailure(s.as(user, script), 1, words...)
}

// callManager is the beginning of a call of the manager's method by hand.
const callManager = "busctl call " + api.Name + " " + string(api.Path) + " " + api.ManagerInterface + " "

func (s *machineTest) verifies() {
	// The image has no manuals, and no man to look for them.
	if said := s.sh("systemd-analyze verify --man=no uplaned.service uplane-lane@steam.target 2>&1"); said != "" {
		s.Errorf("systemd says\n%s", said)
	}
}

// asksPolkit: nobody asks for passwords here, so who would need one is refused.
func (s *machineTest) asksPolkit() {
	for _, user := range []*lab.Node{s.m.Alice, s.m.Bob} {
		for script, want := range map[string]string{
			"uplane list":                  "steam",
			"uplane status":                "lane steam is up",
			"uplane plan steam && echo ok": "ok",
			callManager + "List":           `"steam" "up"`,
		} {
			if got := s.may(user, script); !strings.Contains(got, want) {
				s.Errorf("%s of %s prints %q", script, user.Name, got)
			}
		}
		for _, command := range []string{"up other --uplink wlp6s0", "up steam --mark 7", "remove steam", "reload"} {
			s.mayNot(user, "uplane "+command, "permission denied: org.uplane.lanes.manage: polkit wants a password",
				"nothing in this session asks for it", "sudo")
		}
		s.mayNot(user, callManager+"Reload --allow-interactive-authorization=no", "which the caller does not allow")
	}
	s.may(s.m.Alice, "uplane down steam")
	s.wait("steam", isState("down"))
	s.mayNot(s.m.Bob, "uplane up steam", "permission denied: org.uplane.lanes.use")
	s.may(s.m.Alice, "uplane up steam")
	s.mayNot(s.m.Bob, "uplane down steam", "permission denied: org.uplane.lanes.use")
	s.leavesBy("steam", s.m.Wifi.Public)
	if got := s.sh("ls /etc/uplane/lanes.d; cat /etc/uplane/lanes.d/*"); strings.Contains(got, "other") || strings.Contains(got, "mark") {
		s.Errorf("the lanes' files are\n%s", got)
	}
}

// asksForPassword has Alice type the administrator's password, at a terminal of hers.
func (s *machineTest) asksForPassword() {
	s.sh("echo root:secret | chpasswd")
	t := s.ask("uplane up other --uplink wlp6s0")
	t.answer("secret")
	t.wait("lane other is up by wlp6s0")
	if err := t.cmd.Wait(); err != nil {
		s.Errorf("with the password: %v; the terminal shows\n%s", err, t.text())
	}
	s.wait("other", isState("up"))

	// Who asked goes, and so does the question.
	t = s.ask("uplane remove other")
	s.sh("pkill -KILL --exact --uid alice uplane")
	waitFor(s.T, func() bool {
		return strings.Contains(s.sh("journalctl --unit polkit --no-pager"), "FAILED to authenticate to gain authorization for action "+string(api.Manage))
	}, "polkit asks no more")
	t.end()
	s.wait("other", isState("up"))
	s.run("remove", "other")
}

// terminal is one of Alice's, with a program at it.
type terminal struct {
	s     *machineTest
	cmd   *lab.Cmd
	stdin io.Writer

	mu   sync.Mutex
	said strings.Builder
}

// ask has Alice run a command that needs a password, until she is asked for it.
func (s *machineTest) ask(command string) *terminal {
	s.Helper()
	t := &terminal{s: s}
	t.cmd = s.m.Alice.CommandContext(s.ctx, "script", "--quiet", "--return", "--command", "exec "+command, "/dev/null")
	var err error
	if t.stdin, err = t.cmd.StdinPipe(); err != nil {
		s.Fatal(err)
	}
	t.cmd.Stdout = t
	if err := t.cmd.Start(); err != nil {
		s.Fatal(err)
	}
	t.wait("AUTHENTICATING FOR org.uplane.lanes.manage")
	t.wait("Authentication is required to make, change or remove lanes")
	t.wait("Password: ")
	return t
}

func (t *terminal) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.said.Write(b)
}

func (t *terminal) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.said.String()
}

func (t *terminal) wait(text string) {
	t.s.Helper()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(t.text(), text); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.s.Fatalf("the terminal never shows %s, but\n%s", text, t.text())
		}
	}
}

func (t *terminal) answer(text string) {
	t.s.Helper()
	if _, err := io.WriteString(t.stdin, text+"\n"); err != nil {
		t.s.Fatal(err)
	}
}

func (t *terminal) end() {
	_ = t.cmd.Process.Kill()
	_ = t.cmd.Wait()
}

// followsRules runs what docs/dbus.md shows of busctl, as Alice, whom the administrator lets do everything.
func (s *machineTest) followsRules() {
	const rule = "/etc/polkit-1/rules.d/10-alice.rules"
	s.write(rule, `polkit.addRule(function(action, subject) {
		if (action.id == "org.uplane.lanes.manage" && subject.user == "alice")
			return polkit.Result.YES;
	});`)
	waitFor(s.T, func() bool { return s.as(s.m.Alice, "uplane reload").code == 0 }, "polkit has read the rule")
	ran := 0
	for _, e := range examples(s.T) {
		if strings.HasPrefix(e.script, "busctl") {
			e.check(s.T, s.as(s.m.Alice, "set -e\n"+e.script))
			ran++
		}
	}
	if ran < 2 {
		s.Errorf("docs/dbus.md has %d examples of busctl", ran)
	}
	s.mayNot(s.m.Bob, "uplane reload", "org.uplane.lanes.manage")
	s.sh("rm " + rule)
	waitFor(s.T, func() bool { return s.as(s.m.Alice, "uplane reload").code == 1 }, "polkit has forgotten the rule")
}

// hasNoPolkit: one that was stopped is started by the bus; without one only root may.
func (s *machineTest) hasNoPolkit() {
	s.sh("systemctl stop polkit")
	s.may(s.m.Alice, "uplane list")
	s.sh("systemctl mask --runtime --now polkit")
	for _, user := range []*lab.Node{s.m.Alice, s.m.Bob} {
		for _, command := range []string{"list", "plan steam", "up steam", "remove steam"} {
			s.mayNot(user, "uplane "+command, "permission denied", "polkit.service is masked", "the same with sudo")
		}
	}
	s.run("up", "steam", "--mark", "100")
	s.sh("systemctl unmask --runtime polkit")
	s.may(s.m.Alice, "uplane list")
}

// guardsItsName also finds the interface's file to be what the daemon says of itself.
func (s *machineTest) guardsItsName() {
	for _, user := range []*lab.Node{s.m.Alice, s.m.Bob} {
		s.mayNot(user, "busctl call org.freedesktop.DBus / org.freedesktop.DBus RequestName su "+api.Name+" 7", "Access denied")
	}
	installed := s.sh("cat /usr/share/dbus-1/interfaces/" + api.Name + ".xml")
	for object, name := range map[string]string{
		string(api.Path):                  api.ManagerInterface,
		string(api.Path) + "/lanes/steam": api.LaneInterface,
	} {
		said := s.may(s.m.Alice, "busctl introspect --xml-interface "+api.Name+" "+object)
		of := regexp.MustCompile(`(?s)<interface name="` + regexp.QuoteMeta(name) + `">.*?</interface>`)
		if want, got := of.FindString(installed), of.FindString(said); want == "" || got != want {
			s.Errorf("%s says\n%s\nand its file\n%s", object, got, want)
		}
	}
	shown := s.may(s.m.Alice, "busctl introspect "+api.Name+" "+string(api.Path))
	if !regexp.MustCompile(`\.Up +method +sa\{sv\} +o`).MatchString(shown) {
		s.Errorf("busctl introspect shows\n%s", shown)
	}
}

// saysWhenReady: when systemctl returns, lanes are as they shall be.
func (s *machineTest) saysWhenReady() {
	s.sh("systemctl stop uplaned")
	s.leavesBy("steam", s.m.Wifi.Public)
	s.writeLane("written", `uplink = "wlp6s0"`)
	if got := s.sh("systemctl start uplaned; uplane list"); !regexp.MustCompile(`written +up `).MatchString(got) {
		s.Errorf("right after the start:\n%s", got)
	}
	s.leavesBy("written", s.m.Wifi.Public)
	for mark := range 5 {
		s.writeLane("written", fmt.Sprintf("uplink = \"wlp6s0\"\nmark = %d\n", 200+mark))
		if got := s.sh("systemctl reload uplaned; ip rule show priority 0"); !strings.Contains(got, fmt.Sprintf("fwmark %#x/", 200+mark)) {
			s.Errorf("right after the reload there is no rule for mark %d:\n%s", 200+mark, got)
		}
	}
	s.writeLane("written", "uplnk = \"wlp6s0\"\n")
	if r := s.shTry("systemctl reload uplaned"); r.code == 0 {
		s.Error("a reload with a wrong file succeeds")
	}
	waitFor(s.T, func() bool { return strings.Contains(s.uplane.Log(), "written.toml:1") }, "the journal says what is wrong")
	s.sh("systemctl is-active uplaned")
	s.leavesBy("written", s.m.Wifi.Public)
	s.writeLane("written", `uplink = "wlp6s0"`)
	s.sh("systemctl reload uplaned")
}

// isRestarted: it adopts its lanes, which have worked all the time.
func (s *machineTest) isRestarted() {
	const dropIn = "/run/systemd/system/uplaned.service.d/watchdog.conf"
	s.sh("mkdir -p $(dirname " + dropIn + ")")
	s.write(dropIn, "[Service]\nWatchdogSec=2\n")
	s.sh("systemctl daemon-reload")
	s.adopts(func() { s.sh("systemctl kill --kill-who=main --signal=KILL uplaned") })
	s.adopts(func() { s.sh("systemctl kill --kill-who=main --signal=STOP uplaned") })
	if !strings.Contains(s.sh("journalctl --unit uplaned --no-pager"), "Watchdog timeout") {
		s.Error("it was not the watchdog")
	}
	s.sh("rm " + dropIn + "; systemctl daemon-reload")
}

// adopts ends a daemon and waits for the next, which has nothing to do.
func (s *machineTest) adopts(end func()) {
	s.Helper()
	pid := func() string { return s.sh("systemctl show --property=MainPID --value uplaned") }
	before, applied := pid(), s.uplane.Applied()
	end()
	s.leavesBy("steam", s.m.Wifi.Public)
	waitFor(s.T, func() bool {
		now := pid()
		return now != before && now != "0" && s.shTry("systemctl is-active uplaned").code == 0
	}, "systemd has started another daemon")
	for _, lane := range []string{"steam", "written"} {
		s.wait(lane, isState("up"))
		s.leavesBy(lane, s.m.Wifi.Public)
	}
	if n := s.uplane.Applied() - applied; n != 0 {
		s.Errorf("%d writes to adopt what did not change:\n%s", n, s.uplane.Log())
	}
}

// isActivated has Alice's calls start the daemon.
func (s *machineTest) isActivated() {
	for _, script := range []string{callManager + "List", "uplane list"} {
		s.sh("systemctl stop uplaned")
		if got := s.may(s.m.Alice, script); !strings.Contains(got, "steam") || !s.active() {
			s.Errorf("%s starts no daemon and prints %s", script, got)
		}
	}
}

// active tells whether the daemon runs.
func (s *machineTest) active() bool { return s.shTry("systemctl is-active uplaned").code == 0 }

// staysStopped has what goes on by itself not start a daemon that the administrator has stopped.
func (s *machineTest) staysStopped() {
	// Who watches lanes.
	watch := &terminal{s: s, cmd: s.command(s.m.Alice, "exec uplane status steam --watch")}
	watch.cmd.Stdout, watch.cmd.Stderr = watch, watch
	if err := watch.cmd.Start(); err != nil {
		s.Fatal(err)
	}
	watch.wait("lane steam is up")
	s.sh("systemctl stop uplaned")
	watch.wait("the daemon is not running; waiting for it")
	if s.active() {
		s.Error("the watcher has started the daemon again")
	}

	// What NetworkManager says of the bridge of a lane that came or went. Scripts run in the order of their names.
	scripts := "/usr/lib/NetworkManager/dispatcher.d/50-uplane /usr/lib/NetworkManager/dispatcher.d/pre-up.d/50-uplane"
	s.sh("sed -i 's,^exec,exec env GORACE=atexit_sleep_ms=0,' " + scripts)
	s.write("/etc/NetworkManager/dispatcher.d/99-test", "#!/bin/sh\necho \"$1 $2\" >>/run/events\n")
	s.sh(`chmod 755 /etc/NetworkManager/dispatcher.d/99-test
		ip link add ul-other type bridge; ip addr add 10.0.9.1/24 dev ul-other; ip link set dev ul-other up`)
	s.hears("ul-other up")
	s.sh("ip link del dev ul-other")
	s.hears("ul-other down")
	if s.active() {
		s.Error("an event of a lane's bridge has started the daemon again")
	}
	s.sh("systemctl start uplaned")
	waitFor(s.T, func() bool { return strings.Count(watch.text(), "lane steam is up") > 1 }, "the watcher sees the daemon that came")
	watch.end()
}

// hears waits until all scripts have dealt with an event.
func (s *machineTest) hears(event string) {
	s.Helper()
	waitFor(s.T, func() bool { return s.shTry("grep -x '"+event+"' /run/events").code == 0 }, "NetworkManager tells: "+event)
}

// isNotWanted: a call says what to do about a daemon that may not be started.
func (s *machineTest) isNotWanted() {
	for _, without := range []struct{ how, hint string }{
		{"systemctl disable --now uplaned", "systemctl enable --now uplaned"},
		{"systemctl mask --now uplaned", "systemctl unmask uplaned; sudo systemctl start uplaned"},
	} {
		s.sh(without.how)
		for _, command := range []string{"list", "up steam", "reload"} {
			s.mayNot(s.m.Alice, "uplane "+command, "the daemon is not running\n", "try: sudo "+without.hint)
		}
		s.leavesBy("steam", s.m.Wifi.Public)
		s.sh(strings.ReplaceAll(without.hint, "sudo ", ""))
		s.may(s.m.Alice, "uplane list")
	}
}

// wakesUp has logind suspend the machine. All of that is real, but for the kernel's file, to which systemd writes "mem".
func (s *machineTest) wakesUp() {
	s.sh(`mount -o remount,rw /sys; mkdir -p /sys/power; mount -t tmpfs none /sys/power
		echo 'freeze mem' >/sys/power/state; echo 's2idle [deep]' >/sys/power/mem_sleep; systemctl suspend`)
	waitFor(s.T, func() bool { return strings.Contains(s.uplane.Log(), "woken up") }, "the daemon looks at everything again")
	if got := s.sh("cat /sys/power/state"); got != "mem" {
		s.Errorf("the kernel was told %q", got)
	}
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.m.Wifi.Public)
}

// reboots: both the lane that was written and the one that Uplane made are there by themselves.
func (s *machineTest) reboots() {
	if leaked, err := s.wire.Stop(); err != nil || len(leaked) > 0 { // its card goes
		s.Errorf("by the wire left %v, %v", leaked, err)
	}
	s.wire = nil
	if err := s.m.Reboot(s.ctx); err != nil {
		s.Fatal(err)
	}
	got := s.may(s.m.Alice, "uplane status")
	for _, lane := range []string{"steam", "written"} {
		if !strings.Contains(got, "lane "+lane+" is ") {
			s.Errorf("lane %s is not among\n%s", lane, got)
		}
		s.wait(lane, isState("up"))
		s.leavesBy(lane, s.m.Wifi.Public)
	}
}
