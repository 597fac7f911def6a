package spawn

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"uplane/internal/run/nsexec"
	"uplane/policy"
)

// Everybody stands for all users.
const Everybody = ^uint32(0)

// Program is a process in a lane.
type Program struct {
	Lane     string
	PID, UID uint32 // whose it is: the real user
	Since    time.Time
	Name     string // what it, or who started it, calls it: 15 bytes at most

	netns  namespaceID
	keeper bool // our own, which stands between "uplane run" and a program
}

// List returns what runs in a lane, or in all of lanes, of one user or of everybody, by process ID.
func (m *Manager) List(lanes []string, uid uint32) ([]Program, error) {
	byNetns := map[namespaceID]string{}
	for _, lane := range lanes {
		if s, err := namespaceOf(lane); err == nil { // one that is down has none, one in error may have none
			byNetns[s] = lane
		}
	}
	all, err := m.scan(byNetns, uid)
	out := []Program{}
	for _, p := range all {
		if !p.keeper {
			out = append(out, p)
		}
	}
	return out, err
}

// scan looks at every process of the machine, which costs some milliseconds: one at a time, so that who asks all day
// has no more than one processor work for it. It reads nothing for which the kernel would wait for a process: of those,
// the arguments are one, and a program can make that wait as long as it likes.
func (m *Manager) scan(lanes map[namespaceID]string, uid uint32) ([]Program, error) {
	m.scanning.Lock()
	defer m.scanning.Unlock()
	if len(lanes) == 0 {
		return nil, nil
	}
	bootedAt, err := bootTime()
	if err != nil {
		return nil, err
	}
	pids, err := processes()
	if err != nil {
		return nil, err
	}
	var out []Program
	for _, pid := range pids {
		its, err := readNamespaceID(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			continue // it has gone, or is a zombie
		}
		lane, ok := lanes[its]
		if !ok {
			continue
		}
		if p, err := describe(pid, uid, bootedAt); err == nil {
			p.Lane, p.netns, p.keeper = lane, its, p.keeper && m.isUplane(pid)
			out = append(out, p)
		}
	}
	return out, nil
}

// processes are the numbers of all processes but ours, whose threads go in and out of lanes.
func processes() (pids []uint32, err error) {
	entries, err := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.ParseUint(e.Name(), 10, 32); err == nil && int(pid) != os.Getpid() {
			pids = append(pids, uint32(pid))
		}
	}
	return pids, err
}

// namespaceID identifies a namespace.
type namespaceID struct{ device, inode uint64 }

func readNamespaceID(path string) (namespaceID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return namespaceID{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return namespaceID{st.Dev, st.Ino}, nil
}

// namespaceOf is a lane's namespace. Another that has got its name is not: what runs there is nobody's here, and may
// be all that runs on the host.
func namespaceOf(lane string) (namespaceID, error) {
	if err := policy.CheckLaneName(lane); err != nil {
		return namespaceID{}, err
	}
	before, err := readNamespaceID(policy.NetnsPath(lane))
	if err != nil {
		return namespaceID{}, err
	}
	if err := nsexec.CheckLane(lane); err != nil {
		return namespaceID{}, err
	}
	if after, err := readNamespaceID(policy.NetnsPath(lane)); err != nil || after != before {
		return namespaceID{}, fmt.Errorf("namespace %s is being made anew", lane)
	}
	return before, nil
}

func bootTime() (time.Time, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Time{}, err
	}
	return time.Now().Add(-time.Duration(now.Nano())), nil
}

// ticks are the kernel's to programs, a second: the same on all of Linux.
const ticks = 100

// owner is a process's real user. It also returns /proc/PID/status, in which it is.
func owner(pid uint32) (uid uint32, status []byte, err error) {
	status, err = os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, nil, err
	}
	uids := strings.Fields(field(status, "Uid"))
	if len(uids) == 0 {
		return 0, nil, errors.New("no user")
	}
	n, err := strconv.ParseUint(uids[0], 10, 32)
	return uint32(n), status, err
}

// describe looks at a process of a user, or of anybody. Of others' it reads nothing but whose they are.
func describe(pid, uid uint32, bootedAt time.Time) (Program, error) {
	p := Program{PID: pid}
	dir := fmt.Sprintf("/proc/%d/", pid)
	owner, status, err := owner(pid)
	if err != nil {
		return p, err
	}
	if uid != Everybody && uid != owner {
		return p, errors.New("another user's")
	}
	p.UID = owner
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return p, err
	}
	// The name, in brackets, may have anything in it.
	rest := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const startTime = 19 // field 22, less pid and name
	if len(rest) <= startTime {
		return p, errors.New("no start time")
	}
	started, err := strconv.ParseInt(rest[startTime], 10, 64)
	if err != nil {
		return p, err
	}
	p.Since = bootedAt.Add(time.Duration(started) * time.Second / ticks)
	p.Name = field(status, "Name")
	p.keeper = p.Name == KeeperName
	return p, nil
}

// isUplane tells whether a process runs the installed uplane, or the one that an upgrade has replaced: any program may
// call itself a keeper.
func (m *Manager) isUplane(pid uint32) bool {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.TrimSuffix(path, " (deleted)") == m.Uplane
}

// KeeperCommand is the argument by which uplane becomes what "uplane run" has in the lane.
const KeeperCommand = "inside"

// keeper is the command of one.
func (m *Manager) keeper(like execContext, socket string) []string {
	return []string{m.Uplane, KeeperCommand, socket, strconv.FormatUint(uint64(like.loginUID), 10)}
}

// KeeperName is what that calls itself, so that it is told from other processes of uplane's.
const KeeperName = "uplane-keeper"

// KeeperSocket begins the name of the folder with its socket.
const KeeperSocket = "/uplane-run-"
