package policy

import (
	"slices"
	"strings"
)

// HostSwitch tells the host's C library whom to ask for names.
const HostSwitch = "/etc/nsswitch.conf"

// SwitchPath is where "ip netns exec" looks for a namespace's nsswitch.conf.
func SwitchPath(lane string) string { return EtcNetns + "/" + lane + "/nsswitch.conf" }

// localSources answer by themselves; all others ask a program or a network that is not the lane's.
var localSources = []string{"files", "myhostname"}

// nsswitch is a lane's nsswitch.conf: the host's, but for hosts, which come from files and by DNS only.
func nsswitch(lane, host string) File {
	var b strings.Builder
	b.WriteString(FileTag + lane + ": as the host has it, but for hosts; changes are overwritten\n")
	found := false
	for line := range strings.Lines(host) {
		text, _, _ := strings.Cut(line, "#")
		database, sources, ok := strings.Cut(text, ":")
		database = strings.TrimSpace(database)
		words := strings.Fields(sources)
		if !ok || !spelled(database, maxDatabase, isLetter, "_", "") {
			continue
		}
		if database == "hosts" {
			if found {
				continue
			}
			found = true
			words = slices.DeleteFunc(words, func(w string) bool { return !slices.Contains(localSources, w) })
			words = append(words, "dns")
		}
		b.WriteString(database + ":")
		for _, w := range words {
			if spelled(w, maxSource, isLetter, "_-.!=[]", "") {
				b.WriteString(" " + w)
			}
		}
		b.WriteByte('\n')
	}
	if !found {
		b.WriteString("hosts: files dns\n")
	}
	return File{SwitchPath(lane), b.String()}
}

// Longest names in an nsswitch.conf, in bytes: far beyond any that there is.
const maxDatabase, maxSource = 32, 64
