package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestProfileDoc runs every command of docs/profiles.md, in its order.
func TestProfileDoc(t *testing.T) {
	s := newProfileSite(t)
	s.sh("nmcli connection add type ethernet con-name hotspot ifname wlp6s0 autoconnect no")
	text, err := os.ReadFile("../../docs/profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	for _, block := range blocks {
		s.sh(strings.ReplaceAll(block[1], "sudo ", ""))
		var lanes []string
		waitFor(t, func() bool {
			out := s.sh("uplane list | tail -n +2")
			lanes = nil
			for line := range strings.Lines(out) {
				fields := strings.Fields(line)
				lanes = append(lanes, fields[0])
				gone := fields[0] == "work" && strings.Contains(block[1], "delete work")
				if gone || fields[1] != "up" {
					return false
				}
			}
			return true
		}, "every lane is up after:\n"+block[1])
		for _, lane := range lanes {
			s.leavesBy(lane, s.world.Wifi.Public)
		}
		if t.Failed() {
			t.Fatalf("after:\n%s", block[1])
		}
	}
	if got := s.run("list"); len(blocks) < 8 || !strings.Contains(got, "games") || !strings.Contains(got, "chat") || strings.Contains(got, "steam") || strings.Contains(got, "work") {
		t.Errorf("after %d blocks:\n%s", len(blocks), got)
	}
}
