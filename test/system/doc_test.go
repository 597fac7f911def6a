package system

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestProfileDoc runs every command of docs/profiles.md, in its order.
func TestProfileDoc(t *testing.T) {
	newProfileSite(t).followProfileDoc()
}

// boxes returns what stands in a document's boxes of a language.
func (s *site) boxes(document, language string) (texts []string) {
	s.Helper()
	text, err := os.ReadFile("../../docs/" + document)
	if err != nil {
		s.Fatal(err)
	}
	for _, match := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		texts = append(texts, match[1])
	}
	return texts
}

func (s *site) followProfileDoc() {
	s.sh("nmcli connection add type ethernet con-name hotspot ifname wlp6s0 autoconnect no")
	blocks := s.boxes("profiles.md", "sh")
	for _, block := range blocks {
		s.sh(strings.ReplaceAll(block, "sudo ", ""))
		var lanes []string
		waitFor(s.T, func() bool {
			out := s.sh("uplane list | tail -n +2")
			lanes = nil
			for line := range strings.Lines(out) {
				fields := strings.Fields(line)
				lanes = append(lanes, fields[0])
				gone := fields[0] == "work" && strings.Contains(block, "delete work")
				// What NetworkManager did last the daemon may not have heard yet, unless it looks again.
				if gone || s.uplaneTry("plan", fields[0]).out != "" || fields[1] != "up" {
					return false
				}
			}
			return s.sh("uplane list | tail -n +2") == out
		}, "every lane is up after:\n"+block)
		for _, lane := range lanes {
			s.leavesBy(lane, s.world.Wifi.Public)
		}
	}
	if got := s.run("list"); len(blocks) < 8 || !strings.Contains(got, "games") || !strings.Contains(got, "chat") || strings.Contains(got, "steam") || strings.Contains(got, "work") {
		s.Errorf("after %d blocks:\n%s", len(blocks), got)
	}
}
