package system

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/internal/api"
	"uplane/test/lab"
)

// TestDBus drives lanes as a desktop would.
func TestDBus(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	conn, err := dbus.Connect(s.world.Host.DBusAddress(), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.AddMatchSignal(dbus.WithMatchSender(api.Name)); err != nil {
		t.Fatal(err)
	}
	signals := make(chan *dbus.Signal, 1000)
	conn.Signal(signals)
	call := func(path dbus.ObjectPath, method string, args ...any) *dbus.Call {
		return conn.Object(api.Name, path).Call(method, 0, args...)
	}
	var lane dbus.ObjectPath
	if err := call(api.Path, api.ManagerInterface+".Up", "a-b", map[string]any{"uplink": lab.WiFi, "mark": 7}).Store(&lane); err != nil {
		t.Fatal(err)
	}
	if lane != "/org/uplane/Uplane1/lanes/a_2db" {
		t.Errorf("the lane is %s", lane)
	}
	s.wait("a-b", isState("up"))
	s.leavesBy("a-b", s.world.Wifi.Public)

	// The signals alone tell what the properties are.
	told := map[string]dbus.Variant{}
	hear := func(until func() bool, what string) {
		t.Helper()
		for deadline := time.After(10 * time.Second); !until(); {
			select {
			case sig := <-signals:
				switch {
				case strings.HasSuffix(sig.Name, ".InterfacesAdded"):
					told = sig.Body[1].(map[string]map[string]dbus.Variant)[api.LaneInterface]
				case strings.HasSuffix(sig.Name, ".PropertiesChanged") && sig.Path == lane:
					for k, v := range sig.Body[1].(map[string]dbus.Variant) {
						told[k] = v
					}
				case strings.HasSuffix(sig.Name, ".InterfacesRemoved"):
					told = nil
				}
			case <-deadline:
				t.Fatalf("never told: %s; but %v", what, told)
			}
		}
	}
	hear(func() bool { return told["State"].Value() == "up" }, "the lane is up")
	s.sh("nmcli device disconnect wlp6s0")
	hear(func() bool { return told["State"].Value() == "waiting" }, "the lane waits")
	if got := fmt.Sprint(told["Uplink"].Value(), told["Gateways"].Value()); got != "map[] []" {
		t.Errorf("while it waits it has %s", got)
	}
	s.sh("nmcli connection up homewifi")
	hear(func() bool {
		return told["State"].Value() == "up" && fmt.Sprint(told["Gateways"].Value()) == "[192.168.50.1]"
	}, "the lane is up again")
	var all map[string]dbus.Variant
	if err := call(lane, "org.freedesktop.DBus.Properties.GetAll", api.LaneInterface).Store(&all); err != nil || plain(all) != plain(told) {
		t.Errorf("properties are\n%v\nand the signals said\n%v: %v", all, told, err)
	}

	s.wire.Stop() // the lane leaves by the wire now
	s.wire = nil
	if err := call(lane, api.LaneInterface+".SetUplink", []string{"connection:none", "interface:" + lab.Wired}).Err; err != nil {
		t.Fatal(err)
	}
	s.wait("a-b", func(l lab.LaneStatus) bool { return l.Uplink.Interface == lab.Wired })
	s.leavesBy("a-b", s.world.Wire.Public)
	if got := s.sh("cat /etc/uplane/lanes.d/a-b.toml"); !strings.Contains(got, `uplink = ["connection:none", "interface:enp7s0"]`) {
		t.Errorf("the file:\n%s", got)
	}
	for method, kind := range map[string]api.Kind{"SetUplink": api.InvalidArgument, "Up": "", "Down": ""} {
		args := []any{}
		if method == "SetUplink" {
			args = append(args, []string{"nonsense:x"})
		}
		err := call(lane, api.LaneInterface+"."+method, args...).Err
		if e, ok := err.(dbus.Error); kind == "" && err != nil || kind != "" && (!ok || !strings.HasSuffix(e.Name, ".Error."+string(kind))) {
			t.Errorf("%s: %#v", method, err)
		}
	}
	if err := call(api.Path, api.ManagerInterface+".Remove", "a-b").Err; err != nil {
		t.Fatal(err)
	}
	hear(func() bool { return told == nil }, "the lane is gone")
}

// TestOthersNeedPolkit has no polkit: then only root may.
func TestOthersNeedPolkit(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.sh("rm -f /usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service; busctl call org.freedesktop.DBus / org.freedesktop.DBus ReloadConfig")
	for _, command := range []string{"list", "status", "up steam --uplink wlp6s0", "down steam", "remove steam", "reload", "plan steam"} {
		r := s.shTry("setpriv --reuid 65534 --regid 65534 --clear-groups uplane " + command + "; exit $?")
		s.requireFailure(r, 1, "permission denied", "polkit is not there", "sudo")
	}
	if out := s.sh("ls /etc/uplane/lanes.d 2>/dev/null || :"); out != "" {
		t.Errorf("made %s", out)
	}
}

// TestOthersWithPolkit has the real one, started by the bus, in a world without
// sessions: who asks is neither active nor local.
func TestOthersWithPolkit(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	if r := s.shTry("ls /usr/lib/polkit-1/polkitd"); r.code != 0 {
		lab.Lacks(t, "needs polkitd, which \"make setup\" installs")
	}
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.run("up", "second", "--uplink", lab.WiFi)
	nobody := func(command string) result {
		return s.shTry("setpriv --reuid 65534 --regid 65534 --clear-groups uplane " + command + "; exit $?")
	}
	if r := nobody("list"); r.code != 0 || !strings.Contains(r.out, "steam") {
		t.Errorf("list: %+v", r)
	}
	for _, command := range []string{"up steam", "down steam", "remove steam", "reload", "up third --uplink wlp6s0"} {
		s.requireFailure(nobody(command), 1, "permission denied", "polkit wants a password")
	}
	// The administrator's rules see which lane it is about.
	s.sh("mkdir -p /etc/polkit-1/rules.d")
	s.write("/etc/polkit-1/rules.d/10-uplane.rules", `polkit.addRule(function(action, subject) {
		if (action.id == "org.uplane.lanes.use" && action.lookup("lane") == "steam" && subject.user == "nobody")
			return polkit.Result.YES;
	});`)
	waitFor(t, func() bool { return nobody("down steam").code == 0 }, "polkit has read the rule")
	s.wait("steam", isState("down"))
	s.requireFailure(nobody("down second"), 1, "permission denied")
	s.requireFailure(nobody("up steam --mark 7"), 1, "permission denied", "org.uplane.lanes.manage")
}

// TestService has the daemon talk to a service manager.
func TestService(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.writeLane("steam", `uplink = "wlp6s0"`)
	s.run("reload")
	s.wait("steam", isState("up"))
	s.uplane.Kill()
	s.sh("ip rule del priority 40000") // so there is something to converge

	path := s.world.Host.Path("/run/notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	hear := func() string {
		t.Helper()
		b := make([]byte, 1000)
		if err := socket.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := socket.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	heard := func(want string) {
		t.Helper()
		for {
			got := hear()
			if regexp.MustCompile("^" + want + "$").MatchString(got) {
				return
			}
			if got != "WATCHDOG=1" {
				t.Fatalf("it says %q, not %q", got, want)
			}
		}
	}
	daemon, err := s.world.Host.Start("sh", "-c", "NOTIFY_SOCKET=/run/notify WATCHDOG_USEC=200000 exec uplaned")
	if err != nil {
		t.Fatal(err)
	}
	heard("READY=1")
	if got := s.sh("ip rule show priority 40000"); !strings.Contains(got, "lookup 100") {
		t.Errorf("ready without the rule: %s", got)
	}
	s.run("list") // the bus's name is there, too
	for range 3 {
		heard("WATCHDOG=1")
	}
	s.writeLane("second", `uplink = "wlp6s0"`)
	if err := daemon.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	heard(`RELOADING=1\nMONOTONIC_USEC=[0-9]+`)
	heard("READY=1")
	s.wait("second", isState("up"))
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	heard("STOPPING=1")
	if err := daemon.Wait(); err != nil {
		t.Errorf("the daemon ends with %v", err)
	}
	s.leavesBy("steam", s.world.Wifi.Public)
}

// TestResume loses a change of the kernel, as a suspended machine may, and wakes up.
func TestResume(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.write("/usr/share/dbus-1/system.d/login1-test.conf",
		`<busconfig><policy user="root"><allow own="org.freedesktop.login1"/></policy></busconfig>`)
	s.sh("busctl call org.freedesktop.DBus / org.freedesktop.DBus ReloadConfig")
	conn, err := dbus.Connect(s.world.Host.DBusAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.RequestName("org.freedesktop.login1", dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	if err := conn.Emit("/org/freedesktop/login1", "org.freedesktop.login1.Manager.PrepareForSleep", false); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(s.uplane.Log(), "woken up") }, "the daemon looks at everything again")
}

// example is a fenced block of docs/dbus.md, and what is said to come of it.
type example struct{ kind, script, want string }

var exampleBlock = regexp.MustCompile("(?s)```(sh|python)\n(.*?)```\n(?:\n```\n(.*?)```\n)?")

func examples(t *testing.T) (all []example) {
	t.Helper()
	text, err := os.ReadFile("../../docs/dbus.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range exampleBlock.FindAllStringSubmatch(string(text), -1) {
		all = append(all, example{block[1], block[2], block[3]})
	}
	if len(all) < 5 {
		t.Fatalf("only %d examples", len(all))
	}
	return all
}

// check compares what the example's script did with what the page says.
func (e example) check(t *testing.T, r result) {
	t.Helper()
	if r.code != 0 {
		t.Errorf("%s\nends with %d: %s%s", e.script, r.code, r.out, r.err)
		return
	}
	for line := range strings.Lines(e.want) {
		if line = strings.TrimSpace(line); line != "…" && !strings.Contains(r.out, line) {
			t.Errorf("%s\nprints\n%s\nwithout\n%s", e.script, r.out, line)
		}
	}
}

// TestExamples runs what docs/dbus.md shows.
func TestExamples(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	if r := s.shTry("busctl --version && gdbus help && /usr/bin/python3 -c 'import dbus'"); r.code != 0 && os.Getenv("CI") != "true" {
		t.Skipf("needs what \"make setup\" installs: %s", r.err)
	}
	s.wire.Stop() // an example leaves by the wire
	s.wire = nil
	for _, e := range examples(t) {
		script := e.script
		if e.kind == "python" {
			s.write("/run/example.py", script)
			// Debian's interpreter, whatever comes first in PATH here.
			script = "/usr/bin/python3 /run/example.py"
		}
		e.check(t, s.shTry("set -e\n"+script+"\nexit $?"))
	}
}

// plain is what properties are, without the types of empty lists, which signals and answers name differently.
func plain(properties map[string]dbus.Variant) string {
	values := map[string]any{}
	for name, v := range properties {
		values[name] = v.Value()
	}
	return fmt.Sprint(values)
}
