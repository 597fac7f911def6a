package shim

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// terminal stands between the user's terminal and one that the program has for its own: a
// terminal belongs to one session, and the program is in another.
//
// It is attached while what the user types is for the program: the user's terminal is
// raw then, and the program's job has the other one's foreground. Otherwise the
// program still can write. A program that reads while it may not is stopped by
// the kernel, of which the keeper tells, so it gets the input when it first asks
// for it. That is how "uplane run steam -- make | less" leaves the keys to less.
type terminal struct {
	screen        *os.File // the user's, opened anew: our not waiting for it is nobody else's business
	master, slave *os.File // the program's
	cooked        unix.Termios
	reading       chan struct{} // closed when nothing is read any more; nil: not attached
	written       chan struct{} // closed when nothing is written any more
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// openTerminal makes a terminal for the program, if this process has one.
func openTerminal() *terminal {
	for fd := range 3 {
		if !isTerminal(fd) {
			continue
		}
		// By its own name it may be another user's, after su.
		for _, path := range []string{fmt.Sprintf("/proc/self/fd/%d", fd), "/dev/tty"} {
			screen, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
			if err != nil {
				continue
			}
			t := &terminal{screen: screen}
			if t.open() == nil {
				return t
			}
			t.close()
		}
	}
	return nil
}

// open makes the program's terminal like the user's.
func (t *terminal) open() (err error) {
	if t.master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0); err != nil {
		return err
	}
	var slave int
	err = control(t.master, func(fd int) (err error) {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		slave, err = ioctl(fd, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		return err
	})
	if err != nil {
		return err
	}
	t.slave = os.NewFile(uintptr(slave), "terminal")
	err = control(t.screen, func(fd int) error {
		was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return err
		}
		t.cooked = *was
		return unix.IoctlSetTermios(slave, unix.TCSETS, was)
	})
	t.resize()
	return err
}

func (t *terminal) close() {
	for _, f := range []*os.File{t.screen, t.master, t.slave} {
		if f != nil {
			f.Close()
		}
	}
}

// begins tells whether the program has the input from the start: in a pipeline somebody else
// may want it.
func (t *terminal) begins() bool { return isTerminal(0) && isTerminal(1) && t.foreground() }

// begin starts to hand things on.
func (t *terminal) begin(attached bool) {
	t.slave.Close() // the keeper has it
	t.slave = nil
	t.written = make(chan struct{})
	go func() {
		_, _ = io.Copy(t.screen, t.master)
		close(t.written)
	}()
	if attached {
		t.attach()
	}
}

// foreground tells whether the user's terminal is ours now. One that controls nobody's jobs is.
func (t *terminal) foreground() bool {
	yes := true
	_ = control(t.screen, func(fd int) error {
		if job, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err == nil {
			yes = job == unix.Getpgrp()
		}
		return nil
	})
	return yes
}

// attach gives what the user types to the program.
func (t *terminal) attach() {
	if t.reading != nil {
		return
	}
	_ = control(t.screen, func(fd int) error {
		if now, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
			t.cooked = *now
		}
		return unix.IoctlSetTermios(fd, unix.TCSETS, rawMode(t.cooked))
	})
	t.resize()
	_ = t.screen.SetReadDeadline(time.Time{})
	reading := make(chan struct{})
	t.reading = reading
	go func() {
		_, _ = io.Copy(t.master, t.screen)
		close(reading)
	}()
}

// detach undoes attach, and tells whether there was anything to undo.
func (t *terminal) detach() bool {
	if t.reading == nil {
		return false
	}
	_ = t.screen.SetReadDeadline(time.Unix(1, 0))
	<-t.reading
	t.reading = nil
	_ = control(t.screen, func(fd int) error { return unix.IoctlSetTermios(fd, unix.TCSETS, &t.cooked) })
	return true
}

// resume makes the user's terminal raw again, after the shell has had it.
func (t *terminal) resume() {
	if t.detach() {
		t.attach()
	}
}

// resize makes the program's terminal as large as the user's.
func (t *terminal) resize() {
	_ = control(t.screen, func(fd int) error {
		size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		if err != nil {
			return err
		}
		return control(t.master, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
	})
}

// end writes what the program has written last, and leaves the user's terminal as it was.
func (t *terminal) end() {
	// What it has left behind may write for ever.
	_ = t.master.SetReadDeadline(time.Unix(1, 0))
	<-t.written
	_ = t.master.SetReadDeadline(time.Time{})
	raw, err := t.master.SyscallConn()
	if err == nil {
		// The kernel says that there is no more only when all that was written has arrived.
		_ = raw.Read(func(fd uintptr) bool {
			buf := make([]byte, 4096)
			for {
				n, err := unix.Read(int(fd), buf)
				if n <= 0 || err != nil {
					return true
				}
				_, _ = t.screen.Write(buf[:n])
			}
		})
	}
	t.detach()
}

// rawMode is cfmakeraw(3).
func rawMode(t unix.Termios) *unix.Termios {
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag &^= unix.CSIZE | unix.PARENB
	t.Cflag |= unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return &t
}

// control does something with a file's descriptor; Fd would make it one that waits.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = do(int(fd)) })
	if cerr != nil {
		return cerr
	}
	return err
}

func ioctl(fd int, request uint, arg int) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}
