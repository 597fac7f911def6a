package view

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

// Follow keeps the lanes' files where programs see them. When a file of the host's is replaced, as
// NetworkManager replaces resolv.conf with every change, the kernel takes away whatever is mounted over it, in all
// mount namespaces, and programs that run in a lane would ask the host's servers from then on.
func Follow(ctx context.Context, log *slog.Logger) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("open inotify: %w", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer context.AfterFunc(ctx, func() { events.Close() })()
	defer events.Close()
	buf := make([]byte, 16<<10)
	for {
		names := watch(fd)
		if err := restore(); err != nil {
			log.Warn("keep programs in lanes asking the lanes' servers", "error", err)
		}
		for {
			n, err := events.Read(buf)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return fmt.Errorf("read inotify: %w", err)
			}
			if slices.ContainsFunc(replaced(buf[:n]), func(name string) bool { return slices.Contains(names, name) }) {
				break
			}
		}
	}
}

// watch watches the folders of the host's files, and of what these link to, and returns the files' names there.
func watch(inotify int) (names []string) {
	for _, f := range Files("") {
		paths := []string{f.Hosts}
		if real, err := filepath.EvalSymlinks(f.Hosts); err == nil {
			paths = append(paths, real)
		}
		for _, path := range paths {
			names = append(names, filepath.Base(path))
			// To watch a folder again is free. One that can't be watched has its changes seen with the next of another.
			_, _ = unix.InotifyAddWatch(inotify, filepath.Dir(path), unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVE|unix.IN_ONLYDIR)
		}
	}
	return names
}

// replaced returns the names in inotify's events.
func replaced(events []byte) (names []string) {
	for len(events) >= unix.SizeofInotifyEvent {
		event := (*unix.InotifyEvent)(unsafe.Pointer(&events[0]))
		end := unix.SizeofInotifyEvent + int(event.Len)
		names = append(names, strings.TrimRight(string(events[unix.SizeofInotifyEvent:end]), "\x00"))
		events = events[end:]
	}
	return names
}

// restore puts the lanes' files back in all mount namespaces of programs in lanes that see the host's.
func restore() error {
	lanes := map[uint64]string{} // by the network namespace
	paths, _ := filepath.Glob(policy.ResolvConfPath("*"))
	for _, path := range paths {
		lane := filepath.Base(filepath.Dir(path))
		if text, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(text), policy.FileTag+lane+":") {
			continue
		}
		if inode, err := namespace("/run/netns/" + lane); err == nil {
			lanes[inode] = lane
		}
	}
	if len(lanes) == 0 {
		return nil
	}
	ours, err := namespace("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	done := map[uint64]bool{ours: true}
	var errs []error
	for _, e := range entries {
		dir := "/proc/" + e.Name() + "/ns/"
		net, err := namespace(dir + "net")
		lane, ok := lanes[net]
		if err != nil || !ok {
			continue
		}
		if mounts, err := namespace(dir + "mnt"); err == nil && !done[mounts] {
			done[mounts] = true
			if err := restoreIn(dir+"mnt", lane); err != nil {
				errs = append(errs, fmt.Errorf("process %s in lane %s: %w", e.Name(), lane, err))
			}
		}
	}
	return errors.Join(errs...)
}

// namespace is a namespace's inode.
func namespace(path string) (inode uint64, err error) {
	var st unix.Stat_t
	err = unix.Stat(path, &st)
	return st.Ino, err
}

// restoreIn puts a lane's files back in a mount namespace. One that a user has made, as sandboxes do, is the user's business:
// what is where in there, root should not rely on.
func restoreIn(path, lane string) error {
	ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the process has ended
	}
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	if user, err := isUsers(ns); err != nil || user {
		return err
	}
	hosts := make([]os.FileInfo, 0, 2)
	for _, f := range Files(lane) {
		info, err := os.Stat(f.Hosts)
		if err != nil {
			info = nil // a link to nowhere, or nothing
		}
		hosts = append(hosts, info)
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		result <- func() error {
			// Threads that share their working directory can't enter one.
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare: %w", err)
			}
			if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("enter mount namespace: %w", err)
			}
			for i, f := range Files(lane) {
				// Whatever else is there, such as a container's own, was put there on purpose.
				if info, err := os.Stat(f.Hosts); err == nil && (hosts[i] == nil || !os.SameFile(info, hosts[i])) {
					continue
				}
				if err := f.bind(); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	return <-result
}

// isUsers tells whether a namespace belongs to another user namespace than ours.
func isUsers(ns int) (bool, error) {
	owner, err := unix.IoctlRetInt(ns, unix.NS_GET_USERNS)
	if err == unix.EPERM {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look whose mount namespace it is: %w", err)
	}
	defer unix.Close(owner)
	var st unix.Stat_t
	if err := unix.Fstat(owner, &st); err != nil {
		return false, err
	}
	ours, err := namespace("/proc/self/ns/user")
	return st.Ino != ours, err
}
