package spawn

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"uplane/internal/run/nsexec"
)

// ChildCommand is the argument with which uplaned starts itself for a user's program. See [RunChild].
const ChildCommand = "spawn-child"

// childSpec is what the child sets up for itself before it executes uplane, where there is no systemd to do so. The terms are
// those of systemd.exec(5).
type childSpec struct {
	Lane            string
	Command         []string
	UID, GID        uint32
	Groups          []uint32
	Umask, Nice     int
	OOMScore        string
	Limits          map[string]unix.Rlimit // by systemd's names
	Bounding        uint64                 // capabilities
	NoNewPrivileges bool
	LoginUID        uint32
	Control         []string // the folders of its control groups
}

const (
	specFD, statusFD = 3, 4

	// executing is written to the status pipe just before uplane is executed. An error follows if that fails.
	executing = "+"
)

// RunChild is the main function of the child: it becomes the caller's uplane, and returns an exit code only if that fails.
func RunChild() int {
	status := os.NewFile(statusFD, "daemon")
	err := runChild(status)
	fmt.Fprint(status, err)
	status.Close()
	return 1
}

func runChild(status io.Writer) error {
	spec := os.NewFile(specFD, "daemon")
	var b childSpec
	if err := json.NewDecoder(spec).Decode(&b); err != nil {
		return fmt.Errorf("read what to start: %w", err)
	}
	return b.exec(status)
}

// exec applies the specification to this process and executes uplane.
//
// Namespaces, mounts, priority, capabilities and keyrings are a thread's own: all of it happens to this one, and the
// others go when it executes the program. Users and groups, limits and the rest are the process's. While it is the
// user's already and still ours, the kernel lets the user neither trace it nor see its memory and descriptors, for its
// user has changed since it was executed; see checkNotTraceable.
func (b *childSpec) exec(status io.Writer) error {
	runtime.LockOSThread()
	if err := checkNotTraceable(); err != nil {
		return err
	}
	for _, dir := range b.Control {
		err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
		if err != nil && !errors.Is(err, unix.EROFS) { // in a container it may be, and then all are in one
			return fmt.Errorf("enter the caller's control group: %w", err)
		}
	}
	if err := nsexec.Join(b.Lane); err != nil {
		return err
	}
	if err := b.account(); err != nil {
		return err
	}
	if err := newKeyring(); err != nil {
		return fmt.Errorf("make a keyring: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	unix.Umask(b.Umask)
	if err := closeOnExec(); err != nil {
		return err
	}
	if err := defaultSignals(); err != nil {
		return err
	}
	if err := b.setLimits(); err != nil {
		return err
	}
	if err := b.dropPrivileges(); err != nil {
		return err
	}
	// Until now it had root's in it. Nobody else's keys are in the user's own; without, none are missed.
	_, _ = unix.KeyctlInt(unix.KEYCTL_LINK, unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_SESSION_KEYRING, 0, 0)
	fmt.Fprint(status, executing)
	return fmt.Errorf("execute %s: %w", b.Command[0], syscall.Exec(b.Command[0], b.Command, os.Environ()))
}

// checkNotTraceable refuses a machine that lets users trace a process that becomes theirs: this one has other threads, which
// stay root's for a moment longer.
func checkNotTraceable() error {
	const path = "/proc/sys/fs/suid_dumpable"
	value, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(value)) == "1" {
		err = fmt.Errorf("with 1 in %s users can trace what becomes theirs, also what root starts for them", path)
	}
	return err
}

// account sets the OOM score and the login user of the kernel's audit.
func (b *childSpec) account() error {
	const oom, thread = "/proc/self/oom_score_adj", "/proc/thread-self/" // a thread may only change its own login
	score, err := os.ReadFile(oom)
	if err == nil && string(score) != b.OOMScore {
		err = os.WriteFile(oom, []byte(b.OOMScore), 0)
	}
	if err != nil {
		return err
	}
	login, err := loginUID(thread)
	if err == nil && login != b.LoginUID {
		err = os.WriteFile(thread+"loginuid", []byte(strconv.FormatUint(uint64(b.LoginUID), 10)), 0)
	}
	return err
}

// newKeyring gives this thread an empty session keyring: by the daemon's it would have keys of root's.
func newKeyring() error {
	_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // a kernel without keys; a container that has none
		return nil
	}
	return err
}

// limitNumbers are the kernel's numbers of limits, by systemd's names.
var limitNumbers = map[string]int{
	"CPU": unix.RLIMIT_CPU, "FSIZE": unix.RLIMIT_FSIZE, "DATA": unix.RLIMIT_DATA, "STACK": unix.RLIMIT_STACK, "CORE": unix.RLIMIT_CORE,
	"RSS": unix.RLIMIT_RSS, "NPROC": unix.RLIMIT_NPROC, "NOFILE": unix.RLIMIT_NOFILE, "MEMLOCK": unix.RLIMIT_MEMLOCK, "AS": unix.RLIMIT_AS,
	"LOCKS": unix.RLIMIT_LOCKS, "SIGPENDING": unix.RLIMIT_SIGPENDING, "MSGQUEUE": unix.RLIMIT_MSGQUEUE, "NICE": unix.RLIMIT_NICE,
	"RTPRIO": unix.RLIMIT_RTPRIO, "RTTIME": unix.RLIMIT_RTTIME,
}

func (b *childSpec) setLimits() error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, b.Nice); err != nil {
		return fmt.Errorf("set the priority: %w", err)
	}
	for name, limit := range b.Limits {
		if err := unix.Setrlimit(limitNumbers[name], &limit); err != nil {
			return fmt.Errorf("set limit %s: %w", name, err)
		}
	}
	return nil
}

// dropPrivileges makes the process the user's. Of capabilities none is left, but for root's, who has them from the program's
// execution.
func (b *childSpec) dropPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, 0, 0, 0, 0); err != nil { // they could keep capabilities
		return fmt.Errorf("set secure bits: %w", err)
	}
	for c := range 64 {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if err != nil {
			break // the kernel has no more
		}
		if has == 1 && b.Bounding>>c&1 == 0 {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
				return fmt.Errorf("drop capability %d: %w", c, err)
			}
		}
	}
	groups := make([]int, len(b.Groups))
	for i, g := range b.Groups {
		groups[i] = int(g)
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if err := unix.Setresgid(int(b.GID), int(b.GID), int(b.GID)); err != nil {
		return fmt.Errorf("become group %d: %w", b.GID, err)
	}
	if err := unix.Setresuid(int(b.UID), int(b.UID), int(b.UID)); err != nil {
		return fmt.Errorf("become user %d: %w", b.UID, err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData // another user has none anyway, but may inherit some
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if b.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("rule out new privileges: %w", err)
		}
	}
	return nil
}

// defaultSignals lets all signals through, and ignores none. Those that this process handles, the program will not.
func defaultSignals() error {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return err
	}
	ignored, err := strconv.ParseUint(field(status, "SigIgn"), 16, 64)
	if err != nil {
		return err
	}
	// os/signal knows no way to do so to what was ignored from the start.
	var byDefault [4]uint64 // the kernel's struct sigaction, in its longest form
	for s := range 64 {
		if ignored>>s&1 == 0 {
			continue
		}
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s+1), uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
		if errno != 0 {
			return fmt.Errorf("no longer ignore signal %d: %w", s+1, errno)
		}
	}
	return unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil)
}

// closeOnExec closes all but the standard descriptors, on execution: whoever started the daemon may have left some.
func closeOnExec() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > unix.Stderr {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}
