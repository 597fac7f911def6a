package programs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Everybody stands for all users.
const Everybody = ^uint32(0)

// Program is a process in a lane.
type Program struct {
	Lane     string
	PID, UID uint32 // whose it is: the real user
	Since    time.Time
	Command  string // with its arguments

	keeper bool // our own, which stands between "uplane run" and a program
}

// List returns what runs in a lane, or in all of lanes, of one user or of everybody, by process ID.
func (m *Manager) List(lanes []string, uid uint32) ([]Program, error) {
	all, err := m.scan(lanes, uid)
	out := []Program{}
	for _, p := range all {
		if !p.keeper {
			out = append(out, p)
		}
	}
	return out, err
}

// scan looks at every process of the machine, which costs some milliseconds: one at a time, so that who asks all day
// has no more than one processor work for it. Namespaces are told apart by their inode.
func (m *Manager) scan(lanes []string, uid uint32) ([]Program, error) {
	m.scanning.Lock()
	defer m.scanning.Unlock()
	spaces := map[uint64]string{}
	for _, lane := range lanes {
		if err := check(lane); err != nil {
			return nil, err
		}
		var st unix.Stat_t
		switch err := unix.Stat(namespacePath(lane), &st); {
		case errors.Is(err, fs.ErrNotExist): // down
		case err != nil:
			return nil, &os.PathError{Op: "stat", Path: namespacePath(lane), Err: err}
		default:
			spaces[st.Ino] = lane
		}
	}
	if len(spaces) == 0 {
		return nil, nil
	}
	booted, err := bootTime()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []Program
	for _, e := range entries {
		pid, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil || int(pid) == os.Getpid() {
			continue // our threads go in and out of lanes
		}
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) != nil {
			continue // it has gone, or is a zombie
		}
		lane, ok := spaces[st.Ino]
		if !ok {
			continue
		}
		if p, err := describe(uint32(pid), uid, booted); err == nil {
			p.Lane, p.keeper = lane, p.keeper && m.isUplane(uint32(pid))
			out = append(out, p)
		}
	}
	return out, nil
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
func describe(pid, uid uint32, booted time.Time) (Program, error) {
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
	p.Since = booted.Add(time.Duration(started) * time.Second / ticks)
	line, err := readCommand(dir + "cmdline")
	if err != nil {
		return p, err
	}
	argv := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	p.keeper = len(argv) > 2 && argv[1] == KeeperCommand && strings.Contains(argv[2], KeeperSocket)
	p.Command = clean(strings.Join(argv, " "))
	if p.Command == "" {
		p.Command = "[" + clean(field(status, "Name")) + "]"
	}
	return p, nil
}

// isUplane tells whether a process runs the installed uplane, or the one that an upgrade has replaced: any program may
// call itself a keeper.
func (m *Manager) isUplane(pid uint32) bool {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.TrimSuffix(path, " (deleted)") == m.Uplane
}

// maxArguments is what is read of a command, in bytes: enough to tell a keeper.
const maxArguments = 4096

// readCommand reads the beginning of a process's arguments. A process can make them as long as its memory.
func readCommand(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxArguments))
}

// KeeperCommand is the argument by which uplane becomes what "uplane run" has in the lane.
const KeeperCommand = "inside"

// keeper is the command of one.
func (m *Manager) keeper(like likeness, socket string) []string {
	return []string{m.Uplane, KeeperCommand, socket, strconv.FormatUint(uint64(like.loginUID), 10)}
}

// KeeperSocket begins the name of the folder with its socket.
const KeeperSocket = "/uplane-run-"

// maxCommand bounds a command in a list, in bytes: thousands of them may go over the bus.
const maxCommand = 256

// clean makes a line of text of what a program has made of its arguments.
func clean(command string) string {
	if len(command) > maxCommand {
		command = command[:maxCommand]
	}
	command = strings.ToValidUTF8(command, "?")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, command))
}
