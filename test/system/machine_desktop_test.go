package system

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"uplane/test/bustest"
	"uplane/test/lab"
)

// TestMachineDesktop has Alice start programs in a lane by icons, as desktops start them, and press Tab in three shells.
func TestMachineDesktop(t *testing.T) {
	t.Parallel()
	lab.RequireRoot(t)
	onDebians(t, func(t *testing.T, release lab.Debian) {
		s := newDesktopTest(t, release)
		s.installBrowser()
		s.step("docs/desktop.md", s.followsDesktopDoc)
		s.step("a launcher", s.addsLauncher)
		s.step("started by it", s.startsByIcon)
		s.step("what goes wrong", s.notifies)
		s.step("refusals", s.refusesLaunchers)
		s.step("Tab", s.completes)
		s.step("no launcher", s.removesLauncher)
	})
}

// browser asks the internet as whom it sees it, and writes down that and its arguments.
const browser = `#!/bin/sh
by=$(` + "%s" + ` 2>&1 | tail -n 1)
echo "$by: $*" >>/home/alice/asked
`

const browserEntry = `[Desktop Entry]
Type=Application
Name=Firefox
Name[de]=Feuerfuchs
TryExec=firefox-esr
Exec=env BROWSER=1 firefox-esr "two words" %u
DBusActivatable=true
MimeType=text/html;
Categories=Network;WebBrowser;
Actions=new-window;

[Desktop Action new-window]
Name=New Window
Exec=firefox-esr --new-window %u
`

func (s *machineTest) installBrowser() {
	s.write("/usr/bin/firefox-esr", fmt.Sprintf(browser, ask))
	s.sh("chmod 755 /usr/bin/firefox-esr; mkdir -p /usr/share/applications/tools")
	s.write("/usr/share/applications/firefox-esr.desktop", browserEntry)
	s.write("/usr/share/applications/tools/gone.desktop", "[Desktop Entry]\nType=Application\nName=Gone\nExec=nosuchprogram %F\nCategories=Utility;\n")
	s.write("/usr/share/applications/unseen.desktop", "[Desktop Entry]\nType=Application\nName=Unseen\nExec=true\nNoDisplay=true\n")
	s.write("/usr/share/applications/snapped.desktop", "[Desktop Entry]\nType=Application\nName=Snapped\nExec=env A=b /snap/bin/snapped %U\n")
}

// followsDesktopDoc types what docs/desktop.md says, in which the lane is called wifi.
func (s *machineTest) followsDesktopDoc() {
	s.run("up", "wifi", "--uplink", lab.WiFi)
	boxes := s.boxes("desktop.md", "sh")
	for _, box := range boxes {
		for line := range strings.Lines(box) {
			if !strings.Contains(line, "sudo") {
				s.may(s.m.Alice, line)
			}
		}
	}
	if len(boxes) < 2 {
		s.Errorf("docs/desktop.md has only %d boxes", len(boxes))
	}
	s.run("remove", "wifi")
	if got := s.may(s.m.Alice, "uplane desktop list; uplane desktop list --json"); got != "no launchers yet; try: uplane desktop add LANE APP\n{\n  \"launchers\": []\n}\n" {
		s.Errorf("after it:\n%s", got)
	}
}

const launcher = "/home/alice/.local/share/applications/uplane-steam-firefox-esr.desktop"

func (s *machineTest) addsLauncher() {
	s.sh("rm -rf /home/alice/.local")
	said := s.may(s.m.Alice, "umask 077; uplane desktop add steam firefox-esr")
	if want := "wrote " + launcher + "\nstart Firefox (by steam) from the menu, or by: gio launch " + launcher + "\n"; said != want {
		s.Errorf("it says\n%s", said)
	}
	if got := s.sh("stat -c '%a %U' " + launcher); got != "644 alice" {
		s.Errorf("the file is %s", got)
	}
	if said := s.sh("desktop-file-validate " + launcher); said != "" {
		s.Errorf("desktop-file-validate says\n%s", said)
	}
	before := s.sh("stat -c '%i %y' " + launcher)
	if said := s.may(s.m.Alice, "uplane desktop add steam firefox-esr.desktop"); !strings.Contains(said, "nothing to do: there already is "+launcher) || s.sh("stat -c '%i %y' "+launcher) != before {
		s.Errorf("the second time it says\n%s", said)
	}
	var doc struct {
		Launchers []struct{ Lane, App, Name, File string }
	}
	if err := json.Unmarshal([]byte(s.may(s.m.Alice, "uplane desktop list --json")), &doc); err != nil || len(doc.Launchers) != 1 ||
		doc.Launchers[0] != (struct{ Lane, App, Name, File string }{"steam", "firefox-esr", "Firefox (by steam)", launcher}) {
		s.Errorf("list --json: %+v %v", doc, err)
	}
	if got := s.may(s.m.Alice, "uplane desktop list"); !strings.Contains(got, "steam  firefox-esr  Firefox (by steam)\n") {
		s.Errorf("list:\n%s", got)
	}
	// By its path; an ID with a folder in it.
	s.may(s.m.Alice, "cp /usr/share/applications/firefox-esr.desktop 'my own.desktop'; uplane desktop add steam './my own.desktop'; uplane desktop remove steam 'my own'")
	s.may(s.m.Alice, "uplane desktop add steam tools-gone")
	// A desktop with GTK.
	s.may(s.m.Alice, "mkdir bin; ln -s /bin/true bin/gtk-launch")
	if said := s.may(s.m.Alice, "PATH=$HOME/bin:$PATH uplane desktop add steam './my own.desktop'; uplane desktop remove steam 'my own'"); !strings.Contains(said, "or by: gtk-launch 'uplane-steam-my own'\n") {
		s.Errorf("with gtk-launch it says\n%s", said)
	}
}

// byIcon starts a launcher, or an action of it, as desktops do.
func (s *machineTest) byIcon(id, action string) string {
	return fmt.Sprintf(`python3 -c '
from gi.repository import Gio
app = Gio.DesktopAppInfo.new("%s.desktop")
app.launch_action("%s", None) if "%[2]s" else app.launch_uris(["https://example.org/"], None)'`, id, action)
}

// asked waits until the browser has asked, and returns what it wrote down.
func (s *machineTest) asked() (said string) {
	s.Helper()
	waitFor(s.T, func() bool { said = s.shTry("cat /home/alice/asked").out; return strings.HasSuffix(said, "\n") }, "the browser has asked")
	s.sh("rm /home/alice/asked")
	return said
}

func (s *machineTest) startsByIcon() {
	wifi := s.m.Wifi.Public.String()
	s.may(s.m.Alice, "gio launch "+launcher+" https://example.org/a%20b")
	if got := s.asked(); got != wifi+": two words https://example.org/a%20b\n" {
		s.Errorf("gio launch: %q", got)
	}
	s.may(s.m.Alice, s.byIcon("uplane-steam-firefox-esr", ""))
	if got := s.asked(); got != wifi+": two words https://example.org/\n" {
		s.Errorf("the icon: %q", got)
	}
	s.may(s.m.Alice, s.byIcon("uplane-steam-firefox-esr", "new-window"))
	if got := s.asked(); got != wifi+": --new-window\n" {
		s.Errorf("the action: %q", got)
	}
	// As a desktop does that systemd runs for its user: not in the session itself.
	s.may(s.m.Alice, "systemd-run --user --scope --quiet gio launch "+launcher)
	if got := s.asked(); got != wifi+": two words\n" {
		s.Errorf("the icon of a desktop outside of the session: %q", got)
	}
	// The program's own icon leaves as ever, though it says that D-Bus starts it, which has no such service.
	s.may(s.m.Alice, "sed -i /^DBusActivatable/d 'my own.desktop'; gio launch 'my own.desktop'")
	if got := s.asked(); got != s.m.Wire.Public.String()+": two words\n" {
		s.Errorf("its own icon: %q", got)
	}
}

// notification is what a desktop was asked to show.
type notification struct{ icon, title, text string }

// notices stands in for what shows a desktop's notifications.
type notices chan notification

// Notify is a method on the bus.
func (n notices) Notify(_ string, _ uint32, icon, title, text string, _ []string, _ map[string]dbus.Variant, _ int32) (uint32, *dbus.Error) {
	n <- notification{icon, title, text}
	return 1, nil
}

func (s *machineTest) notifies() {
	const name = "org.freedesktop.Notifications"
	// Without anybody to show it the error is on stderr.
	s.requireFailure(s.as(s.m.Alice, "uplane run --notify nosuch true"), 125, "there is no lane \"nosuch\"", "the desktop was not told")

	dir, err := os.Open(s.m.Host.Path("/run/user/1000")) // by the machine's mounts, where Alice may not look
	if err != nil {
		s.Fatal(err)
	}
	defer dir.Close()
	conn := bustest.ConnectAs(s.T, fmt.Sprintf("unix:path=/proc/self/fd/%d/bus", dir.Fd()), 1000)
	shown := make(notices, 16)
	if err := conn.Export(shown, "/org/freedesktop/Notifications", name); err != nil {
		s.Fatal(err)
	}
	if _, err := conn.RequestName(name, 0); err != nil {
		s.Fatal(err)
	}
	expect := func(want notification) {
		s.Helper()
		select {
		case got := <-shown:
			if got != want {
				s.Errorf("the desktop shows %+v, not %+v", got, want)
			}
		case <-s.ctx.Done():
			s.Fatalf("the desktop never shows %+v", want)
		}
	}
	const title = "Uplane: lane steam"
	s.may(s.m.Alice, "gio launch /home/alice/.local/share/applications/uplane-steam-tools-gone.desktop")
	expect(notification{"dialog-error", title, "run: nosuchprogram: command not found"})

	s.run("down", "steam")
	s.may(s.m.Alice, s.byIcon("uplane-steam-firefox-esr", "new-window"))
	expect(notification{"dialog-error", title, "run: there is no lane \"steam\", or it is down\ntry: uplane up steam"})

	// Without its uplink the program starts, and sends nothing.
	s.run("up", "steam")
	s.sh("nmcli device disconnect " + lab.WiFi)
	lane := s.wait("steam", isState("waiting"))
	s.may(s.m.Alice, "gio launch "+launcher)
	expect(notification{"dialog-warning", title, "lane steam is waiting, so nothing leaves: " + lane.Reason + "\ntry: uplane status steam"})
	if got := s.asked(); !strings.HasSuffix(got, "No route to host: two words\n") {
		s.Errorf("without its uplink: %q", got)
	}
	s.sh("nmcli device connect " + lab.WiFi)
	s.wait("steam", isState("up"))

	// What a name could do to the text, and a shell's own error.
	s.as(s.m.Alice, "uplane run --notify steam '/no/<b>&x'")
	expect(notification{"dialog-error", title, "run: /no/&lt;b&gt;&amp;x: command not found"})
	s.may(s.m.Alice, "uplane run --notify steam true; uplane run --notify steam false || :; uplane run steam /nosuch 2>/dev/null || :")
	s.sh("systemctl stop uplaned; systemctl mask --runtime uplaned")
	s.may(s.m.Alice, "gio launch "+launcher)
	expect(notification{"dialog-error", title, "run: the daemon is not running\ntry: sudo systemctl unmask uplaned; sudo systemctl start uplaned"})
	s.sh("systemctl unmask --runtime uplaned")
	s.start()
	s.wait("steam", isState("up"))
}

func (s *machineTest) refusesLaunchers() {
	s.mayNot(s.m.Alice, "uplane desktop add nosuch firefox-esr", "desktop add: nosuch: no such lane", "try: uplane up nosuch")
	s.mayNot(s.m.Alice, "uplane desktop add steam nosuch", "desktop add: nosuch: no such program is installed", "try: ")
	s.mayNot(s.m.Alice, "uplane desktop add steam /etc/hostname", "/etc/hostname: line 1 is no desktop entry's")
	s.mayNot(s.m.Alice, "uplane desktop add steam ./nosuch.desktop", "nosuch.desktop: no such file")
	s.mayNot(s.m.Alice, "uplane desktop add steam snapped", "it is a snap", "try: ")
	s.mayNot(s.m.Alice, "uplane desktop add steam uplane-steam-firefox-esr", "it is a launcher of a lane already", "try: uplane desktop list")
	s.mayNot(s.m.Alice, "uplane desktop remove steam nosuch", "there is no launcher of nosuch in lane steam", "try: uplane desktop list")
	s.may(s.m.Alice, "echo mine >.local/share/applications/uplane-steam-unseen.desktop")
	s.mayNot(s.m.Alice, "uplane desktop add steam unseen", "somebody else's")
	s.mayNot(s.m.Alice, "uplane desktop remove steam unseen", "somebody else's")
	s.may(s.m.Alice, "rm .local/share/applications/uplane-steam-unseen.desktop")
	for _, args := range []string{"add steam firefox-esr", "remove steam firefox-esr", "list"} {
		s.mayNot(s.m.Host.Node, "uplane desktop "+args, "this would be root's", "try: the same without sudo")
	}
	for _, args := range []string{"add", "add steam", "remove steam", "add ../x firefox-esr", "nosuch", "list steam"} {
		s.requireFailure(s.as(s.m.Alice, "uplane desktop "+args), 2, "uplane: desktop", "try: ")
	}
}

func (s *machineTest) removesLauncher() {
	if got := s.may(s.m.Alice, "uplane desktop remove steam firefox-esr; uplane desktop remove steam tools-gone; ls -A .local/share/applications"); got !=
		"deleted "+launcher+"\ndeleted /home/alice/.local/share/applications/uplane-steam-tools-gone.desktop\n" {
		s.Errorf("remove says\n%s", got)
	}
}

// completer is a shell in which Alice presses Tab.
type completer struct {
	name string
	// all returns everything that may stand where a line ends.
	all func(line string) []string
	// substitution is a command that the shell would run where it stands.
	substitution string
}

// offers returns, in order, what may stand where a line ends. A busy machine may not answer as soon as a key wants it, and then
// that is nothing: the key is pressed again until ok, or in vain.
func (c completer) offers(line string, ok func(got []string) bool) (got []string) {
	for range 10 {
		got = c.all(line)
		slices.Sort(got)
		if got = slices.Compact(got); ok(got) {
			break
		}
	}
	return got
}

// completes presses the key in bash, zsh and fish.
func (s *machineTest) completes() {
	if err := s.uplane.InstallManual(s.T.TempDir()); err != nil {
		s.Fatal(err)
	}
	s.sh("ln -s ../site-functions/_uplane /usr/share/zsh/vendor-completions/_uplane") // as the package does
	shells := []completer{
		{"bash", s.inserter("bash", "bash", "--norc", "--noprofile", "-i"), "$(touch evaluated)"},
		{"zsh", s.inserter("zsh", "zsh", "-f", "-i"), "$(touch evaluated)"},
		{"fish", s.fish, "(touch evaluated)"},
	}
	for _, shell := range shells {
		for line, want := range map[string][]string{
			"uplane st":                       {"status", "stop"},
			"uplane desktop ":                 {"add", "list", "remove"},
			"uplane run ":                     {"steam"},
			"uplane run --notify s":           {"steam"},
			"uplane stop ":                    {"steam"},
			"uplane shell ":                   {"steam"},
			"uplane ps ":                      {"steam"},
			"uplane desktop add ":             {"steam"},
			"uplane desktop remove ":          {"steam"},
			"uplane desktop remove steam ":    {"firefox-esr", "tools-gone"},
			"uplane desktop remove nosuch ":   nil,
			"uplane desktop add steam fire":   {"firefox-esr"},
			"uplane desktop add steam uns":    nil,
			"uplane desktop add steam uplane": nil,
			"uplane run --not":                {"--notify"},
			"uplane status --j":               {"--json"},
			"uplane up --upl":                 {"--uplink"},
			"uplane up x --uplink ":           {"enp7s0", "wlp6s0"},
			"uplane up x --subnet ":           nil,

			"uplane run steam nosuchprog":                 nil,
			"uplane run steam firefox-e":                  {"firefox-esr"},
			"uplane run steam -- firefox-e":               {"firefox-esr"},
			"uplane run steam cat /etc/hostn":             {"/etc/hostname"},
			"uplane run --notify steam -- cat /etc/hostn": {"/etc/hostname"},
			"uplane run steam systemctl --no-pag":         {"--no-pager"},
			"uplane run steam -- systemctl --no-pag":      {"--no-pager"},
			"uplane run steam -- systemctl is-act":        {"is-active"},
			"uplane run steam -- uplane stop ":            {"steam"},
			"uplane run steam -- cat 'a  b' /etc/hostn":   {"/etc/hostname"},
			"uplane run steam -- uplane desktop rem":      {"remove"},
		} {
			got := shell.offers(line, func(got []string) bool { return slices.Equal(got, want) })
			if !slices.Equal(got, want) {
				s.Errorf("%s: after %q comes %q, not %q", shell.name, line, got, want)
			}
		}
		// What is offered after these depends on the machine.
		for line, want := range map[string]string{"uplane ": "run", "uplane desktop add steam ": "firefox-esr", "uplane run steam ": "systemctl", "uplane run steam -- ": "systemctl"} {
			got := shell.offers(line, func(got []string) bool { return slices.Contains(got, want) })
			if !slices.Contains(got, want) || slices.Contains(got, "unseen") {
				s.Errorf("%s: after %q comes %.200q", shell.name, line, got)
			}
		}
		shell.all("uplane run steam -- echo " + shell.substitution + " x")
		if s.shTry("rm /home/alice/evaluated").code == 0 {
			s.Errorf("%s runs what stands in the line", shell.name)
		}
	}
	// Nobody who can be asked: nothing is offered, and nobody is started to be asked.
	s.sh("systemctl stop uplaned")
	for _, shell := range shells {
		for _, line := range []string{"uplane run ", "uplane stop ", "uplane desktop add "} {
			if got := shell.all(line); len(got) > 0 {
				s.Errorf("%s: without a daemon, after %q comes %q", shell.name, line, got)
			}
		}
	}
	if s.shTry("systemctl is-active uplaned").code == 0 {
		s.Error("the key has started the daemon")
	}
	s.start()
}

func (s *machineTest) fish(line string) (all []string) {
	s.Helper()
	r := s.finish(s.m.Alice.CommandContext(s.ctx, "fish", "-c", "complete -C $argv[1]", line))
	if r.code != 0 || r.err != "" {
		s.Errorf("fish: %+v", r)
	}
	for line := range strings.Lines(r.out) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		all = append(all, word)
	}
	return all
}

// inserters have a shell insert, for Ctrl-A, all that may stand where the line ends, and for Ctrl-T write down the line.
var inserters = map[string]string{
	"bash": `. /usr/share/bash-completion/bash_completion; bind '"\C-a": insert-completions'; bind '"\C-u": kill-whole-line'; bind -x '"\C-t": printf "%s\n" "$READLINE_LINE" >line.new; mv line.new line'`,
	"zsh": `autoload -U compinit; compinit -u -D; zstyle ':completion:all-matches::::' completer _all_matches _complete; zstyle ':completion:all-matches:*' insert true; zle -C all-matches complete-word _generic; bindkey '^A' all-matches
		_line() { print -r -- "$BUFFER" >line.new; mv line.new line }; zle -N _line; bindkey '^T' _line; bindkey '^U' kill-buffer`,
}

// inserter returns what a shell at a terminal inserts.
func (s *machineTest) inserter(name string, command ...string) func(line string) []string {
	s.write("/home/alice/setup", inserters[name]+"\n")
	t := s.sit(true, command[0], command[1:]...)
	s.Cleanup(t.leave)
	t.types("PS1='> '; export GORACE=atexit_sleep_ms=0; cd; . ~/setup; rm -f setup; echo rea''dy\n")
	t.shows("ready\r\n")
	return func(line string) []string {
		s.Helper()
		s.sh("rm -f /home/alice/line")
		t.types(line + "\x01\x14")
		waitFor(s.T, func() bool { return s.shTry("test -e /home/alice/line").code == 0 }, name+" has inserted what comes after "+line)
		out := strings.TrimSuffix(s.shTry("cat /home/alice/line").out, "\n")
		t.types("\x15")
		if out == line {
			return nil // unless what was typed is all there is
		}
		keep := line[:strings.LastIndexByte(line, ' ')+1]
		if !strings.HasPrefix(out, keep) {
			s.Fatalf("%s makes %q of %q", name, out, line)
		}
		return strings.Fields(out[len(keep):])
	}
}
