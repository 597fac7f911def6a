package spawn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// booted tells whether systemd runs the machine, by the rule of sd_booted(3).
func booted() bool {
	_, err := os.Lstat("/run/systemd/system")
	return err == nil
}

// rest is what else a program has of its caller that systemd doesn't start: with systemd that is a unit's, or a slice's.
type rest struct {
	groups   []string // as numbers; the own one need not be among them
	umask    int
	oomScore string
	control  string // its control groups, as /proc has them
}

func readRest(dir string, status []byte) (r rest, err error) {
	umask, err := strconv.ParseUint(field(status, "Umask"), 8, 32)
	if err != nil {
		return r, fmt.Errorf("umask: %w", err)
	}
	oomScore, err := os.ReadFile(dir + "oom_score_adj")
	if err != nil {
		return r, err
	}
	control, err := os.ReadFile(dir + "cgroup")
	if err != nil {
		return r, err
	}
	return rest{strings.Fields(field(status, "Groups")), int(umask), string(oomScore), string(control)}, nil
}

// fork starts uplane in a lane as the caller where there is no systemd, and returns once it has been executed.
//
// In between is a process of our own program (birth.go): it makes itself what the caller is, and then becomes uplane.
// A child of the daemon itself could not do that: until it executes something, it shares the daemon's memory, as
// Go starts programs, and would do so as the user.
func (m *Manager) fork(ctx context.Context, lane string, c Caller, like likeness, socket string) error {
	if n, err := m.keepers(c.UID); err != nil {
		return err
	} else if n >= maxUnits {
		return ErrTooMany
	}
	b, err := m.birth(lane, c, like, socket)
	if err != nil {
		return err
	}
	order, err := json.Marshal(b)
	if err != nil {
		return err
	}
	process, say, hear, err := start()
	if err != nil {
		return fmt.Errorf("start it: %w", err)
	}
	defer process.Release()
	defer say.Close()
	defer hear.Close()
	// Whoever asked is told that it failed, so it must not run later.
	stop := context.AfterFunc(ctx, func() {
		_ = process.Kill()
		_ = hear.SetReadDeadline(time.Now()) // a frozen control group keeps it from dying
	})
	m.children.add(process.Pid)
	_, werr := say.Write(order)
	say.Close()
	answer, err := io.ReadAll(hear)
	if !stop() {
		_ = process.Kill() // who has begun to, may not have yet
		return fmt.Errorf("start it: %w", context.Cause(ctx))
	}
	why, begins := strings.CutPrefix(string(answer), executing)
	switch {
	case err != nil || werr != nil && len(answer) == 0:
		return fmt.Errorf("start it: %w", errors.Join(werr, err))
	case why != "":
		return fmt.Errorf("start it: %s", why)
	case !begins:
		return errors.New("start it: it was ended before it began")
	}
	return nil
}

// start starts our own program for a birth. It hears what to become, and its last words can be heard: they end when it
// executes uplane. It has no descriptor else, nor a terminal.
func start() (process *os.Process, say, hear *os.File, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, nil, err
	}
	defer null.Close()
	its, say, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, err
	}
	defer its.Close()
	hear, tells, err := os.Pipe()
	if err != nil {
		say.Close()
		return nil, nil, nil, err
	}
	defer tells.Close()
	process, err = os.StartProcess("/proc/self/exe", []string{"uplaned", BirthCommand}, &os.ProcAttr{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, // the program has its caller's
		// What the keeper would say is lost: a user's program can't have the daemon's log, which may be a terminal.
		Files: []*os.File{null, null, null, its, tells},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		say.Close()
		hear.Close()
	}
	return process, say, hear, err
}

// birth is what becomes of a caller's likeness.
func (m *Manager) birth(lane string, c Caller, like likeness, socket string) (birth, error) {
	b := birth{
		Lane: lane, Command: m.keeper(like, socket),
		UID: c.UID, GID: like.gid, Umask: like.rest.umask,
		Nice: like.nice, OOMScore: like.rest.oomScore, Limits: map[string]unix.Rlimit{},
		Bounding: like.bounding, NoNewPrivileges: like.noNewPrivileges, LoginUID: like.loginUID,
	}
	for _, g := range like.groups {
		if slices.Contains(like.rest.groups, strconv.FormatUint(uint64(g), 10)) {
			b.Groups = append(b.Groups, g)
		}
	}
	for _, l := range like.limits {
		b.Limits[l.name] = unix.Rlimit{Cur: l.soft, Max: l.hard}
	}
	ours, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return birth{}, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return birth{}, err
	}
	hierarchies := slices.DeleteFunc(parseHierarchies(string(mounts)), func(h hierarchy) bool { return !h.visible() })
	b.Control = controlGroups(like.rest.control, string(ours), hierarchies)
	return b, nil
}

// keepers counts a user's programs, whoever started them: also a daemon before this one. A user who hides some has not
// more than the own limit of processes allows.
func (m *Manager) keepers(uid uint32) (n int, err error) {
	m.scanning.Lock()
	defer m.scanning.Unlock()
	pids, err := processes()
	for _, pid := range pids {
		if p, err := describe(pid, uid, time.Time{}); err == nil && p.keeper && m.isUplane(pid) {
			n++
		}
	}
	return n, err
}

// controlGroups are the folders of the control groups that a process is in and we are not, by both processes'
// /proc/PID/cgroup. There the bounds of a session's memory and processes are, and by them elogind, and so polkit, know
// whose session it is.
func controlGroups(its, ours string, hierarchies []hierarchy) (dirs []string) {
	for line := range strings.Lines(its) {
		// NUMBER:CONTROLLERS:PATH; of version 2 the controllers are empty.
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 || slices.Contains(slices.Collect(strings.Lines(ours)), line) {
			continue
		}
		for _, h := range hierarchies {
			below, err := filepath.Rel(h.root, parts[2])
			// What a control namespace hides begins with /..
			if err == nil && filepath.IsLocal(below) && filepath.Clean(parts[2]) == parts[2] && h.has(parts[1]) {
				dirs = append(dirs, filepath.Join(h.at, below))
				break
			}
		}
	}
	return dirs
}

// hierarchy is one of control groups, or the part of it below root, where it is mounted.
type hierarchy struct {
	root, at, device string
	controllers      []string // of version 2: nil
}

// parseHierarchies reads /proc/PID/mountinfo.
func parseHierarchies(mountinfo string) (all []hierarchy) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace
	for line := range strings.Lines(mountinfo) {
		left, right, _ := strings.Cut(line, " - ")
		mount, source := strings.Fields(left), strings.Fields(right) // ID, parent, device, root, place, …; type, source, options
		if len(mount) < 5 || len(source) < 3 {
			continue
		}
		h := hierarchy{root: unescape(mount[3]), at: unescape(mount[4]), device: mount[2]}
		switch source[0] {
		case "cgroup":
			h.controllers = strings.Split(source[2], ",") // and other options
		case "cgroup2":
		default:
			continue
		}
		all = append(all, h)
	}
	return all
}

func (h hierarchy) has(controllers string) bool {
	if controllers == "" {
		return h.controllers == nil
	}
	return !slices.ContainsFunc(strings.Split(controllers, ","), func(c string) bool { return !slices.Contains(h.controllers, c) })
}

// visible tells whether nothing is mounted over it.
func (h hierarchy) visible() bool {
	var st unix.Stat_t
	return unix.Stat(h.at, &st) == nil && h.device == fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
}
