package spawn

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Caller is who asks for a program. The bus vouches for all of it, but not for
// that the process still is the one that connected.
type Caller struct {
	UID, PID uint32
	Groups   []uint32 // as they were when the caller connected
}

// execContext is what a program takes over from its caller's process, though systemd or the daemon starts it.
type execContext struct {
	gid             uint32
	groups          []uint32 // gid among them
	nice            int
	noNewPrivileges bool
	bounding        uint64 // the capabilities that it can ever have, as bits
	loginUID        uint32 // whose login it comes from, for the kernel's audit; unset: none's
	limits          []limit
	fork            forkContext
}

// unset is the kernel's "nobody".
const unset = ^uint32(0)

// limit is a resource limit.
type limit struct {
	name       string // systemd's
	soft, hard uint64
}

// limitNames are systemd's names of the kernel's limits.
var limitNames = map[string]string{
	"Max cpu time": "CPU", "Max file size": "FSIZE", "Max data size": "DATA", "Max stack size": "STACK", "Max core file size": "CORE",
	"Max resident set": "RSS", "Max processes": "NPROC", "Max open files": "NOFILE", "Max locked memory": "MEMLOCK", "Max address space": "AS",
	"Max file locks": "LOCKS", "Max pending signals": "SIGPENDING", "Max msgqueue size": "MSGQUEUE", "Max nice priority": "NICE",
	"Max realtime priority": "RTPRIO", "Max realtime timeout": "RTTIME",
}

// parseLimits reads /proc/PID/limits.
func parseLimits(text []byte) (limits []limit) {
	const name, value = 26, 21 // columns
	for line := range strings.Lines(string(text)) {
		if len(line) < name+value {
			continue
		}
		l := limit{name: limitNames[strings.TrimSpace(line[:name])]}
		values := strings.Fields(line[name:])
		if l.name == "" || len(values) < 2 {
			continue
		}
		var err1, err2 error
		l.soft, err1 = parseLimit(values[0])
		l.hard, err2 = parseLimit(values[1])
		if err1 == nil && err2 == nil {
			limits = append(limits, l)
		}
	}
	return limits
}

func parseLimit(s string) (uint64, error) {
	if s == "unlimited" {
		return math.MaxUint64, nil
	}
	return strconv.ParseUint(s, 10, 64)
}

// ErrElsewhere refuses callers whose files, network or users are not the host's:
// what they would get is something else than what they see. It refuses those in a sandbox, too, as systemd
// starts their programs outside of it.
var ErrElsewhere = errors.New("a lane's program runs among the host's own files and users")

// hostNamespaces are the namespaces that a caller shares with us, and what it is in otherwise.
var hostNamespaces = []struct{ name, elsewhere string }{
	{"user", "a user namespace, such as a container's or a sandbox's"},
	{"mnt", "a mount namespace, such as a container's, a sandbox's or a lane's"},
	{"net", "a network namespace, such as a container's or a lane's"},
}

// checkOnHost returns an error if a process, by its folder in /proc, does not see the host as the daemon does.
func checkOnHost(dir string, status []byte) error {
	for _, ns := range hostNamespaces {
		ours, err := os.Stat("/proc/thread-self/ns/" + ns.name) // another thread may be in a lane
		if err != nil {
			return err
		}
		theirs, err := os.Stat(dir + "ns/" + ns.name)
		if err != nil {
			return fmt.Errorf("look at who asks: %w", err)
		}
		if !os.SameFile(ours, theirs) {
			return fmt.Errorf("%w, and who asks is in %s", ErrElsewhere, ns.elsewhere)
		}
	}
	// Not by a look at the folder itself, which may be on a file system of the caller's that answers when it likes.
	if root, err := os.Readlink(dir + "root"); err != nil || root != "/" {
		return errors.Join(fmt.Errorf("%w, and who asks is in a folder that it has as its root, by chroot", ErrElsewhere), err)
	}
	// Programs begin with what the first process has: in a container that is a filter, too.
	first, err := os.ReadFile("/proc/1/status")
	if err != nil {
		return err
	}
	if seccompFilters(status) > seccompFilters(first) {
		return fmt.Errorf("%w, and who asks has a filter of system calls", ErrElsewhere)
	}
	profile, err := os.ReadFile(dir + "attr/apparmor/current")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) { // no AppArmor in this kernel, or at work
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at who asks: %w", err)
	}
	if !unconfined(string(profile)) {
		return fmt.Errorf("%w, and who asks is confined by AppArmor's profile %.80q", ErrElsewhere, strings.TrimSpace(string(profile)))
	}
	return nil
}

// unconfined reports whether an AppArmor profile, as /proc names it with its mode, confines nothing.
func unconfined(profile string) bool {
	profile = strings.TrimRight(profile, "\n\x00")
	return profile == "unconfined" || strings.HasSuffix(profile, " (unconfined)") || strings.HasSuffix(profile, " (complain)")
}

// seccompFilters returns the number of system call filters of a process.
func seccompFilters(status []byte) int {
	n, _ := strconv.Atoi(field(status, "Seccomp_filters"))
	return n
}

// inspect reads from the caller's process what its program takes over from it.
//
// A number could be another process's by now. So it must be one of the same user
// and nobody else's; what we take from it (limits, priority) such a process
// can't have more of than the user may have. Of groups it gets those that the
// caller had when it connected and the process still has by itself: what
// a set-group-ID program was given is not the user's to hand on.
func (c Caller) inspect() (execContext, error) {
	var l execContext
	pidfd, err := unix.PidfdOpen(int(c.PID), 0)
	if err != nil {
		return l, fmt.Errorf("who asked has gone: %w", err)
	}
	defer unix.Close(pidfd)
	dir := fmt.Sprintf("/proc/%d/", c.PID)
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return l, fmt.Errorf("look at who asks: %w", err)
	}
	if l.gid, l.groups, err = c.identify(status); err != nil {
		return l, err
	}
	l.noNewPrivileges = field(status, "NoNewPrivs") == "1"
	if l.fork, err = readForkContext(dir, status); err != nil {
		return l, fmt.Errorf("look at who asks: %w", err)
	}
	if l.bounding, err = strconv.ParseUint(field(status, "CapBnd"), 16, 64); err != nil {
		return l, fmt.Errorf("look at who asks: capabilities: %w", err)
	}
	if l.loginUID, err = loginUID(dir); err != nil {
		return l, fmt.Errorf("look at who asks: %w", err)
	}
	if err := checkOnHost(dir, status); err != nil {
		return l, err
	}
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, int(c.PID))
	if err != nil {
		return l, fmt.Errorf("look at who asks: %w", err)
	}
	l.nice = 20 - raw // as the system call returns it
	// Not by prlimit(2), for which even root may lack the right.
	limits, err := os.ReadFile(dir + "limits")
	if err != nil {
		return l, fmt.Errorf("look at who asks: %w", err)
	}
	l.limits = parseLimits(limits)
	// It may have become a set-user-ID program in the meantime, with other limits; then none of that is the caller's.
	if status, err = os.ReadFile(dir + "status"); err != nil {
		return l, fmt.Errorf("look at who asks: %w", err)
	}
	if _, _, err := c.identify(status); err != nil {
		return l, err
	}
	// All of that was of one process, if it is still there.
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil {
		return l, fmt.Errorf("who asked has gone: %w", err)
	}
	return l, nil
}

// loginUID is the user who logged in, and whom the kernel's audit names whatever a process has become since.
func loginUID(dir string) (uint32, error) {
	text, err := os.ReadFile(dir + "loginuid")
	if errors.Is(err, fs.ErrNotExist) {
		return unset, nil // a kernel without audit, or the process has gone, which is noticed
	}
	if err != nil {
		return unset, err
	}
	uid, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	return uint32(uid), err
}

// identify returns the groups that a process has and the caller had, and which is its own, if it is the caller's user's and
// nobody else's.
func (c Caller) identify(status []byte) (gid uint32, groups []uint32, err error) {
	uid := strconv.Itoa(int(c.UID))
	if got := strings.Fields(field(status, "Uid")); !slices.Equal(got, []string{uid, uid, uid, uid}) {
		return 0, nil, fmt.Errorf("process %d, which asked as user %s, is of users %v", c.PID, uid, got)
	}
	gids := strings.Fields(field(status, "Gid"))
	if len(gids) != 4 || len(slices.Compact(slices.Clone(gids))) != 1 {
		return 0, nil, fmt.Errorf("process %d, which asked, is of several groups at once: %v", c.PID, gids)
	}
	its := append(strings.Fields(field(status, "Groups")), gids[0])
	for _, g := range c.Groups {
		if slices.Contains(its, strconv.FormatUint(uint64(g), 10)) {
			groups = append(groups, g)
		}
	}
	n, err := strconv.ParseUint(gids[0], 10, 32)
	if err == nil && !slices.Contains(groups, uint32(n)) {
		err = fmt.Errorf("process %d, which asked, is of group %d, and was not when it connected", c.PID, n)
	}
	return uint32(n), groups, err
}

// field is a line of /proc/PID/status.
func field(status []byte, name string) string {
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
