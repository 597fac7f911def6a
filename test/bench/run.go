package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"uplane/test/lab"
)

const (
	runsEach   = 120
	rootFactor = 2.0
	userFactor = 1.3

	// runPause is for what systemd does after a program's end, which the next contender shall not wait for.
	runPause = 25 * time.Millisecond
)

func runInLane(b *bench) (section, error) {
	s := section{
		How: fmt.Sprintf(`Runs of "true", %d each, in turns with %v between them, from fork to exit, on booted Debians. Before that each contender
had to run a program that left by the Wi-Fi. Not all of them do the same:

- **nsenter** enters the lane and does nothing else. With **unshare** the program has mounts of its own besides, without which it can't have
  another resolv.conf than the host; that is the least that a lane takes.
- **uplane run** gives the program the lane's resolv.conf, masks host-wide resolvers, and leaves /sys as it is. A user's starts in a
  unit of systemd's, after polkit has been asked, and it is ready when the program has ended, as a shell wants it.
- **ip netns exec** binds resolv.conf and mounts /sys anew. It is root's.
- **firejail** makes a sandbox in the lane's namespace. Debian's lets no user do that; for Alice root has set "restricted-network no".
- **pasta** is what a user does without any lane: a network of the program's own whose packets pass through a process that sends
  them by the Wi-Fi. When the Wi-Fi has another address, the next program has it.
- **systemd-run** (with --quiet --wait --pipe) starts a transient service in the lane's namespace and waits until systemd has
  cleared it up. Alice's, which "uplane run" is to be measured by, has the properties that systemd's file of an "uplane run" unit has, all but
  its program and how that says that it is ready. A user's systemd-run asks polkit for an administrator's password, so it is root who runs this one, with User= Alice, and
  polkit is not asked at all; next to it, Alice runs it herself by a rule that lets her start any unit.`, runsEach, runPause),
		Table: table{{"Debian", "who", "command", "n", "median", "p95", "to the measure"}},
	}
	for _, release := range []lab.Debian{lab.Bookworm, lab.Trixie} {
		b.progress("  %s", release)
		if err := b.runOn(release, &s); err != nil {
			return s, fmt.Errorf("%s: %w", release, err)
		}
	}
	return s, nil
}

// runOn measures on a machine with that release.
func (b *bench) runOn(release lab.Debian, s *section) error {
	m, err := b.boot(release)
	if err != nil {
		return err
	}
	defer m.Close()
	root, err := m.startHelper(m.Host.Node, "spawn")
	if err != nil {
		return err
	}
	alice, err := m.startHelper(m.Alice, "spawn")
	if err != nil {
		return err
	}
	properties, err := m.unitProperties()
	if err != nil {
		return err
	}
	var (
		words      = strings.Fields
		uplane     = words("uplane run steam --")
		firejail   = words("firejail --quiet --noprofile --netns=steam --")
		pasta      = words("pasta --quiet --config-net --ipv4-only --interface wlp6s0 --outbound-if4 wlp6s0 --")
		systemdRun = words("systemd-run --quiet --wait --pipe")
	)
	roots := []*runner{
		{name: "nsenter --net", prefix: words("nsenter --net=/run/netns/steam --")},
		{name: "uplane run", prefix: uplane},
		{name: "nsenter --net unshare --mount", prefix: words("nsenter --net=/run/netns/steam unshare --mount --")},
		{name: "ip netns exec", prefix: words("ip netns exec steam")},
		{name: "firejail --netns", prefix: firejail},
		{name: "pasta --outbound-if4", prefix: pasta},
		{name: "systemd-run -p NetworkNamespacePath=", prefix: slices.Concat(systemdRun, words("-p NetworkNamespacePath=/run/netns/steam --"))},
	}
	users := []*runner{
		{name: "systemd-run by root, same properties", prefix: slices.Concat(systemdRun, properties, words("--")), node: m.Host.Node, by: root},
		{name: "uplane run", prefix: uplane},
		{name: "systemd-run by a rule, same properties", prefix: slices.Concat(systemdRun, properties, words("--"))},
		{name: "firejail --netns", prefix: firejail},
		{name: "pasta --outbound-if4", prefix: pasta},
	}
	for _, as := range []struct {
		who     string
		node    *lab.Node
		by      *helper
		runners []*runner
		factor  float64
	}{
		{"root", m.Host.Node, root, roots, rootFactor},
		{"Alice", m.Alice, alice, users, userFactor},
	} {
		for _, c := range as.runners {
			if c.node == nil {
				c.node, c.by = as.node, as.by
			}
		}
		if err := m.takeTurns(as.runners); err != nil {
			return err
		}
		measure := as.runners[0].took.median()
		for _, c := range as.runners {
			row := []string{string(release), as.who, "`" + c.name + "`", fmt.Sprint(len(c.took)), "", "", "can't: " + c.why}
			if c.why == "" {
				row = append(row[:4], ms(c.took.median()), ms(c.took.p95()), times(ratio(c.took.median(), measure)))
			}
			s.Table.row(row...)
		}
		ours := as.runners[1]
		x := ratio(ours.took.median(), measure)
		met := ours.why == "" && measure > 0 && x <= as.factor
		if as.who == "root" {
			s.figure(met, fmt.Sprintf("`uplane run` as root on %s, next to `nsenter`", release), "≤ 2×", "%s (%s to %s)", times(x), ms(ours.took.median()), ms(measure))
			continue
		}
		s.aim(met, "`uplane run` as a user: at most 1.3× `systemd-run` with the same properties", "%s: %s (%s to %s)", release, times(x), ms(ours.took.median()), ms(measure))
	}
	return nil
}

// runner is a way to run a program by the Wi-Fi.
type runner struct {
	name   string
	prefix []string // of the program's command
	node   *lab.Node
	by     *helper // at the node

	why  string // it can't be measured
	took samples
}

// takeTurns has runners run "true", those that can.
func (m *machine) takeTurns(runners []*runner) error {
	for _, c := range runners {
		c.why = m.leavesByWifi(c)
	}
	for range runsEach {
		for _, c := range runners {
			if c.why != "" {
				continue
			}
			time.Sleep(runPause)
			took, err := c.by.time(append(slices.Clone(c.prefix), "true")...)
			if err != nil {
				return err
			}
			c.took = append(c.took, took)
		}
	}
	return nil
}
