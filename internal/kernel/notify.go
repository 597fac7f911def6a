package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

// notify watches folders and files. A namespace that is deleted by name while programs
// live in it makes no netlink event, nor does a file that someone edits.
type notify struct {
	file *os.File
	fd   int

	mu    sync.Mutex
	paths map[int32]string // by watch
	wds   map[string]int32 // and the other way round
}

func watchFiles(stale *stale, changed func()) (*notify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open inotify: %w", err)
	}
	n := &notify{file: os.NewFile(uintptr(fd), "inotify"), fd: fd, paths: map[int32]string{}, wds: map[string]int32{}}
	go func() {
		buf := make([]byte, 16<<10)
		for {
			size, err := n.file.Read(buf)
			if err != nil {
				return // closed
			}
			stale.mark(func(p *parts) { n.note(buf[:size], p) })
			changed()
		}
	}()
	return n, nil
}

// note marks what the events in b make stale.
func (n *notify) note(b []byte, p *parts) {
	for len(b) >= unix.SizeofInotifyEvent {
		e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
		if int(e.Len) > len(b)-unix.SizeofInotifyEvent {
			return
		}
		name := text(b[unix.SizeofInotifyEvent:][:e.Len])
		b = b[unix.SizeofInotifyEvent+int(e.Len):]
		n.mu.Lock()
		dir, known := n.paths[e.Wd]
		if e.Mask&unix.IN_IGNORED != 0 {
			delete(n.paths, e.Wd)
			if n.wds[dir] == e.Wd {
				delete(n.wds, dir)
			}
		}
		n.mu.Unlock()
		switch {
		case e.Mask&unix.IN_Q_OVERFLOW != 0 || !known:
			p.netns.all, p.files.all = true, true
		case dir == policy.NetnsDir && name != "":
			p.netns.name(name)
		case dir == policy.EtcNetns && name != "":
			p.files.name(policy.ResolvConfPath(name))
			p.files.name(policy.SwitchPath(name))
		case dir == policy.HostSwitch:
			p.files.name(dir)
		case name != "":
			p.files.name(filepath.Join(dir, name))
		case e.Mask&(unix.IN_IGNORED|unix.IN_DELETE_SELF) != 0 && dir != policy.NetnsDir && dir != policy.EtcNetns:
			// A lane's folder went, of which the one above tells.
		default:
			p.netns.all, p.files.all = true, true
		}
	}
}

// add watches dir; doing so again is free.
func (n *notify) add(dir string) {
	n.watch(dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_CLOSE_WRITE|unix.IN_MOVE|unix.IN_ONLYDIR)
}

// addFile watches a file until it is replaced, which is an event too.
func (n *notify) addFile(path string) {
	n.watch(path, unix.IN_CLOSE_WRITE|unix.IN_ATTRIB|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF)
}

func (n *notify) watch(path string, mask uint32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	// A failure (the limit of watches) only costs speed: the next event of any kind finds the change.
	if wd, err := unix.InotifyAddWatch(n.fd, path, mask); err == nil {
		n.paths[int32(wd)], n.wds[path] = path, int32(wd)
	}
}

// watches tells whether path is watched.
func (n *notify) watches(path string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.wds[path]
	return ok
}

func (n *notify) Close() { n.file.Close() }
