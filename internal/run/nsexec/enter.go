// Package nsexec runs a program in a lane from this very process, as root can:
// it enters the namespace, gives the program its own view of a few files, and
// becomes it. It asks nobody, so it costs little more than the program itself.
package nsexec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"uplane/internal/nsthread"
	"uplane/internal/run/overlay"
	"uplane/policy"
)

// Run executes a command in a lane, and returns only when that fails.
func Run(lane string, command, environ []string) *Failure {
	runtime.LockOSThread() // namespaces belong to the thread that will become the program
	if err := enterNetns(lane); err != nil {
		next := ""
		if errors.Is(err, fs.ErrNotExist) {
			err, next = fmt.Errorf("there is no lane %s, or it is down", lane), "uplane up "+lane
		}
		return &Failure{ExitFailed, err, next}
	}
	if err := overlay.Enter(lane); err != nil {
		return &Failure{Code: ExitFailed, Err: err}
	}
	path, err := FindInLane(command)
	if err != nil {
		return err.(*Failure)
	}
	return CannotExec(path, syscall.Exec(path, command, environ))
}

// Join moves this thread, which has to be a locked one, into a lane: into its network and its own view of files.
func Join(lane string) error {
	if err := enterNetns(lane); err != nil {
		return err
	}
	return overlay.Enter(lane)
}

// Find looks a program up by PATH, as a shell does.
func Find(program string) (path string, err error) {
	path, err = exec.LookPath(program)
	switch {
	case err == nil, errors.Is(err, exec.ErrDot): // the user's PATH says so
		return path, nil
	case errors.Is(err, fs.ErrPermission):
		return "", &Failure{Code: exitCannotExec, Err: fmt.Errorf("%s: permission denied", program)}
	case errors.Is(err, syscall.EISDIR):
		return "", &Failure{Code: exitCannotExec, Err: fmt.Errorf("%s: it is a directory", program)}
	}
	return "", &Failure{Code: exitNotFound, Err: fmt.Errorf("%s: command not found", program)}
}

// enterNetns moves this thread into the lane's namespace, once it carries our tag.
func enterNetns(lane string) error {
	path := policy.NetnsPath(lane)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open namespace", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return &os.PathError{Op: "enter namespace", Path: path, Err: err}
	}
	return checkTag(lane)
}

// CheckLane returns nil if the namespace of a lane's name is the lane's: somebody else may have made it, and then the
// lane is in error.
func CheckLane(lane string) error {
	return nsthread.Run(func() error { return enterNetns(lane) })
}

// CheckInside returns nil if this process was started in the lane: a name may have got another namespace in the meantime.
func CheckInside(lane string) error {
	if err := policy.CheckLaneName(lane); err != nil {
		return err
	}
	of, err := os.Stat(policy.NetnsPath(lane))
	if err != nil {
		return err
	}
	ours, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	if !os.SameFile(of, ours) {
		return fmt.Errorf("this is not the namespace of lane %s, or no longer", lane)
	}
	return checkTag(lane)
}
