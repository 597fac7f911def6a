package main

import (
	"fmt"
	"strings"
)

const (
	runsEach  = 300
	runFactor = 1.25
)

func runInLane(b *bench) (section, error) {
	s := section{
		title: "A program in a lane",
		how: fmt.Sprintf(`Runs of "true" in a lane as root, %d each, in turns, from fork to exit. "uplane run" gives the program the lane's
resolv.conf and masks host-wide resolvers, and leaves /sys as it is; "ip netns exec" binds resolv.conf and mounts /sys anew;
"nsenter" does neither.`, runsEach),
		table: table{{"command", "n", "median", "p95", "to ip netns exec"}},
	}
	site, err := b.newUplaneSite(0)
	if err != nil {
		return s, err
	}
	defer site.close()
	if err := site.lane("steam"); err != nil {
		return s, err
	}
	h, err := site.startHelper(site.world.Host, "spawn")
	if err != nil {
		return s, err
	}
	commands := [][]string{
		{"uplane", "run", "steam", "true"},
		{"ip", "netns", "exec", "steam", "true"},
		{"nsenter", "--net=/run/netns/steam", "true"},
		{"true"},
	}
	took := make([]samples, len(commands))
	for range runsEach {
		for i, c := range commands {
			d, err := h.time(c...)
			if err != nil {
				return s, err
			}
			took[i] = append(took[i], d)
		}
	}
	ours, theirs := took[0].median(), took[1].median()
	for i, c := range commands {
		name := fmt.Sprintf("`%s`", strings.Join(c, " "))
		s.table.row(name, fmt.Sprint(len(took[i])), ms(took[i].median()), ms(took[i].p95()), times(ratio(took[i].median(), theirs)))
	}
	s.aim(ratio(ours, theirs) <= runFactor, "`uplane run`: at most 1.25× `ip netns exec`", "%s (%s to %s)", times(ratio(ours, theirs)), ms(ours), ms(theirs))
	return s, nil
}
