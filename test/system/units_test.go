package system

import (
	"slices"
	"strings"
	"testing"
	"time"

	"uplane/internal/units"
	"uplane/test/lab"
)

// TestTargets has systemd's targets follow lanes. The systemd is a stand-in.
func TestTargets(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.run("up", "steam", "--uplink", lab.WiFi)
	systemd, err := lab.NewSystemd(s.world.Host.DBusAddress(), units.Target("other"), "sshd.service")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = systemd.Vanish() })
	are := func(what string, lanes ...string) {
		t.Helper()
		want := []string{"sshd.service"}
		for _, lane := range lanes {
			want = append(want, units.Target(lane))
		}
		waitFor(t, func() bool { return slices.Equal(systemd.Active(), want) }, what)
	}
	are("a systemd that comes has the lane's target, and none of a lane that is not there", "steam")

	s.run("up", "second", "--uplink", lab.WiFi)
	are("two lanes", "second", "steam")
	s.run("down", "second")
	are("a lane that is down", "steam")
	s.sh("nmcli device disconnect wlp6s0")
	are("a lane that waits")
	s.sh("nmcli connection up homewifi")
	are("the uplink is back", "steam")

	// A daemon that starts finds all as it shall be, or makes it so.
	systemd.Calls()
	s.uplane.Kill()
	s.start()
	s.wait("steam", isState("up"))
	s.settled("steam")
	time.Sleep(200 * time.Millisecond)
	if got := systemd.Calls(); len(got) > 0 {
		t.Errorf("a daemon that starts does %q", got)
	}
	s.uplane.Kill()
	systemd.Set(units.Target("steam"), false)
	systemd.Set(units.Target("gone"), true)
	s.start()
	are("the daemon has caught up", "steam")

	// So does one whose systemd was executed anew.
	if err := systemd.Vanish(); err != nil {
		t.Fatal(err)
	}
	s.run("up", "second")
	s.wait("second", isState("up"))
	if err := systemd.Appear(); err != nil {
		t.Fatal(err)
	}
	are("systemd has caught up", "second", "steam")
	s.run("remove", "second")
	are("a lane that is removed", "steam")

	// Without a daemon it is uplane apply that does it.
	s.uplane.Kill()
	s.writeLane("third", "uplink = \""+lab.WiFi+"\"\n")
	s.run("apply")
	are("applied", "steam", "third")
	s.sh("nmcli device disconnect wlp6s0")
	s.run("apply")
	are("applied again")
}

// TestAdopt has a service run in a lane, as far as files go.
func TestAdopt(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	systemd, err := lab.NewSystemd(s.world.Host.DBusAddress())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = systemd.Vanish() })
	const dropIn = "/etc/systemd/system/game.service.d/50-uplane.conf"
	s.write("/etc/systemd/system/game.service", "[Service]\nExecStart=/bin/true\n")
	if got := s.run("adopt", "game", "steam"); !strings.Contains(got, "game.service runs in lane steam") {
		t.Errorf("adopt says %q", got)
	}
	if got := s.sh("stat -c '%a %U' " + dropIn + "; cat " + dropIn); got != "644 root\n"+strings.TrimSuffix(units.DropIn("game.service", "steam"), "\n") {
		t.Errorf("the drop-in is\n%s", got)
	}
	if got := systemd.Calls(); !slices.Equal(got, []string{"Reload"}) {
		t.Errorf("adopt does %q", got)
	}
	s.run("adopt", "--undo", "game.service")
	if r := s.shTry("ls -d /etc/systemd/system/game.service.d"); r.code == 0 {
		t.Errorf("left: %s", r.out)
	}
	s.requireFailure(s.uplaneTry("adopt", "--undo", "game"), 1, "uplane: adopt: game.service: it is in no lane")
	for _, args := range [][]string{{"game"}, {"--undo", "a", "b"}, {"../game", "steam"}, {"NetworkManager", "steam"}, {"game.socket", "steam"}} {
		s.requireFailure(s.uplaneTry(append([]string{"adopt"}, args...)...), 2, "uplane: adopt: ")
	}
	s.requireFailure(s.uplaneTry("adopt", "game", "St eam"), 1, "invalid lane name")
	s.requireFailure(s.shTry("setpriv --reuid 65534 --regid 65534 --clear-groups uplane adopt game steam"), 1, "permission denied", "the same with sudo")

	s.sh("mkdir -p /etc/systemd/system/game.service.d; echo '[Service]' > " + dropIn)
	s.requireFailure(s.uplaneTry("adopt", "game", "steam"), 1, dropIn+" exists and is not ours")
	s.requireFailure(s.uplaneTry("adopt", "--undo", "game"), 1, "not ours")
}
