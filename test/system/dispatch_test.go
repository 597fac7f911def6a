package system

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/vishvananda/netlink"

	"uplane/dispatcher"
	"uplane/test/lab"
)

const (
	nmIPCheck   = 80 // NM_DEVICE_STATE_IP_CHECK, in which pre-up scripts run
	nmActivated = 100
)

// dispatched is a site with our dispatcher scripts, and a lane that leaves by the Wi-Fi.
func dispatched(t *testing.T) *site {
	s := newSite(t, lab.Plain, lab.Options{})
	s.longer(2 * time.Minute)
	if err := s.uplane.InstallDispatcher(); err != nil {
		t.Fatal(err)
	}
	s.hastenScripts()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the bus and the dispatcher:\n%s", s.world.Host.Log("dbus-daemon"))
		}
	})
	s.run("up", "steam", "--uplink", lab.WiFi)
	return s
}

// hastenScripts has our scripts not sleep a second before they end, as programs with the race detector do:
// nm-dispatcher passes no environment on.
func (s *site) hastenScripts() {
	s.Helper()
	s.sh("sed -i 's,^exec,exec env GORACE=atexit_sleep_ms=0,' /usr/lib/NetworkManager/dispatcher.d/50-uplane /usr/lib/NetworkManager/dispatcher.d/pre-up.d/50-uplane")
}

// moments hears how NetworkManager's device of the Wi-Fi changes its state, and looks
// at that moment where the lane leaves.
type moments struct {
	stop func() // hear no more
	mu   sync.Mutex
	seen map[uint32]moment // by state; the last
}

type moment struct {
	at    time.Time
	ready bool // the lane's table has the uplink's default
}

func (s *site) watchStates() *moments {
	s.Helper()
	conn, err := dbus.Connect(s.world.Host.DBusAddress(), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		s.Fatal(err)
	}
	path := s.sh("nmcli -g GENERAL.DBUS-PATH device show " + lab.WiFi)
	err = conn.AddMatchSignal(dbus.WithMatchInterface("org.freedesktop.NetworkManager.Device"),
		dbus.WithMatchMember("StateChanged"), dbus.WithMatchObjectPath(dbus.ObjectPath(path)))
	if err != nil {
		s.Fatal(err)
	}
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	m := &moments{seen: map[uint32]moment{}}
	ended := make(chan struct{})
	m.stop = func() { conn.Close(); <-ended }
	s.Cleanup(m.stop)
	go func() {
		defer close(ended)
		for sig := range signals {
			now := moment{time.Now(), s.ready()}
			m.mu.Lock()
			m.seen[sig.Body[0].(uint32)] = now
			m.mu.Unlock()
		}
	}()
	return m
}

func (m *moments) get(state uint32) moment {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen[state]
}

func (m *moments) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.seen)
}

// ready tells whether the kernel sends the lane's packets out by the Wi-Fi now.
func (s *site) ready() (yes bool) {
	err := s.world.Host.Do(func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: 100}, netlink.RT_FILTER_TABLE)
		for _, r := range routes {
			yes = yes || r.Gw != nil && r.Dst != nil && r.Dst.String() == "0.0.0.0/0"
		}
		return err
	})
	return err == nil && yes
}

// disconnect takes the Wi-Fi down, and waits until the dispatcher has said so to everybody.
func (s *site) disconnect() {
	s.Helper()
	s.sh("nmcli device disconnect " + lab.WiFi)
	waitFor(s.T, func() bool { return !s.ready() && s.shTry("pgrep -f '[u]plane dispatch'").code != 0 }, "the Wi-Fi is down")
}

// connect brings the Wi-Fi up, checks that the lane was ready when NetworkManager called it
// activated, and returns how long it took.
func (s *site) connect(m *moments) time.Duration {
	s.Helper()
	m.forget()
	start := time.Now()
	s.sh("nmcli connection up homewifi")
	took := time.Since(start)
	waitFor(s.T, func() bool { return !m.get(nmActivated).at.IsZero() }, "NetworkManager says activated")
	if !m.get(nmActivated).ready {
		s.Errorf("activated, but the lane has no way out yet")
	}
	return took
}

func (s *site) signal(sig syscall.Signal) {
	s.Helper()
	if err := syscall.Kill(s.uplane.PID(), sig); err != nil {
		s.Fatal(err)
	}
}

// TestPreUp has NetworkManager wait for a lane, and no longer than it should.
func TestPreUp(t *testing.T) {
	s := dispatched(t)
	m := s.watchStates()
	for range 3 {
		s.disconnect()
		took := s.connect(m)
		t.Logf("up in %v, of which %v in pre-up", took, m.get(nmActivated).at.Sub(m.get(nmIPCheck).at))
	}
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.world.Wifi.Public)

	// A daemon that is late: NetworkManager waits for it.
	s.disconnect()
	m.forget()
	s.signal(syscall.SIGSTOP)
	up := s.world.Host.CommandContext(s.ctx, "nmcli", "connection", "up", "homewifi")
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return !m.get(nmIPCheck).at.IsZero() }, "pre-up begins")
	time.Sleep(time.Second) // there is nothing to wait for: nothing happens
	if !m.get(nmActivated).at.IsZero() {
		t.Error("activated before the daemon had its say")
	}
	late := time.Now()
	s.signal(syscall.SIGCONT)
	if err := up.Wait(); err != nil {
		t.Errorf("nmcli connection up: %v", err)
	}
	waitFor(t, func() bool { return !m.get(nmActivated).at.IsZero() }, "NetworkManager says activated")
	if !m.get(nmActivated).ready {
		t.Error("activated, but the lane has no way out yet")
	}
	t.Logf("activated %v after the daemon went on", m.get(nmActivated).at.Sub(late))

	// A daemon that hangs: NetworkManager goes on without it.
	s.disconnect()
	m.forget()
	s.signal(syscall.SIGSTOP)
	start := time.Now()
	s.sh("nmcli connection up homewifi")
	waitFor(t, func() bool { return !m.get(nmActivated).at.IsZero() }, "NetworkManager says activated")
	held := m.get(nmActivated).at.Sub(m.get(nmIPCheck).at)
	if held < dispatcher.Limit-time.Second || held > dispatcher.Limit+time.Second {
		t.Errorf("a daemon that hangs holds NetworkManager for %v, not %v", held, dispatcher.Limit)
	}
	t.Logf("up in %v with a daemon that hangs, of which %v in pre-up", time.Since(start), held)
	s.signal(syscall.SIGCONT)
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.world.Wifi.Public)
}

// TestPreUpOfOthers has NetworkManager connect what no lane waits for: it takes no time.
func TestPreUpOfOthers(t *testing.T) {
	s := dispatched(t)
	s.sh("nmcli connection modify homewifi ipv4.never-default yes; nmcli connection up homewifi")
	s.wait("steam", isState("waiting"))
	for _, profile := range []string{"homewifi", "wired"} {
		start := time.Now()
		s.sh("nmcli connection up " + profile)
		if took := time.Since(start); took > dispatcher.Limit-time.Second {
			t.Errorf("%s takes %v", profile, took)
		}
	}
}

// TestWithoutDaemon has no daemon, and none that could be started: the dispatcher alone
// keeps the lane.
func TestWithoutDaemon(t *testing.T) {
	s := dispatched(t)
	m := s.watchStates()
	s.uplane.Kill()
	s.disconnect()
	s.failsAtOnce("steam")
	s.connect(m)
	s.leavesBy("steam", s.world.Wifi.Public)

	// A lane that was written by hand is there with the next event.
	s.writeLane("second", "uplink = \"connection:homewifi\"\n")
	s.disconnect()
	t.Logf("up in %v", s.connect(m))
	s.leavesBy("second", s.world.Wifi.Public)

	// Another gateway: the event's environment has the old one.
	s.sh("nmcli device modify wlp6s0 ipv4.gateway 192.168.50.2 ipv4.method manual ipv4.addresses 192.168.50.78/24")
	waitFor(t, func() bool { return strings.Contains(s.sh("ip route show table 100"), "default via 192.168.50.2") }, "the lane follows")
	s.leavesBy("steam", s.world.Wifi2.Public)

	// A lane whose file goes, goes.
	s.sh("rm /etc/uplane/lanes.d/second.toml; nmcli connection up homewifi")
	if got := s.sh("ip netns"); strings.Contains(got, "second") {
		t.Errorf("namespaces:\n%s", got)
	}
	if got := s.sh("pgrep -x uplaned || echo none"); got != "none" {
		t.Errorf("a daemon runs: %s", got)
	}
}

// TestActivation has no daemon, but one that the bus can start.
func TestActivation(t *testing.T) {
	s := dispatched(t)
	m := s.watchStates()
	s.uplane.Kill()
	s.sh("mkdir -p /usr/share/dbus-1/system-services")
	s.write("/usr/share/dbus-1/system-services/org.uplane.Uplane1.service", "[D-BUS Service]\nName=org.uplane.Uplane1\nExec=/usr/sbin/uplaned\nUser=root\n")
	s.sh("busctl call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig || dbus-send --system --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ReloadConfig")
	s.sh("nmcli device disconnect " + lab.WiFi)
	waitFor(t, func() bool { return s.shTry("pgrep -x uplaned").code == 0 }, "the event starts the daemon")
	s.connect(m)
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.world.Wifi.Public)

	// One that is installed but does not start.
	s.sh("rm /usr/sbin/uplaned; printf '#!/bin/sh\\nexit 1\\n' > /usr/sbin/uplaned; chmod 755 /usr/sbin/uplaned; kill $(pgrep -x uplaned)")
	s.disconnect()
	s.connect(m)
	s.leavesBy("steam", s.world.Wifi.Public)

	// One that starts and never comes onto the bus: nobody waits for it any longer than for one that hangs.
	s.sh("printf '#!/bin/sh\\nexec sleep 1000\\n' > /usr/sbin/uplaned")
	s.disconnect()
	if took := s.connect(m); took > dispatcher.Limit+time.Second {
		t.Errorf("up in %v", took)
	}
	s.leavesBy("steam", s.world.Wifi.Public)
}

// TestApply runs uplane apply by hand.
func TestApply(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	before := s.traces()
	s.writeLane("steam", "uplink = \""+lab.WiFi+"\"\n")
	s.requireFailure(s.uplaneTry("apply"), 1, "uplane: apply: the daemon is running", "try: uplane reload")
	if got := s.sh("ip netns"); got != "" {
		t.Errorf("apply beside the daemon made %s", got)
	}
	s.uplane.Kill()
	if got := s.run("apply"); got != "lane steam is up by wlp6s0" {
		t.Errorf("apply says %q", got)
	}
	s.leavesBy("steam", s.world.Wifi.Public)
	events := s.watchWrites()
	s.run("apply")
	if got := events(); got != "" {
		t.Errorf("a second apply writes:\n%s", got)
	}

	// Several at once take turns.
	s.sh("ip route flush table 100; for i in 1 2 3 4; do uplane apply & p=\"$p $!\"; done; for i in $p; do wait $i; done")
	s.leavesBy("steam", s.world.Wifi.Public)

	// A daemon that is not on the bus has the lock.
	daemon := s.world.Host.CommandContext(s.ctx, "uplaned")
	daemon.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.HasPrefix(s.sh("cat /run/uplane/lock"), "uplaned ") }, "the daemon has the lock")
	s.requireFailure(s.uplaneTry("apply"), 1, "the daemon is running")
	s.requireFailure(s.try("uplaned"), 1, "another uplaned is running")
	_ = daemon.Process.Kill()
	_ = daemon.Wait()

	s.writeLane("bad", "uplnk = 1\n")
	r := s.uplaneTry("apply")
	if r.code != 1 || !strings.Contains(r.out, "lane bad is error") || !strings.Contains(r.out, "lane steam is up") || !strings.Contains(r.err, "1 of 2 lanes in error") {
		t.Errorf("a broken lane: %+v", r)
	}
	s.sh("rm /etc/uplane/lanes.d/bad.toml")

	// Without NetworkManager a lane keeps its last uplink.
	s.world.KillNM()
	if got := s.run("apply"); !strings.HasPrefix(got, "lane steam is degraded by wlp6s0: NetworkManager is not running") {
		t.Errorf("apply says %q", got)
	}
	s.leavesBy("steam", s.world.Wifi.Public)
	if err := s.world.StartNM(s.ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.world.WaitActive(s.ctx, "homewifi"); err != nil {
		t.Fatal(err)
	}
	s.sh("rm /etc/uplane/lanes.d/steam.toml")
	s.run("apply")
	s.sh("rmdir /etc/uplane/lanes.d")
	requireSame(t, before, s.traces())
}

// TestDispatchNeverFails calls the command as no dispatcher would.
func TestDispatchNeverFails(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.run("up", "steam", "--uplink", lab.WiFi)
	for _, args := range []string{
		"", "wlp6s0", "up", "wlp6s0 up more", "-- up", "--help up", "wlp6s0 no-such-action", "none hostname",
		"nosuch0 up", "'' up", "'$(reboot)' up", "../../x pre-up", "wlp6s0 ''", "lo down", "wlp6s0 pre-up", "wlp6s0 dhcp4-change",
	} {
		for _, env := range []string{
			"", "CONNECTION_UUID=x DEVICE_IP_IFACE=..", "IP4_GATEWAY=999.1.1.1 IP4_NUM_ADDRESSES=99999999999 IP4_ADDRESS_0=x",
			"CONNECTION_ID=\"$(printf '\\033[2J\\377')\" DHCP4_ROUTERS=\"$(yes 1.2.3.4 | head -n 9999 | tr '\\n' ' ')\"",
		} {
			line := fmt.Sprintf("env %s uplane dispatch %s", env, args)
			start := time.Now()
			if r := s.shTry(line); r.code != 0 || r.out != "" || strings.Contains(r.err, "panic") {
				t.Errorf("%s: %+v", line, r)
			}
			if took := time.Since(start); took > dispatcher.Limit-time.Second {
				t.Errorf("%s: takes %v", line, took)
			}
		}
	}
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.world.Wifi.Public)
	// Nobody on the bus, no bus.
	s.uplane.Kill()
	if r := s.shTry("DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent uplane dispatch wlp6s0 up"); r.code != 0 {
		t.Errorf("without a bus: %+v", r)
	}
}
