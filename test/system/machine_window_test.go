package system

import (
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"uplane/test/lab"
)

// windowTest is Alice's desktop: an X server and a compositor of hers, and a page on the internet.
type windowTest struct {
	*machineTest
	pictures string // a folder

	mu      sync.Mutex
	clients []netip.Addr // who asked for the page
}

// The page's and windows' colour says who asked for it.
var (
	byWifi  = color.RGBA{0, 0xa0, 0, 0xff}
	byWire  = color.RGBA{0xc8, 0, 0, 0xff}
	byOther = color.RGBA{0, 0, 0xff, 0xff}
)

const pagePort = 8080

// TestMachineWindow: all that a desktop gives its programs by the paths of sockets and files, it gives them in a lane, too.
// Alice's programs are real ones, and what is outside of the lane is next to them.
func TestMachineWindow(t *testing.T) {
	t.Parallel()
	lab.RequireRoot(t)
	onDebians(t, func(t *testing.T, release lab.Debian) {
		s := &windowTest{machineTest: newDesktopTest(t, release), pictures: t.ArtifactDir()}
		s.longer(5 * time.Minute)
		t.Cleanup(s.explain)
		s.servePage()
		s.step("a desktop", s.startDesktop)
		s.step("windows of X11", s.showsWindow)
		s.step("a browser", s.browses)
		s.step("windows of Wayland", s.showsWaylandWindow)
		s.step("sound", s.plays)
		s.step("the session's bus", s.callsSession)
		s.step("files and devices", s.sharesFiles)
		s.step("sandboxes", s.nests)
		s.step("a container as Steam's", s.runsContainer)
		s.noUnits()
	})
}

// explain shows what there is to see after a failure.
func (s *windowTest) explain() {
	if !s.Failed() {
		return
	}
	for _, script := range []string{
		"ps -eo user,pid,ppid,stat,cgroup,args | cut -c -300",
		"journalctl --no-pager --lines=40 --unit='uplane-run-*' --output=cat",
		"cd /home/alice; tail -n 20 *.log",
	} {
		s.Logf("%s:\n%s", script, s.shTry(script).out)
	}
	s.Logf("pictures are in %s; \"go test -artifacts\" keeps them", s.pictures)
}

// until waits for what may take its time on a busy machine.
func (s *windowTest) until(what string, ok func() bool) {
	s.Helper()
	for deadline := time.Now().Add(90 * time.Second); !ok(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("in vain: %s", what)
		}
	}
}

// inSession is a script of Alice's, who has a desktop.
func inSession(script string) string { return ". ./session; " + script }

// start starts a program of Alice's that stays, with a log of that name.
func (s *windowTest) start(name, script string) {
	s.Helper()
	c := s.command(s.m.Alice, inSession("exec >"+name+".log 2>&1; exec "+script))
	if err := c.Start(); err != nil {
		s.Fatal(err)
	}
	go func() { _ = c.Wait() }() // it ends with the test, or by its own fault
}

// same checks that a script of Alice's prints something, and in the lane the same. It returns that.
func (s *windowTest) same(script string) string {
	s.Helper()
	s.write("/home/alice/look", script)
	outside, inside := s.may(s.m.Alice, inSession("sh look")), s.may(s.m.Alice, inSession("uplane run steam -- sh look"))
	if outside == "" {
		s.Errorf("%s: prints nothing", script)
	}
	requireSame(s.T, outside, inside)
	return outside
}

// servePage serves, on the internet, a page whose colour is whose the client's address is.
func (s *windowTest) servePage() {
	listener, err := s.m.Inet.Listen("tcp", fmt.Sprintf("%v:%d", lab.WhoamiAddr, pagePort))
	if err != nil {
		s.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client := netip.MustParseAddrPort(r.RemoteAddr).Addr()
		s.mu.Lock()
		s.clients = append(s.clients, client)
		s.mu.Unlock()
		colour := byOther
		switch client {
		case s.m.Wifi.Public:
			colour = byWifi
		case s.m.Wire.Public:
			colour = byWire
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "<title>page</title><body style='background: #%02x%02x%02x'><h1>%v</h1>", colour.R, colour.G, colour.B, client)
	})}
	s.Cleanup(func() { _ = server.Close() })
	go func() { _ = server.Serve(listener) }()
}

// startDesktop has Alice start an X server that wants a cookie, and a compositor.
func (s *windowTest) startDesktop() {
	s.write("/home/alice/session", "export DISPLAY=:7 XAUTHORITY=$HOME/cookie\n")
	s.may(s.m.Alice, inSession("touch $XAUTHORITY; xauth -q add :7 . $(mcookie)"))
	s.start("Xvfb", "Xvfb :7 -screen 0 1024x768x24 -nolisten tcp -auth cookie")
	s.write("/home/alice/sway", "output HEADLESS-1 resolution 1024x768\nxwayland disable\n")
	s.start("sway", "env WLR_BACKENDS=headless WLR_RENDERER=pixman WLR_LIBINPUT_NO_DEVICES=1 sway --config sway")
	s.until("the X server answers", func() bool { return s.as(s.m.Alice, inSession("xdpyinfo")).code == 0 })
	s.until("the compositor answers", func() bool {
		return s.as(s.m.Alice, "swaymsg --socket $(echo $XDG_RUNTIME_DIR/sway-ipc.*.sock) --type get_version").code == 0
	})
	// As a desktop does when it starts.
	s.sh(`cd /home/alice; echo export WAYLAND_DISPLAY=wayland-1 SWAYSOCK=$(echo /run/user/1000/sway-ipc.*.sock) >>session`)
	s.may(s.m.Alice, inSession("test -S $XDG_RUNTIME_DIR/$WAYLAND_DISPLAY; dbus-update-activation-environment --systemd DISPLAY XAUTHORITY WAYLAND_DISPLAY"))
}

// picture is what a program of Alice's writes to a file outside of the lane.
func (s *windowTest) picture(name, script string) image.Image {
	s.Helper()
	s.may(s.m.Alice, inSession(script+" "+name+".png"))
	data, err := os.ReadFile(s.m.Host.Path("/home/alice/" + name + ".png"))
	if err != nil {
		s.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.pictures, name+".png"), data, 0o644); err != nil {
		s.Fatal(err)
	}
	picture, err := png.Decode(strings.NewReader(string(data)))
	if err != nil {
		s.Fatal(err)
	}
	return picture
}

// count counts the pixels of each colour, in the left and in the right half of a picture.
func count(picture image.Image) (left, right map[color.Color]int) {
	left, right = map[color.Color]int{}, map[color.Color]int{}
	area := picture.Bounds()
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			half := left
			if x >= (area.Min.X+area.Max.X)/2 {
				half = right
			}
			half[color.RGBAModel.Convert(picture.At(x, y))]++
		}
	}
	return left, right
}

// sideBySide waits until a window at the left has come by the wire, and one at the right by the lane's uplink.
func (s *windowTest) sideBySide(name, script string) {
	s.Helper()
	const window = 200_000 // of 393 216 pixels in half of the screen, less what windows have around
	var left, right map[color.Color]int
	s.until(name+" shows the wire's colour at the left, and the Wi-Fi's at the right", func() bool {
		left, right = count(s.picture(name, script))
		return left[byWire] > window && right[byWifi] > window
	})
	if left[byWifi]+left[byOther]+right[byWire]+right[byOther] > 0 {
		s.Errorf("%s has colours where they do not belong", name)
	}
}

const shootX, shootWayland = "import -window root", "grim"

func (s *windowTest) showsWindow() {
	s.start("xclock", "uplane run steam -- xclock -geometry 200x200+40+40 -bg yellow")
	s.until("the clock is on the screen", func() bool {
		return strings.Contains(s.as(s.m.Alice, inSession("xwininfo -name xclock")).out, "Map State: IsViewable")
	})
	s.until("the clock is drawn", func() bool {
		left, _ := count(s.picture("xclock", shootX))
		return left[color.RGBA{0xff, 0xff, 0, 0xff}] > 20_000
	})
	s.same("xdpyinfo")
	// The server and its client share memory by its number.
	if got := s.may(s.m.Alice, inSession("uplane run steam -- x11perf -shmput100 -repeat 1 -reps 100")); !strings.Contains(got, "ShmPutImage 100x100 square") {
		s.Errorf("shared memory with the X server: %s", got)
	}
	if r := s.as(s.m.Alice, inSession("uplane run steam -- env XAUTHORITY=/dev/null xdpyinfo")); r.code == 0 {
		s.Error("the X server wants no cookie")
	}
	s.stops("xclock")
}

// stops ends what runs in the lane, of which one is a program of that name.
func (s *windowTest) stops(program string) {
	s.Helper()
	if got := s.may(s.m.Alice, "uplane ps steam"); !strings.Contains(got, program) {
		s.Errorf("no %s among\n%s", program, got)
	}
	s.may(s.m.Alice, "uplane stop steam")
	s.noUnits()
	if got := s.may(s.m.Alice, "uplane ps steam"); got != "LANE  PID  USER  SINCE  COMMAND\n" {
		s.Errorf("after stop:\n%s", got)
	}
}

// browses has a browser outside of the lane and one in it, with sandboxes of their own. They ask for names by themselves, too.
func (s *windowTest) browses() {
	const browser = "chromium --ozone-platform=x11 --disable-gpu --disable-quic --no-first-run --disable-background-networking " +
		"--disable-component-update --disable-sync --window-size=510,768 --user-data-dir=$HOME/%s --window-position=%d,0 http://whoami.test:%d/"
	queries := len(s.m.Inet.Queries())
	s.start("chromium-outside", fmt.Sprintf(browser, "outside", 0, pagePort))
	s.start("chromium-inside", "uplane run steam -- "+fmt.Sprintf(browser, "inside", 513, pagePort))
	s.sideBySide("chromium", shootX)

	wifi, wire := s.m.Wifi.Public, s.m.Wire.Public
	s.mu.Lock()
	if !slices.Contains(s.clients, wifi) || !slices.Contains(s.clients, wire) {
		s.Errorf("the page was asked for by %v", s.clients)
	}
	s.mu.Unlock()
	asked := map[lab.Query]bool{}
	for _, q := range s.m.Inet.Queries()[queries:] {
		asked[lab.Query{Name: q.Name, Server: q.Server, From: netip.AddrPortFrom(q.From.Addr(), 0)}] = true
	}
	for server, from := range map[netip.Addr]netip.Addr{lab.WifiDNS: wifi, lab.WireDNS: wire} {
		if !asked[lab.Query{Name: "whoami.test", Server: server, From: netip.AddrPortFrom(from, 0)}] {
			s.Errorf("%v was not asked for the page's name: %v", server, asked)
		}
	}

	// What shows pages in the lane has users and processes of its own, and a filter of system calls.
	const show = `for p in $(pgrep -x chromium); do
		grep -q /uplane-run- /proc/$p/cgroup && tr '\0' ' ' </proc/$p/cmdline | grep -q -e --type=renderer &&
			echo $(readlink /proc/$p/ns/user /proc/$p/ns/pid) $(sed -n 's/^Seccomp://p' /proc/$p/status)
	done; :`
	host := strings.Fields(s.sh("readlink /proc/self/ns/user /proc/self/ns/pid"))
	renderers := strings.Split(s.sh(show), "\n")
	for _, renderer := range renderers {
		if is := strings.Fields(renderer); len(is) != 3 || is[0] == host[0] || is[1] == host[1] || is[2] != "2" {
			s.Errorf("a renderer is without a sandbox: %q; the machine's namespaces are %v", renderers, host)
		}
	}
	if got := s.shTry("pgrep -a -x chromium | grep -e --no-sandbox"); got.code == 0 {
		s.Errorf("without sandbox: %s", got.out)
	}
	s.stops("chromium")
	s.sh("pkill -x chromium; while pgrep -x chromium; do sleep 0.1; done >/dev/null")
}

// showsWaylandWindow has terminals that colour themselves by what the internet says of a program in them.
func (s *windowTest) showsWaylandWindow() {
	s.write("/home/alice/colour", fmt.Sprintf(`
address=$(%s)
case $address in
	%v) colour=%s ;;
	%v) colour=%s ;;
	*) colour=%s ;;
esac
printf '\033]11;#%%s\033\\the internet sees %%s\n' $colour $address
exec sleep 1000`, ask, s.m.Wifi.Public, hex(byWifi), s.m.Wire.Public, hex(byWire), hex(byOther)))
	tree := func(name string) bool {
		return strings.Contains(s.may(s.m.Alice, inSession("swaymsg --type get_tree")), `"name": "`+name+`"`)
	}
	s.start("foot-outside", "foot --title=outside sh colour")
	s.until("the terminal outside", func() bool { return tree("outside") })
	s.start("foot-inside", "uplane run steam -- foot --title=inside sh colour")
	s.until("the terminal in the lane", func() bool { return tree("inside") })
	s.sideBySide("foot", shootWayland)
	s.stops("foot")
	s.sh("pkill -x foot")
}

func hex(c color.RGBA) string { return fmt.Sprintf("%02x%02x%02x", c.R, c.G, c.B) }

func (s *windowTest) plays() {
	s.same("pactl info | grep -v '^Client Index'; pactl list short sinks; pw-cli info 0")
	s.start("pacat", "uplane run steam -- pacat --raw --client-name=from-the-lane /dev/zero")
	s.until("the sound server plays it", func() bool {
		return strings.Contains(s.may(s.m.Alice, "pactl list sink-inputs"), `"from-the-lane"`)
	})
	s.stops("pacat")
}

func (s *windowTest) callsSession() {
	s.same("busctl --user call org.freedesktop.DBus / org.freedesktop.DBus GetId; systemctl --user show-environment")
	s.same("busctl --user call org.freedesktop.portal.Desktop /org/freedesktop/portal/desktop org.freedesktop.portal.Settings Read ss org.freedesktop.appearance color-scheme")
	s.may(s.m.Alice, "dconf write /lab/outside 1; uplane run steam -- dconf write /lab/inside 2")
	if got := s.may(s.m.Alice, "uplane run steam -- dconf read /lab/outside; dconf read /lab/inside"); got != "1\n2\n" {
		s.Errorf("settings: %q", got)
	}
}

func (s *windowTest) sharesFiles() {
	s.same("fc-list | sort; fc-match monospace")
	// A card that is for who sits there, as logind gives it, and one that is not. Behind both is /dev/net/tun, which can be opened.
	s.sh("mkdir /dev/dri; mknod -m 660 /dev/dri/card0 c 10 200; mknod -m 660 /dev/dri/renderD128 c 10 200; setfacl --modify user:alice:rw /dev/dri/renderD128")
	got := s.same(`find /dev -path /dev/pts -prune -o -printf '%p %y %m %u %g %T@\n' | sort; getfacl --absolute-names /dev/dri/*
		for card in /dev/dri/*; do (exec 3<>$card && echo $card can be opened) 2>&1; done`)
	if !strings.Contains(got, "/dev/dri/renderD128 can be opened\n") || strings.Contains(got, "/dev/dri/card0 can be opened\n") {
		s.Errorf("cards:\n%s", got)
	}
	s.may(s.m.Alice, "echo 1 >/dev/shm/outside; uplane run steam -- sh -c 'cat /dev/shm/outside; echo 2 >/dev/shm/inside' >shm; cat /dev/shm/inside >>shm")
	if got = s.sh("cat /home/alice/shm"); got != "1\n2" {
		s.Errorf("/dev/shm: %q", got)
	}
	// A disk that is plugged in later.
	s.start("disk", "uplane run steam -- sh -c 'touch waits; until cat /mnt/game; do sleep 0.1; done; sleep 1000'")
	s.until("the program waits", func() bool { return s.shTry("test -e /home/alice/waits").code == 0 })
	s.sh("mount -t tmpfs disk /mnt; echo a game >/mnt/game")
	s.until("the disk is there", func() bool { return strings.Contains(s.sh("cat /home/alice/disk.log"), "a game") })
	s.stops("sleep 1000")
	s.sh("umount /mnt")
}

// nests has a program that makes a sandbox, of all kinds of namespaces.
func (s *windowTest) nests() {
	const sandbox = "bwrap --unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup --ro-bind / / --proc /proc --dev /dev "
	s.same(sandbox + "sh -c 'ps -e --format args=; id; ls /; touch /etc/x 2>&1; ls /dev'")
	if got := s.may(s.m.Alice, "uplane run steam -- "+sandbox+ask); strings.TrimSpace(got) != s.m.Wifi.Public.String() {
		s.Errorf("from a sandbox in the lane the internet sees %q", got)
	}
	s.same("bwrap --unshare-all --die-with-parent --ro-bind / / --proc /proc --dev /dev cat /proc/net/dev")
}

// runsContainer does as Steam: a script starts itself again, then a container of its own files, in which
// a launcher leaves a game behind.
func (s *windowTest) runsContainer() {
	s.write("/home/alice/steam", `
case $1 in
	'') exec sh "$0" again ;;
	again) exec bwrap --unshare-user --tmpfs / --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
		--proc /proc --dev-bind /dev /dev --ro-bind /etc/resolv.conf /etc/resolv.conf --bind "$HOME" "$HOME" sh "$0" launcher ;;
	launcher) (setsid sh "$0" game &) ;;
	game) `+strings.ReplaceAll(ask, lab.WhoamiAddr.String(), "whoami.test")+` >answer; cat /etc/resolv.conf >resolver; mv answer seen; exec sleep 4321 ;;
esac`)
	queries := len(s.m.Inet.Queries())
	s.may(s.m.Alice, "uplane run steam -- sh steam >steam.log 2>&1")
	s.until("the game runs", func() bool { return s.shTry("test -e /home/alice/seen && pgrep -x -f 'sleep 4321'").code == 0 })
	if got := s.sh("cat /home/alice/seen"); got != s.m.Wifi.Public.String() {
		s.Errorf("from the container the internet sees %q", got)
	}
	for _, q := range s.m.Inet.Queries()[queries:] {
		if q.Server != lab.WifiDNS || q.From.Addr() != s.m.Wifi.Public {
			s.Errorf("the wrong server, or by the wrong way: %+v", q)
		}
	}
	if got := s.sh("cat /home/alice/resolver"); !strings.Contains(got, "nameserver "+lab.WifiDNS.String()) {
		s.Errorf("its resolv.conf:\n%s", got)
	}
	if got := s.sh("ps -o ppid= -p $(pgrep -x -f 'sleep 4321')"); strings.TrimSpace(got) != "1" {
		s.Errorf("the game's parent is process %s", got)
	}
	if got := s.sh("readlink /proc/1/ns/user /proc/$(pgrep -x -f 'sleep 4321')/ns/user | uniq | wc -l"); got != "2" {
		s.Error("the game is in no container")
	}
	s.stops("sleep 4321")
	if got := s.shTry("pgrep -x -f 'sleep 4321'"); got.code == 0 {
		s.Error("the game goes on")
	}
}
