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

// forkContext is what a program takes over from its caller only without systemd, whose units and slices have their own.
type forkContext struct {
	groups   []string // as numbers; the own one need not be among them
	umask    int
	oomScore string
	control  string // its control groups, as /proc has them
}

func readForkContext(dir string, status []byte) (f forkContext, err error) {
	umask, err := strconv.ParseUint(field(status, "Umask"), 8, 32)
	if err != nil {
		return f, fmt.Errorf("umask: %w", err)
	}
	oomScore, err := os.ReadFile(dir + "oom_score_adj")
	if err != nil {
		return f, err
	}
	control, err := os.ReadFile(dir + "cgroup")
	if err != nil {
		return f, err
	}
	return forkContext{strings.Fields(field(status, "Groups")), int(umask), string(oomScore), string(control)}, nil
}

// fork starts uplane in a lane as the caller where there is no systemd, and returns once it has been executed.
//
// In between is a process of our own program (child.go): it takes over the caller's context, and then executes uplane.
// A child forked from the daemon can't do that: the way Go starts programs, it shares the daemon's memory until it executes
// something, and would share it as the user.
func (m *Manager) fork(ctx context.Context, lane string, c Caller, like execContext, socket string) error {
	if n, err := m.keepers(c.UID); err != nil {
		return err
	} else if n >= maxUnits {
		return ErrTooMany
	}
	b, err := m.childSpec(lane, c, like, socket)
	if err != nil {
		return err
	}
	spec, err := json.Marshal(b)
	if err != nil {
		return err
	}
	process, specPipe, statusPipe, err := startChild()
	if err != nil {
		return fmt.Errorf("start it: %w", err)
	}
	defer process.Release()
	defer specPipe.Close()
	defer statusPipe.Close()
	// The caller is told that it failed, so it must not run later.
	stop := context.AfterFunc(ctx, func() {
		_ = process.Kill()
		_ = statusPipe.SetReadDeadline(time.Now()) // a frozen control group keeps it from dying
	})
	m.children.add(process.Pid)
	_, werr := specPipe.Write(spec)
	specPipe.Close()
	answer, err := io.ReadAll(statusPipe)
	if !stop() {
		_ = process.Kill() // the function above may not have come to it yet
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

// startChild starts our own program as "uplaned spawn-child". The specification is written to the first pipe. The second
// brings an error, and is closed when the child executes uplane. The child has no other descriptor and no terminal.
//
// /proc/self/exe is the program that this process runs, even after an upgrade has replaced its file. So parent and child are
// always of one version, and the argument and the specification can change with any of them.
func startChild() (process *os.Process, specPipe, statusPipe *os.File, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, nil, err
	}
	defer null.Close()
	childSpecPipe, specPipe, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, err
	}
	defer childSpecPipe.Close()
	statusPipe, childStatusPipe, err := os.Pipe()
	if err != nil {
		specPipe.Close()
		return nil, nil, nil, err
	}
	defer childStatusPipe.Close()
	process, err = os.StartProcess("/proc/self/exe", []string{"uplaned", ChildCommand}, &os.ProcAttr{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, // the program has its caller's
		// What the keeper prints is lost: a user's program can't have the daemon's log, which may be a terminal.
		Files: []*os.File{null, null, null, childSpecPipe, childStatusPipe},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		specPipe.Close()
		statusPipe.Close()
	}
	return process, specPipe, statusPipe, err
}

// childSpec returns what the child sets up, for a caller's context.
func (m *Manager) childSpec(lane string, c Caller, like execContext, socket string) (childSpec, error) {
	b := childSpec{
		Lane: lane, Command: m.keeper(like, socket),
		UID: c.UID, GID: like.gid, Umask: like.fork.umask,
		Nice: like.nice, OOMScore: like.fork.oomScore, Limits: map[string]unix.Rlimit{},
		Bounding: like.bounding, NoNewPrivileges: like.noNewPrivileges, LoginUID: like.loginUID,
	}
	for _, g := range like.groups {
		if slices.Contains(like.fork.groups, strconv.FormatUint(uint64(g), 10)) {
			b.Groups = append(b.Groups, g)
		}
	}
	for _, l := range like.limits {
		b.Limits[l.name] = unix.Rlimit{Cur: l.soft, Max: l.hard}
	}
	ours, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return childSpec{}, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return childSpec{}, err
	}
	hierarchies := slices.DeleteFunc(parseHierarchies(string(mounts)), func(h hierarchy) bool { return !h.visible() })
	b.Control = controlGroups(like.fork.control, string(ours), hierarchies)
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
