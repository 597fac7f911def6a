package programs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"uplane/internal/state/safefile"
)

// hostSwitch tells the C library whom to ask for names.
const hostSwitch = "/etc/nsswitch.conf"

// switchPath is where programs in lanes have theirs from.
func (m *Manager) switchPath() string { return filepath.Join(m.Runtime, "nsswitch.conf") }

// writeSwitch writes the programs' nsswitch.conf unless it is as it shall be.
func (m *Manager) writeSwitch() error {
	host, err := os.ReadFile(hostSwitch)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the C library asks files and DNS then
	}
	if err != nil {
		return err
	}
	want := laneSwitch(host)
	if have, err := os.ReadFile(m.switchPath()); err == nil && bytes.Equal(have, want) {
		return nil
	}
	return safefile.Write(m.switchPath(), want, 0o644)
}

// localSources answer by themselves; all others ask a program or a network that is not the lane's.
var localSources = []string{"files", "myhostname"}

// laneSwitch is an nsswitch.conf whose hosts come from files and by DNS only.
func laneSwitch(host []byte) []byte {
	var out strings.Builder
	found := false
	for line := range strings.Lines(string(host)) {
		text, _, _ := strings.Cut(line, "#")
		database, sources, ok := strings.Cut(text, ":")
		if !ok || strings.TrimSpace(database) != "hosts" {
			out.WriteString(line)
			continue
		}
		if found {
			continue
		}
		found = true
		out.WriteString("hosts:")
		for source := range strings.FieldsSeq(sources) {
			if slices.Contains(localSources, source) {
				out.WriteString(" " + source)
			}
		}
		out.WriteString(" dns\n")
	}
	if !found {
		out.WriteString("\nhosts: files dns\n")
	}
	return []byte(out.String())
}
