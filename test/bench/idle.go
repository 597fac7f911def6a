package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	idleTime = 10 * time.Second
	manyIdle = 1000 // lanes
	smallRSS = 20   // MiB, with one lane
	largeRSS = 64   // MiB, with manyIdle

	// bridgeTime is when the kernel says the last about a new bridge: 15 s (its forward delay) after it came up.
	bridgeTime = 18 * time.Second
)

func idle(b *bench) (section, error) {
	s := section{
		How: fmt.Sprintf(`The daemon next to a NetworkManager that has nothing to do, with one lane and with %d. Wake-ups are the voluntary context
switches of all its threads in %v; memory is resident (VmRSS), and of that what is its own (RssAnon).`, manyIdle, idleTime),
		Table: table{{"lanes", "wake-ups", "processor time", "memory", "of that anonymous"}},
	}
	site, err := b.newUplaneSite(0)
	if err != nil {
		return s, err
	}
	defer site.close()
	if err := site.lane("lane0000"); err != nil {
		return s, err
	}
	time.Sleep(bridgeTime)
	one, err := watchIdle(site.uplane.PID())
	if err != nil {
		return s, err
	}
	s.Table.row(one.row(1)...)
	b.progress("  building %d lanes", manyIdle)
	if err := site.writeLanes(1, manyIdle); err != nil {
		return s, err
	}
	if err := site.manager("Reload"); err != nil {
		return s, err
	}
	if err := awaitQuiet(site.uplane.PID()); err != nil {
		return s, err
	}
	many, err := watchIdle(site.uplane.PID())
	if err != nil {
		return s, err
	}
	s.Table.row(many.row(manyIdle)...)
	s.figure(one.wakeups+many.wakeups == 0, fmt.Sprintf("idle wake-ups in %v", idleTime), "0", "%d with one lane, %d with %d", one.wakeups, many.wakeups, manyIdle)
	s.figure(one.rss < smallRSS, "resident memory, 1 lane", fmt.Sprintf("< %d MiB", smallRSS), "%.1f MiB", one.rss)
	s.figure(many.rss < largeRSS, fmt.Sprintf("resident memory, %d lanes", manyIdle), fmt.Sprintf("< %d MiB", largeRSS), "%.1f MiB", many.rss)
	return s, nil
}

// writeLanes writes the files of the lanes from and up to before to.
func (s *site) writeLanes(from, to int) error {
	dir := s.world.Host.Path("/etc/uplane/lanes.d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := from; i < to; i++ {
		if err := os.WriteFile(laneFile(dir, i), []byte("uplink = \"wlp6s0\"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func laneFile(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("lane%04d.toml", i)) }

// usage is what a process used in idleTime.
type usage struct {
	wakeups   int
	cpu       time.Duration
	rss, anon float64 // MiB
}

func (u usage) row(lanes int) []string {
	return []string{fmt.Sprint(lanes), fmt.Sprint(u.wakeups), ms(u.cpu), fmt.Sprintf("%.1f MiB", u.rss), fmt.Sprintf("%.1f MiB", u.anon)}
}

func watchIdle(pid int) (usage, error) {
	before, cpu := wakeups(pid), processorTime(pid)
	time.Sleep(idleTime)
	u := usage{wakeups: wakeups(pid) - before, cpu: processorTime(pid) - cpu}
	status := fmt.Sprintf("/proc/%d/status", pid)
	var err error
	if u.rss, err = mebibytes(firstMatch(status, "VmRSS:")); err != nil {
		return u, err
	}
	u.anon, err = mebibytes(firstMatch(status, "RssAnon:"))
	return u, err
}

func mebibytes(kilobytes string) (float64, error) {
	n, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(kilobytes), " kB"), 64)
	return n / 1024, err
}

// wakeups is how often the process's threads have gone to sleep by themselves.
func wakeups(pid int) int {
	sum := 0
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, f := range files {
		n, _ := strconv.Atoi(firstMatch(f, "voluntary_ctxt_switches:"))
		sum += n
	}
	return sum
}

// processorTime is what the process has used, by the clock ticks of proc(5).
func processorTime(pid int) time.Duration {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	const tick = 10 * time.Millisecond
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick
}

// awaitQuiet waits until a process has done nothing for three seconds.
func awaitQuiet(pid int) error { return awaitRestOf(pid, 3*time.Second) }

// awaitRest waits until a process has done nothing for a moment.
func awaitRest(pid int) error { return awaitRestOf(pid, 200*time.Millisecond) }

func awaitRestOf(pid int, rest time.Duration) error {
	const patience = 5 * time.Minute // NetworkManager goes on about a thousand new links for long
	for start := time.Now(); time.Since(start) < patience; {
		before, cpu := wakeups(pid), processorTime(pid) // who computes does not sleep
		time.Sleep(rest)
		if wakeups(pid) == before && processorTime(pid) == cpu {
			return nil
		}
	}
	return fmt.Errorf("process %d does not come to rest within %v", pid, patience)
}
