package lab

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// place is where programs run, beside their network: the processes and files around a process 1.
type place struct {
	pid    int // of process 1, as seen outside
	spaces []*os.File
}

// openPlace opens the namespaces of a process 1. The mount namespace is the last: what is entered
// after it would be looked up in it.
func openPlace(pid int, kinds ...string) (*place, error) {
	p := &place{pid: pid}
	for _, kind := range append(kinds, "mnt") {
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			_ = p.Close()
			return nil, err
		}
		p.spaces = append(p.spaces, file)
	}
	return p, nil
}

// enter moves the calling thread into the place and into a network namespace; its children are
// born in the place's PID namespace.
func (p *place) enter(net *os.File) error {
	// Threads share root and working directory, which forbids a mount namespace of one's own.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the thread's root: %w", err)
	}
	if err := setns(net, unix.CLONE_NEWNET); err != nil {
		return err
	}
	for _, space := range p.spaces {
		if err := setns(space, 0); err != nil {
			return err
		}
	}
	return nil
}

// path is where this process finds a file of the place.
func (p *place) path(name string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", p.pid), name)
}

// logPath is where the output of a program of this name goes, see [Cmd.startLogged].
func (p *place) logPath(name string) string {
	return p.path("/run/lab/" + filepath.Base(name) + ".log")
}

// log is what a program of this name has printed.
func (p *place) log(name string) string {
	log, err := os.ReadFile(p.logPath(name))
	if err != nil {
		return err.Error()
	}
	return string(log)
}

// Close lets the namespaces go.
func (p *place) Close() error {
	for _, file := range p.spaces {
		_ = file.Close()
	}
	return nil
}
