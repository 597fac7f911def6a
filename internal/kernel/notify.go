package kernel

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// notify watches folders and files. A namespace that is deleted by name while programs
// live in it makes no netlink event, nor does a file that someone edits.
type notify struct {
	file *os.File
	fd   int
}

func watchFiles(stale *stale, changed func()) (*notify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open inotify: %w", err)
	}
	n := &notify{os.NewFile(uintptr(fd), "inotify"), fd}
	go func() {
		buf := make([]byte, 16<<10)
		for {
			if _, err := n.file.Read(buf); err != nil {
				return // closed
			}
			stale.mark(func(p *parts) { p.netnsList, p.files = true, true })
			changed()
		}
	}()
	return n, nil
}

// add watches dir; doing so again is free.
func (n *notify) add(dir string) {
	// A failure (the limit of watches) only costs speed: the next event of any kind finds the change.
	_, _ = unix.InotifyAddWatch(n.fd, dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_CLOSE_WRITE|unix.IN_MOVE|unix.IN_ONLYDIR)
}

// addFile watches a file until it is replaced, which is an event too.
func (n *notify) addFile(path string) {
	_, _ = unix.InotifyAddWatch(n.fd, path, unix.IN_CLOSE_WRITE|unix.IN_ATTRIB|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF)
}

func (n *notify) Close() { n.file.Close() }
