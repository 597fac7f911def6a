package system

import (
	"strings"
	"testing"

	"uplane/test/lab"
)

// TestFirstContact is somebody who knows nothing yet.
func TestFirstContact(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	says := func(text string, want ...string) {
		t.Helper()
		text = strings.Join(strings.Fields(text), " ")
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("no %q in\n%s", w, text)
			}
		}
	}
	says(s.run(), "daemon running", "enp7s0 ethernet wired the host itself leaves by it", "wlp6s0", "homewifi idle",
		"lanes none yet", "next: uplane up steam --uplink wlp6s0", "more: uplane --help")
	s.requireFailure(s.uplaneTry("up", "steam"), 1, "up steam: no uplink given; wlp6s0 (homewifi) is connected and idle; the host itself leaves by enp7s0 (wired)",
		"try: uplane up steam --uplink wlp6s0")
	// At a terminal it asks.
	s.shTry("echo n | script -qec 'uplane up steam' /dev/null")
	says(s.run("list"), "LANE")
	if got := s.run("list"); strings.Contains(got, "steam") {
		t.Errorf("made though the answer was no:\n%s", got)
	}
	says(s.sh("echo y | script -qec 'uplane up steam' /dev/null"), "Let lane steam leave by wlp6s0? [Y/n]", "lane steam is up by wlp6s0")
	s.leavesBy("steam", s.world.Wifi.Public)
	says(s.run(), "lanes lane steam is up by wlp6s0", "next: uplane run steam -- ")
	s.run("up", "steam") // it has one

	s.sh("nmcli device disconnect wlp6s0")
	s.requireFailure(s.uplaneTry("up", "second"), 1, "none is idle: the host itself leaves by enp7s0 (wired)", "--uplink enp7s0")
	says(s.run(), "steam is waiting", "next: uplane status steam")
	s.run("remove", "steam")
	says(s.run(), "next: nmcli device wifi")
	s.uplane.Kill()
	says(s.run(), "daemon the daemon is not running", "next: systemctl enable --now uplaned")
	s.start()
}
