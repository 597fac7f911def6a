package lab

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// machineTest is a machine that lives through a test's steps, one after the other.
type machineTest struct {
	*testing.T
	ctx    context.Context
	m      *Machine
	uplane *Uplane
}

func TestMachine(t *testing.T) {
	t.Parallel()
	RequireRoot(t)
	bin := t.TempDir()
	if err := Build(bin); err != nil {
		t.Fatal(err)
	}
	for _, release := range []Debian{Bookworm, Trixie} {
		t.Run(string(release), func(t *testing.T) {
			t.Parallel()
			before := mounts(t)
			ctx, m := StartMachine(t, release, Plain, Options{})
			t.Logf("booted in %v", m.BootTime)
			s := &machineTest{T: t, ctx: ctx, m: m}
			s.connects()
			s.knowsItsUsers()
			s.makesALane(bin)
			s.stopsTheDaemon()
			if release == Bookworm { // see RestartBus
				s.restartsTheBus()
			}
			s.reboots()
			s.leavesNothing(before)
		})
	}
}

// sh runs a script on the host, which must succeed.
func (s *machineTest) sh(script string) string {
	s.Helper()
	out, err := s.m.Host.RunContext(s.ctx, "sh", "-ec", script)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// connects has NetworkManager connect both cards, and its dispatcher tell of it.
func (s *machineTest) connects() {
	s.sh(`printf '#!/bin/sh\necho "$1 $2" >>/run/events\n' >/etc/NetworkManager/dispatcher.d/50-test
		chmod 755 /etc/NetworkManager/dispatcher.d/50-test`)
	if err := s.m.Connect(s.ctx); err != nil {
		s.Fatal(err)
	}
	expectWhoami(s.ctx, s.T, s.m.World, "", WirePublic)
	expectWhoami(s.ctx, s.T, s.m.World, WiFi, WifiPublic)
	bus, err := dbus.Connect(s.m.Host.DBusAddress())
	if err != nil {
		s.Fatal(err)
	}
	defer bus.Close()
	version, err := bus.Object("org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager").
		GetProperty("org.freedesktop.NetworkManager.Version")
	s.Logf("NetworkManager %v, %v", version, err)
	for _, card := range []string{Wired, WiFi} {
		if err := poll(s.ctx, 20*time.Millisecond, func() error {
			_, err := s.m.Host.Run("grep", "-x", card+" up", "/run/events")
			return err
		}); err != nil {
			s.Error(err)
		}
	}
}

// knowsItsUsers: an active session may do what others need a password for.
func (s *machineTest) knowsItsUsers() {
	session, err := s.m.Alice.Run("sh", "-c", `id -un; pwd; loginctl show-session "$XDG_SESSION_ID" --property=Seat --property=Active; busctl --user status >/dev/null`)
	if want := "alice\n/home/alice\nSeat=seat0\nActive=yes"; err != nil || session != want {
		s.Errorf("alice's session is %q, want %q (%v)", session, want, err)
	}
	if sessions, err := s.m.Bob.Run("loginctl", "list-sessions"); err != nil || strings.Contains(sessions, "bob") {
		s.Errorf("bob's sessions: %s, %v", sessions, err)
	}
	const ask = "pkcheck --action-id org.freedesktop.login1.power-off --process $$"
	if out, err := s.m.Alice.Run("sh", "-c", ask); err != nil {
		s.Errorf("alice may not: %s, %v", out, err)
	}
	var exit *exec.ExitError
	if out, err := s.m.Bob.Run("sh", "-c", ask); !errors.As(err, &exit) || exit.ExitCode() == 127 {
		s.Errorf("bob may: %s, %v", out, err)
	}
}

// makesALane installs Uplane as its README says.
func (s *machineTest) makesALane(bin string) {
	var err error
	if s.uplane, err = s.m.Install(bin); err != nil {
		s.Fatal(err)
	}
	if err := s.uplane.Start(s.ctx); err != nil {
		s.Fatal(err)
	}
	if out, err := s.uplane.Run(s.ctx, "up", "steam", "--uplink", WiFi); err != nil {
		s.Fatal(out, err)
	}
	s.leavesByWiFi()
}

func (s *machineTest) leavesByWiFi() {
	s.Helper()
	lane, err := s.m.Host.Namespace("steam")
	if err != nil {
		s.Fatal(err)
	}
	wire, err := s.m.Host.Capture(Wired, func(p Packet) bool { return p.Dst == WhoamiAddr })
	if err != nil {
		s.Fatal(err)
	}
	if got, err := lane.Whoami(s.ctx); err != nil || got != WifiPublic {
		s.Errorf("the lane leaves by %v, want %v (%v)", got, WifiPublic, err)
	}
	if leaked, err := wire.Stop(); err != nil || len(leaked) > 0 {
		s.Errorf("by the wire left %v, %v", leaked, err)
	}
	if got, err := s.m.Host.Whoami(s.ctx); err != nil || got != WirePublic {
		s.Errorf("the host leaves by %v, want %v (%v)", got, WirePublic, err)
	}
}

// stopsTheDaemon stops and kills it; in the end systemd has started it again.
func (s *machineTest) stopsTheDaemon() {
	applied := s.uplane.Applied()
	if applied == 0 {
		s.Error("the journal does not have what the daemon logged")
	}
	s.sh("systemctl stop uplaned")
	s.leavesByWiFi()
	s.sh("systemctl start uplaned")
	s.uplane.Kill()
	s.leavesByWiFi()
	s.waitUp()
	if n := s.uplane.Applied(); n != applied {
		s.Errorf("%d writes to adopt what did not change", n-applied)
	}
}

// restartsTheBus takes D-Bus from all that has booted.
func (s *machineTest) restartsTheBus() {
	if err := s.m.RestartBus(s.ctx); err != nil {
		s.Fatal(err)
	}
	s.waitUp()
	s.leavesByWiFi()
}

func (s *machineTest) waitUp() {
	s.Helper()
	_, err := s.uplane.Wait(s.ctx, "steam", func(l LaneStatus) bool { return l.State == "up" })
	if err != nil {
		s.Fatal(err)
	}
}

// reboots: of the old network nothing is left, the lane is there by itself.
func (s *machineTest) reboots() {
	network := s.sh("readlink /proc/self/ns/net")
	start := time.Now()
	if err := s.m.Reboot(s.ctx); err != nil {
		s.Fatal(err)
	}
	s.Logf("rebooted in %v, the boot took %v", time.Since(start), s.m.BootTime)
	if s.sh("readlink /proc/self/ns/net") == network {
		s.Error("it is still the old network namespace")
	}
	s.waitUp()
	s.leavesByWiFi()
	if who, err := s.m.Alice.Run("id", "-un"); err != nil || who != "alice" {
		s.Errorf("alice is %q, %v", who, err)
	}
}

func (s *machineTest) leavesNothing(mountsBefore string) {
	names, cgroup := namespacesOf(s.T, s.m.World), filepath.Base(s.m.holder.cgroup)
	if !hasCgroup(cgroup) {
		s.Errorf("the check does not find control group %s while it is in use", cgroup)
	}
	if _, err := s.m.Host.Start("sleep", "1000"); err != nil { // nobody waits for it
		s.Fatal(err)
	}
	start := time.Now()
	if err := s.m.Close(); err != nil {
		s.Error(err)
	}
	s.Logf("closed in %v", time.Since(start))
	waitUnused(s.T, names)
	if hasCgroup(cgroup) {
		s.Errorf("control group %s is still there", cgroup)
	}
	if after := mounts(s.T); after != mountsBefore {
		s.Errorf("mounts changed from\n%s\nto\n%s", mountsBefore, after)
	}
}

// hasCgroup says whether there is a control group of this name somewhere.
func hasCgroup(name string) bool {
	found := false
	_ = filepath.WalkDir("/sys/fs/cgroup", func(_ string, d fs.DirEntry, err error) error {
		found = found || (err == nil && d.Name() == name)
		return nil // groups come and go while they are walked
	})
	return found
}

// TestMachineOfKilledCaller is [TestKilledCaller] for a machine.
func TestMachineOfKilledCaller(t *testing.T) {
	t.Parallel()
	names := killedCaller(t, func() []string {
		_, m := StartMachine(t, Bookworm, Plain, Options{})
		return append(namespacesOf(t, m.World), filepath.Base(m.holder.cgroup))
	})
	last := len(names) - 1
	waitUnused(t, names[:last])
	if err := poll(context.Background(), 20*time.Millisecond, func() error {
		if hasCgroup(names[last]) {
			return errors.New(names[last] + " is still there")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestMachineSettings: what a world's options say goes before what Debian ships.
func TestMachineSettings(t *testing.T) {
	t.Parallel()
	_, m := StartMachine(t, Trixie, Bare, Options{RPFilter: 1, NMLogLevel: "DEBUG"})
	out, err := m.Host.Run("sh", "-c", "cat /proc/sys/net/ipv4/conf/all/rp_filter; nmcli --get-values LEVEL general logging")
	if err != nil || out != "1\nDEBUG" {
		t.Errorf("got %q, %v", out, err)
	}
	if err := m.Reboot(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestBootSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	RequireRoot(t)
	if _, err := Boot(t.Context(), Bookworm, Plain, Options{NoNM: true}); err == nil {
		t.Error("a machine without NetworkManager")
	}
}
