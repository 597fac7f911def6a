package lab

import (
	"bufio"
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed init.sh
var initScript string

// holder is the process 1 of a world's place. When it ends the kernel kills every other process in
// its PID namespace.
type holder struct {
	*place
	init   *exec.Cmd
	alive  io.Closer // closing it, as the end of this process does, ends init
	net    *os.File  // init's network namespace
	cgroup string    // of a machine, in the place
}

// newHolder makes a world's place, with the disk of a machine over an image if one is named.
func newHolder(image string) (*holder, error) {
	init := exec.Command("/bin/sh", "-c", initScript, "init.sh", image)
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
	line, err := bufio.NewReader(stdout).ReadString('\n')
	word, cgroup, _ := strings.Cut(strings.TrimSpace(line), " ")
	if word != "ready" {
		h.close() // first, as it waits for the complaint to be complete
		return nil, fmt.Errorf("set up the host's mounts: %w: %s", err, strings.TrimSpace(complaint.String()))
	}
	h.cgroup = cgroup
	if h.place, err = openPlace(init.Process.Pid, "pid"); err != nil {
		h.close()
		return nil, err
	}
	if h.net, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", init.Process.Pid)); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// kill has init end every process of the world. Init itself is gone only when all of this process's
// own children in it have been waited for.
func (h *holder) kill() { _ = h.alive.Close() }

func (h *holder) close() {
	h.kill()
	hard := time.AfterFunc(5*time.Second, func() { _ = h.init.Process.Kill() })
	_ = h.init.Wait() // it was told to end
	hard.Stop()
	if h.place != nil {
		_ = h.place.Close()
	}
	if h.net != nil {
		_ = h.net.Close()
	}
}
