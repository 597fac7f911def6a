package shim

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"uplane/internal/run/nsexec"
	"uplane/internal/run/spawn"
	"uplane/internal/systemd"
)

// Keep is the half in the lane: it starts the program that the half at the other
// end of the socket wants, and stays until it has ended. It returns its own exit code.
func Keep(socket, login string, stderr io.Writer) int {
	c, err := meet(socket)
	if err != nil {
		fmt.Fprintln(stderr, "uplane:", err)
		_ = systemd.Status(err.Error()) // the daemon tells who waits at the socket
		return nsexec.ExitFailed
	}
	k := &keeper{conn: c, slave: -1}
	defer k.conn.Close()
	if err := k.start(login); err != nil {
		e := event{Error: err.Error(), Code: nsexec.ExitFailed}
		var failure *nsexec.Failure
		if errors.As(err, &failure) {
			e.Code, e.Next = failure.Code, failure.Next
		}
		k.conn.send(e)
		return 0
	}
	k.conn.send(event{})
	// What a terminal, or whoever ends the unit, sends is for the program. Not before it was
	// started, for a program ignores what its parent does.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU)
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	go func() {
		for range terminate {
			// A shell does not heed SIGTERM.
			k.signal(-k.pid, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGCONT)
		}
	}()
	go k.obey()
	k.wait()
	return 0
}

// meet goes to the other half and tells systemd, and so the daemon, that it is there. What fails from then on, the other half
// hears over the socket.
func meet(socket string) (*conn, error) {
	// This name is the process's; any of its threads may write it.
	if err := os.WriteFile("/proc/self/comm", []byte(spawn.KeeperName), 0); err != nil {
		return nil, err
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// What it says to start is started as this user, so it must be this user's. Whoever asked the daemon could name any socket,
	// also one that another user had put into a folder for all.
	if uid, err := peer(c); err != nil || uid != os.Getuid() {
		c.Close()
		return nil, errors.Join(fmt.Errorf("the socket %s is of user %d", socket, uid), err)
	}
	if err := systemd.Ready(); err != nil {
		c.Close()
		return nil, err
	}
	return newConn(c), nil
}

// logIn tells the kernel's audit whose login this thread's children belong to, as the daemon has read it from who asked. What
// systemd starts belongs to none, and then a thread may say it, once, and for itself alone: /proc/self is the first thread.
func logIn(uid string) error {
	const file = "/proc/thread-self/loginuid"
	is, err := os.ReadFile(file)
	if uid == noLogin || err == nil && string(is) == uid {
		return nil
	}
	if err := os.WriteFile(file, []byte(uid), 0); err != nil {
		return fmt.Errorf("tell audit of the login of user %.20q: %w", uid, err)
	}
	return nil
}

// noLogin is the kernel's number for no login.
const noLogin = "4294967295"

// keeper is the program's parent.
type keeper struct {
	conn   *conn
	pid    int
	slave  int // the program's terminal; -1: none
	screen int // the user's, as it was; -1: none
	was    unix.Termios
	ended  atomic.Bool
}

// start makes of this process what the other half was started as, and starts the program.
func (k *keeper) start(login string) error {
	r, passed, err := k.conn.receiveRequest()
	if err != nil {
		return fmt.Errorf("hear what to start: %w", err)
	}
	// The program has its login from the thread that forks it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := logIn(login); err != nil {
		return err
	}
	if err := nsexec.CheckInside(r.Lane); err != nil {
		return fmt.Errorf("start in lane %.40q: %w", r.Lane, err)
	}
	nth := func(i int) int {
		if i < 0 || i >= len(passed) {
			return -1
		}
		return passed[i]
	}
	if err := unix.Fchdir(nth(r.Dir)); err != nil {
		return fmt.Errorf("enter the working directory: %w", err)
	}
	syscall.Umask(r.Umask)
	command, environ := cooked(r.Command), cooked(r.Environ)
	setPath(environ)
	path, err := nsexec.FindInLane(command)
	if err != nil {
		return err
	}
	attr := &syscall.ProcAttr{Env: environ, Sys: &syscall.SysProcAttr{Setpgid: true}}
	for _, f := range r.Files {
		for len(attr.Files) <= f.Number {
			attr.Files = append(attr.Files, ^uintptr(0)) // closed
		}
		attr.Files[f.Number] = uintptr(nth(f.Passed))
	}
	k.slave, k.screen = nth(r.Slave), nth(r.Screen)
	if k.screen >= 0 {
		if was, err := unix.IoctlGetTermios(k.screen, unix.TCGETS); err == nil {
			k.was = *was
		}
	}
	if k.slave >= 0 {
		// This was started as a session of its own, which takes the terminal for its.
		if err := unix.IoctlSetInt(k.slave, unix.TIOCSCTTY, 0); err != nil {
			return fmt.Errorf("take the terminal: %w", err)
		}
		attr.Sys.Foreground, attr.Sys.Ctty = r.Foreground, k.slave
	}
	for _, s := range r.Ignored {
		signal.Ignore(s)
	}
	if r.OpenFiles != 0 {
		limit := unix.Rlimit{}
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return err
		}
		limit.Cur = min(r.OpenFiles, limit.Max)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return fmt.Errorf("limit open files: %w", err)
		}
	}
	k.pid, err = syscall.ForkExec(path, command, attr)
	if err != nil {
		return nsexec.CannotExec(path, err)
	}
	for i, fd := range passed {
		if i != r.Slave && i != r.Screen {
			unix.Close(fd) // a pipe ends when the program closes it
		}
	}
	return nil
}

// setPath makes the program's PATH the one that it is looked up by.
func setPath(environ []string) {
	os.Unsetenv("PATH")
	for _, kv := range environ {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok {
			os.Setenv("PATH", path)
		}
	}
}

// obey carries out orders. The other half stands for the program: who kills it
// means that, and has left the user's terminal as it was.
func (k *keeper) obey() {
	for {
		var o order
		if k.conn.in.Decode(&o) != nil {
			if k.ended.Load() {
				return
			}
			k.signal(k.pid, syscall.SIGKILL)
			if k.screen >= 0 {
				_ = unix.IoctlSetTermios(k.screen, unix.TCSETS, &k.was)
			}
			return
		}
		if o.Continue {
			k.give(o.Foreground)
			k.signal(-k.pid, syscall.SIGCONT)
		}
		switch {
		case o.Signal == 0:
		case o.Group:
			k.signal(-k.pid, o.Signal)
		default:
			k.signal(k.pid, o.Signal)
		}
	}
}

// give gives the program its terminal's input, or takes it away.
func (k *keeper) give(foreground bool) {
	if k.slave < 0 {
		return
	}
	job := unix.Getpgrp()
	if foreground {
		job = k.pid
	}
	_ = unix.IoctlSetPointerInt(k.slave, unix.TIOCSPGRP, job)
}

func (k *keeper) signal(pid int, signals ...syscall.Signal) {
	for _, s := range signals {
		_ = syscall.Kill(pid, s)
	}
}

// wait tells what becomes of the program, until it has ended.
func (k *keeper) wait() {
	for {
		// First without taking note, for who has ended has a name only as long as nobody has.
		_ = unix.Waitid(unix.P_PID, k.pid, nil, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT, nil)
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", k.pid))
		var status unix.WaitStatus
		pid, err := unix.Wait4(k.pid, &status, unix.WUNTRACED|unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR), err == nil && pid == 0: // or it goes on already
		case err != nil:
			return
		case status.Stopped():
			k.conn.send(event{Stopped: status.StopSignal()})
		default:
			k.ended.Store(true)
			// What it has left behind shall not lose its terminal with us.
			k.give(false)
			e := event{Code: status.ExitStatus(), Name: strings.TrimSpace(string(name))}
			if status.Signaled() {
				e = event{Signal: status.Signal()}
			}
			k.conn.send(e)
			return
		}
	}
}
