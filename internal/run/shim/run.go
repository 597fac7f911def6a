// Package shim is "uplane run" for users who are not root, in two halves. One is
// in the user's shell: it has the daemon start the other, and then stands
// for the program, to whoever started it (this file), and to its terminal
// (terminal.go). The other, the keeper, was started in the lane as the
// same user: it makes of itself what the first was started as, starts the
// program and stays its parent (keeper.go). They talk over a socket of the user's
// (talk.go), so descriptors, environment and folders pass through nobody else's
// hands, and a daemon that restarts is not missed.
package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"uplane/internal/run/nsexec"
)

// Starter has the keeper started in the lane, as this user. It comes to the socket.
type Starter func(ctx context.Context, socket string) error

// Run runs a command in a lane and returns its exit code, and the name of the process that ended with it. An error
// means that it did not run.
func Run(ctx context.Context, start Starter, lane string, command, environ []string) (code int, name string, err error) {
	p, err := prepare(lane, command, environ)
	if err != nil {
		return nsexec.ExitFailed, "", err
	}
	defer p.close()
	signal.Notify(p.signals, forwarded()...)
	defer signal.Stop(p.signals)
	if err := p.start(ctx, start); err != nil {
		var failure *nsexec.Failure
		if errors.As(err, &failure) {
			return failure.Code, "", err
		}
		return nsexec.ExitFailed, "", err
	}
	return p.follow()
}

// program is what runs, as it is seen from here.
type program struct {
	request  request
	pass     []int     // the descriptors that go with the request
	dir      int       // one of them
	terminal *terminal // nil: the program has none, or has no use for one of its own
	conn     *conn
	events   chan event
	signals  chan os.Signal // that are for it
}

// prepare gathers what the program shall be like.
func prepare(lane string, command, environ []string) (p *program, err error) {
	p = &program{dir: -1, signals: make(chan os.Signal, 64)}
	p.request = request{Lane: lane, Command: raw(command), Environ: raw(environ), Slave: -1, Screen: -1}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	inherited, err := inheritable()
	if err != nil {
		return nil, err
	}
	if p.dir, err = unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open the working directory: %w", err)
	}
	p.request.Dir = p.add(p.dir)
	p.terminal = openTerminal()
	if t := p.terminal; t != nil {
		_ = control(t.slave, func(fd int) error { p.request.Slave = p.add(fd); return nil })
		_ = control(t.screen, func(fd int) error { p.request.Screen = p.add(fd); return nil })
		p.request.Foreground = t.begins()
	}
	for _, number := range inherited {
		passed := p.request.Slave
		if p.terminal == nil || number > 2 || !isTerminal(number) {
			passed = p.add(number)
		}
		p.request.Files = append(p.request.Files, file{number, passed})
	}
	if len(p.pass) > maxPassed {
		return nil, fmt.Errorf("%d descriptors are open; %d can be passed on", len(p.pass), maxPassed)
	}
	p.request.Umask = syscall.Umask(0)
	syscall.Umask(p.request.Umask)
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT} { // of the others Go forgets it
		if signal.Ignored(s) {
			p.request.Ignored = append(p.request.Ignored, s)
		}
	}
	return p, nil
}

func (p *program) add(fd int) (index int) {
	p.pass = append(p.pass, fd)
	return len(p.pass) - 1
}

func (p *program) close() {
	if p.dir >= 0 {
		unix.Close(p.dir)
	}
	if p.conn != nil {
		p.conn.Close()
	}
	if p.terminal != nil {
		p.terminal.close()
	}
}

// inheritable are the numbers of the descriptors that a program which this one
// becomes would have.
func inheritable() (numbers []int, err error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			numbers = append(numbers, n)
		}
	}
	return numbers, nil
}

// openFiles is this process's own soft limit of open files. Go has raised it, and
// tells programs that it starts what it was, but nobody else.
func openFiles() (soft uint64) {
	out, err := exec.Command("/bin/sh", "-c", "ulimit -Sn").Output()
	if err != nil {
		return 0
	}
	soft, err = strconv.ParseUint(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return unix.RLIM_INFINITY
	}
	return soft
}

// meetTimeout is for a keeper that was started and does not come.
const meetTimeout = 20 * time.Second

// start returns when the program runs.
func (p *program) start(ctx context.Context, start Starter) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	listener, err := listen()
	if err != nil {
		return err
	}
	defer listener.close()
	limit := make(chan uint64, 1)
	go func() { limit <- openFiles() }()
	refused := make(chan error, 1)
	go func() {
		if err := start(ctx, listener.path); err != nil {
			refused <- err
			return
		}
		_ = listener.SetDeadline(time.Now().Add(meetTimeout))
	}()
	type meeting struct {
		conn *conn
		err  error
	}
	met := make(chan meeting, 1)
	go func() { // it may come before the daemon has said so
		conn, err := listener.accept()
		met <- meeting{conn, err}
	}()
	for p.conn == nil {
		select {
		case s := <-p.signals:
			if s := s.(syscall.Signal); endsUs(s) {
				return &nsexec.Failure{Code: 128 + int(s), Err: fmt.Errorf("%v before the program ran", s)}
			}
		case err := <-refused:
			return err
		case m := <-met:
			if m.err != nil {
				return m.err
			}
			p.conn = m.conn
			listener.close() // who kills us while the program runs shall not leave it behind
		}
	}
	p.request.OpenFiles = <-limit
	if err := p.conn.sendRequest(p.request, p.pass); err != nil {
		return fmt.Errorf("tell the lane's half of uplane: %w", err)
	}
	p.events = make(chan event, 8)
	go p.listen()
	first, ok := <-p.events
	switch {
	case !ok:
		return errLost
	case first.Error != "":
		return &nsexec.Failure{Code: first.Code, Err: errors.New(first.Error), Next: first.Next}
	}
	if p.terminal != nil {
		p.terminal.begin(p.request.Foreground)
	}
	return nil
}

var errLost = errors.New("the lane's half of uplane is gone, and the program with it")

func (p *program) listen() {
	defer close(p.events)
	for {
		var e event
		if p.conn.in.Decode(&e) != nil {
			return
		}
		p.events <- e
	}
}

// follow stands for the program until it ends.
func (p *program) follow() (code int, name string, err error) {
	for {
		select {
		case s := <-p.signals:
			p.forward(s.(syscall.Signal))
		case e, ok := <-p.events:
			switch {
			case !ok:
				return nsexec.ExitFailed, "", errLost
			case e.Stopped != 0:
				p.suspend(e.Stopped)
			default:
				if p.terminal != nil {
					p.terminal.end()
				}
				return ended(e), e.Name, nil
			}
		}
	}
}

// ended returns the program's exit code, or ends as the program did.
func ended(e event) (code int) {
	if e.Signal == 0 {
		return e.Code
	}
	switch e.Signal {
	case syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL: // Go dies of these without a word
		signal.Reset(e.Signal)
		_ = syscall.Kill(os.Getpid(), e.Signal)
		time.Sleep(time.Second) // it comes any moment, unless somebody ignores it
	}
	return 128 + int(e.Signal)
}

// forwarded are the signals that are for the program.
func forwarded() (all []os.Signal) {
	for _, s := range []syscall.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM,
		syscall.SIGTSTP, syscall.SIGCONT, syscall.SIGWINCH,
	} {
		if !signal.Ignored(s) {
			all = append(all, s)
		}
	}
	return all
}

func endsUs(s syscall.Signal) bool {
	return s != syscall.SIGCONT && s != syscall.SIGWINCH && s != syscall.SIGTSTP
}

// forward hands a signal on. What a terminal sends, it sends to all of a job.
func (p *program) forward(s syscall.Signal) {
	switch s {
	case syscall.SIGWINCH:
		if p.terminal != nil {
			p.terminal.resize() // with which the kernel tells the program
			return
		}
		p.conn.send(order{Signal: s, Group: true})
	case syscall.SIGCONT:
		// Somebody had stopped us alone; the program went on.
		if p.terminal != nil && p.terminal.foreground() {
			p.terminal.resume()
		}
	case syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP:
		p.conn.send(order{Signal: s, Group: true})
	default:
		p.conn.send(order{Signal: s})
	}
}
