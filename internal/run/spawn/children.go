package spawn

import (
	"errors"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// children are the processes that this daemon has started and not waited for: ended, they would stay as zombies. It
// takes no thread or descriptor for each, of which a wait for one takes either. Those of a daemon that has ended
// are process 1's.
type children struct {
	mu   sync.Mutex
	pids map[int]bool
}

func (c *children) add(pid int) {
	c.mu.Lock()
	if c.pids == nil {
		c.pids = map[int]bool{}
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, unix.SIGCHLD)
		go func() {
			for range ended {
				c.reap()
			}
		}()
	}
	c.pids[pid] = true
	c.mu.Unlock()
	c.reap() // it may have ended before
}

func (c *children) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for pid := range c.pids {
		n, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
		if n == pid || errors.Is(err, unix.ECHILD) {
			delete(c.pids, pid)
		}
	}
}
