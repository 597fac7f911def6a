package system

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"uplane/test/lab"
)

// TestReadme runs the commands of README.md in their order, on a booted Debian.
func TestReadme(t *testing.T) {
	t.Parallel()
	lab.RequireRoot(t)
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	ctx, m := lab.StartMachine(t, lab.Trixie, lab.Plain, lab.Options{})
	if err := m.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	s := startSite(t, ctx, m.World)
	s.write("/etc/systemd/system/download.service", "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n")
	lines := 0
	for _, box := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(box[1]) {
			lines++
			if r := s.shTry(strings.ReplaceAll(line, "sudo ", "")); r.code != 0 {
				t.Errorf("%s ends with %d: %s%s", line, r.code, r.out, r.err)
			}
			if strings.Contains(line, "up steam") {
				waitFor(t, func() bool { // the daemon may not have heard yet what NetworkManager did last
					lane, err := s.world.Host.Namespace("steam")
					if err != nil {
						return false
					}
					ctx, cancel := context.WithTimeout(s.ctx, time.Second)
					defer cancel()
					by, err := lane.Whoami(ctx)
					return err == nil && by == s.world.Wifi.Public
				}, "the lane leaves by the Wi-Fi after: "+line)
			}
		}
		if strings.Contains(box[1], "adopt") {
			waitFor(t, func() bool { // systemd calls it started before it is in the lane
				pid := s.sh("systemctl show --property=MainPID --value download.service")
				return s.sh("readlink /proc/"+pid+"/ns/net") == s.sh("ip netns exec steam readlink /proc/self/ns/net")
			}, "the service is in the lane")
		}
	}
	if lines < 12 {
		t.Errorf("README.md has only %d commands", lines)
	}
}

// TestReadmes: what one README tells to type, the other does.
func TestReadmes(t *testing.T) {
	commands := func(file string) string {
		text, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, box := range regexp.MustCompile("(?s)```[a-z]*\n.*?```").FindAllString(string(text), -1) {
			out = append(out, regexp.MustCompile(" *#.*").ReplaceAllString(box, ""))
		}
		return strings.Join(out, "\n")
	}
	english, chinese := commands("README.md"), commands("README.zh-CN.md")
	if requireSame(t, english, chinese); len(english) < 500 {
		t.Errorf("only\n%s", english)
	}
}
