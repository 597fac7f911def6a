package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"uplane/test/lab"
)

const (
	buildsEach    = 40
	buildFactor   = 1.2
	scriptBuild   = 8.0
	hundred       = 100
	hundredUp     = 300 * time.Millisecond
	hundredDown   = time.Second
	hundredRounds = 3
	buildPause    = 40 * time.Millisecond
	clearPause    = 120 * time.Millisecond // the kernel goes on clearing up after a namespace, and lets no new one be made meanwhile
)

// builder makes and takes away one lane.
type builder struct {
	name       string
	begin, end func() error
	up, down   func() (time.Duration, error)

	ups, downs samples
}

func setUp(b *bench) (section, error) {
	s := section{
		How: fmt.Sprintf(`One lane, built and taken down %d times by each, in turns; NetworkManager runs and sees the new links.

- **Uplane**: the daemon's D-Bus method Up, or Down, of a lane whose file is there, call to answer.
- **Uplane's pass**: the daemon's one pass for that (look, compare, apply, save), and next to it the minimal program, in a
  host without D-Bus and NetworkManager: with them, D-Bus and NetworkManager's own work on the new links share the processors.
- **minimal**: a Go program that builds this one lane and looks at nothing, with the netlink library on an open socket and
  one iptables-restore; without its own start.
- **shell script**: the hand recipe, one command after the other.`, buildsEach),
		Table: table{{"what", "by", "n", "median", "p95"}},
	}
	alone, bare, err := b.bareBuilds()
	if err != nil {
		return s, err
	}
	site, err := b.newUplaneSite(0)
	if err != nil {
		return s, err
	}
	defer site.close()
	builders, err := site.builders()
	if err != nil {
		return s, err
	}
	if err := takeTurns(builders...); err != nil {
		return s, err
	}
	uplane, least, script := builders[0], builders[1], builders[2]
	for _, x := range []*builder{uplane, least, script, alone, bare} {
		s.Table.row("build one lane", x.name, fmt.Sprint(len(x.ups)), ms(x.ups.median()), ms(x.ups.p95()))
	}
	for _, x := range []*builder{uplane, least, script, alone, bare} {
		s.Table.row("take it down", x.name, fmt.Sprint(len(x.downs)), ms(x.downs.median()), ms(x.downs.p95()))
	}
	if err := uplane.begin(); err != nil {
		return s, err
	}
	ups, downs, idles, err := site.hundreds()
	if err != nil {
		return s, fmt.Errorf("%d lanes: %w", hundred, err)
	}
	for _, r := range []struct {
		what string
		took samples
	}{
		{"build %d lanes (Reload)", ups}, {"take %d lanes down (Reload)", downs}, {"Reload with %d lanes, nothing new", idles},
	} {
		s.Table.row(fmt.Sprintf(r.what, hundred), uplane.name, fmt.Sprint(len(r.took)), ms(r.took.median()), ms(r.took.p95()))
	}

	s.note("Taking down is mostly the kernel's waiting for all processors when links are deleted. The links have to be gone before what drops\n" +
		"their packets changes. A call is answered after a second pass, which sees that nothing is left.")
	s.note("A D-Bus call to the daemon shares two processors with NetworkManager and the bus, which tell each other of the new links meanwhile.")
	x := ratio(alone.ups.median(), bare.ups.median())
	s.aim(x <= buildFactor, "build, the pass alone: at most 1.2× the minimal program", "%s (%s to %s)", times(x), ms(alone.ups.median()), ms(bare.ups.median()))
	x = ratio(uplane.ups.median(), least.ups.median())
	s.aim(x <= buildFactor, "build, by D-Bus: at most 1.2× the minimal program", "%s (%s to %s)", times(x), ms(uplane.ups.median()), ms(least.ups.median()))
	x = ratio(script.ups.median(), uplane.ups.median())
	s.aim(x >= scriptBuild, "build: at least 8× faster than the script", "%.1f× (%s to %s)", x, ms(uplane.ups.median()), ms(script.ups.median()))
	x = ratio(uplane.downs.median(), script.downs.median())
	s.aim(x <= 0.5, "take down: at most half of the script's time", "%s (%s to %s)", times(x), ms(uplane.downs.median()), ms(script.downs.median()))
	s.figure(ups.median() <= hundredUp, "100 lanes up", "≤ 0.3 s", "%s", ms(ups.median()))
	s.figure(downs.median() <= hundredDown, "100 lanes down", "≤ 1 s", "%s", ms(downs.median()))
	return s, nil
}

func (x *builder) once() error {
	if err := x.begin(); err != nil {
		return err
	}
	time.Sleep(buildPause)
	took, err := x.up()
	if err != nil {
		return err
	}
	x.ups = append(x.ups, took)
	time.Sleep(buildPause)
	if took, err = x.down(); err != nil {
		return err
	}
	x.downs = append(x.downs, took)
	time.Sleep(clearPause)
	return x.end()
}

// builders are Uplane, the minimal program and the script.
func (s *site) builders() ([]*builder, error) {
	if err := s.lane("steam"); err != nil {
		return nil, err
	}
	if err := s.manager("Down", "steam"); err != nil {
		return nil, err
	}
	pid := s.uplane.PID()
	call := func(args ...any) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			start := time.Now()
			err := s.manager(args[0].(string), args[1:]...)
			return time.Since(start), err
		}
	}
	least, err := s.minimalBuilder(s.world.Host)
	if err != nil {
		return nil, err
	}
	shell, err := s.startHelper(s.world.Host.Node, "spawn")
	if err != nil {
		return nil, err
	}
	hand := recipe{"hand", scriptTable, s.gateways()[0].String()}
	return []*builder{
		{
			name: "Uplane", begin: func() error { return resume(pid) }, end: func() error { return pause(pid) },
			up: call("Up", "steam", map[string]any{}), down: call("Down", "steam"),
		}, least, {
			name: "shell script", begin: nothing, end: nothing,
			up:   func() (time.Duration, error) { return shell.time("sh", "-ec", hand.up()) },
			down: func() (time.Duration, error) { return shell.time("sh", "-ec", hand.down()) },
		},
	}, nil
}

// bareBuilds has the loop alone and the minimal program build a lane in a host without NetworkManager.
func (b *bench) bareBuilds() (alone, least *builder, err error) {
	l, err := b.looping()
	if err != nil {
		return nil, nil, err
	}
	defer l.close()
	lanes := func(n int) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			w, err := l.do("lanes %s", strconv.Itoa(n))
			return w.took, err
		}
	}
	pid := l.Process.Pid
	alone = &builder{
		name:  "Uplane's pass, no NM",
		begin: func() error { return resume(pid) }, end: func() error { return pause(pid) },
		up: lanes(1), down: lanes(0),
	}
	if least, err = b.minimalBuilder(l.world.Host); err != nil {
		return nil, nil, err
	}
	least.name += ", no NM"
	return alone, least, takeTurns(alone, least)
}

// minimalBuilder is the minimal program in a host.
func (b *bench) minimalBuilder(host *lab.Host) (*builder, error) {
	h, err := b.startHelper(host.Node, "minimal")
	if err != nil {
		return nil, err
	}
	return &builder{
		name: "minimal", begin: nothing, end: nothing,
		up:   func() (time.Duration, error) { return h.askDuration("up") },
		down: func() (time.Duration, error) { return h.askDuration("down") },
	}, nil
}

func takeTurns(builders ...*builder) error {
	for range buildsEach {
		for _, x := range builders {
			if err := x.once(); err != nil {
				return fmt.Errorf("%s: %w", x.name, err)
			}
		}
	}
	return nil
}

// hundreds builds and takes down many lanes at once, by their files.
func (s *site) hundreds() (ups, downs, idles samples, err error) {
	dir := s.world.Host.Path("/etc/uplane/lanes.d")
	reload := func(to *samples) error {
		start := time.Now()
		if err := s.manager("Reload"); err != nil {
			return err
		}
		*to = append(*to, time.Since(start))
		return awaitRest(s.uplane.PID())
	}
	for range hundredRounds {
		if err := s.writeLanes(0, hundred); err != nil {
			return nil, nil, nil, err
		}
		if err := reload(&ups); err != nil {
			return nil, nil, nil, err
		}
		for range 4 {
			if err := reload(&idles); err != nil {
				return nil, nil, nil, err
			}
		}
		for i := range hundred {
			if err := os.Remove(laneFile(dir, i)); err != nil {
				return nil, nil, nil, err
			}
		}
		if err := reload(&downs); err != nil {
			return nil, nil, nil, err
		}
		time.Sleep(2 * time.Second) // for as many namespaces
	}
	return ups, downs, idles, nil
}
