package lab

import (
	"bufio"
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

//go:embed init.sh
var initScript string

// holder is the host's process 1 and its namespaces. When it ends the kernel kills every other
// process in its PID namespace.
type holder struct {
	init          *exec.Cmd
	alive         io.Closer // closing it, as the end of this process does, ends init
	net, pid, mnt *os.File
}

func newHolder() (*holder, error) {
	init := exec.Command("/bin/sh", "-c", initScript)
	init.Dir = "/"
	init.Env = []string{"PATH=" + searchPath()}
	init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	var complaint bytes.Buffer
	init.Stderr = &complaint
	alive, err := init.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := init.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := init.Start(); err != nil {
		return nil, fmt.Errorf("start the host's namespaces: %w", err)
	}
	h := &holder{init: init, alive: alive}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		h.close() // first, as it waits for the complaint to be complete
		return nil, fmt.Errorf("set up the host's mounts: %w: %s", err, strings.TrimSpace(complaint.String()))
	}
	for name, file := range map[string]**os.File{"net": &h.net, "pid": &h.pid, "mnt": &h.mnt} {
		if *file, err = os.Open(fmt.Sprintf("/proc/%d/ns/%s", init.Process.Pid, name)); err != nil {
			h.close()
			return nil, err
		}
	}
	return h, nil
}

// enter moves the calling thread into the host's mount namespace and the given network namespace;
// its children are born in the host's PID namespace.
func (h *holder) enter(net *os.File) error {
	// Threads share root and working directory, which forbids a mount namespace of one's own.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the thread's root: %w", err)
	}
	return errors.Join(setns(net, unix.CLONE_NEWNET), setns(h.pid, unix.CLONE_NEWPID), setns(h.mnt, unix.CLONE_NEWNS))
}

// kill ends every process of the world. Init itself is gone only when all of this process's own
// children in it have been waited for.
func (h *holder) kill() {
	_ = h.alive.Close()
	_ = h.init.Process.Kill()
}

func (h *holder) close() {
	h.kill()
	_ = h.init.Wait() // "signal: killed" is what was asked for
	for _, file := range []*os.File{h.net, h.pid, h.mnt} {
		if file != nil {
			_ = file.Close()
		}
	}
}
