package spawn

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"uplane/internal/nsthread"
	"uplane/internal/run/overlay"
	"uplane/policy"
)

// Follow keeps the lanes' files where programs see them. When a file of the host's is replaced, as
// NetworkManager replaces resolv.conf with every change, the kernel takes away whatever is mounted over it, in all
// mount namespaces, and programs that run in a lane would ask the host's servers from then on.
func (m *Manager) Follow(ctx context.Context, log *slog.Logger) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("open inotify: %w", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer context.AfterFunc(ctx, func() { events.Close() })()
	defer events.Close()
	r := restorer{m, map[namespaceID]bool{}}
	buf := make([]byte, 16<<10)
	for {
		names := watch(fd)
		if err := r.restore(ctx); err != nil {
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
			if slices.ContainsFunc(replaced(buf[:n]), func(name string) bool { return name == "" || slices.Contains(names, name) }) {
				break
			}
		}
	}
}

// watch watches the folders of the host's files, and of what these link to, and returns the files' names there.
func watch(inotify int) (names []string) {
	for _, f := range overlay.Files("") {
		paths := []string{f.HostPath}
		if real, err := filepath.EvalSymlinks(f.HostPath); err == nil {
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

// replaced returns the names in inotify's events; empty: some were lost, of whatever names.
func replaced(events []byte) (names []string) {
	for len(events) >= unix.SizeofInotifyEvent {
		event := (*unix.InotifyEvent)(unsafe.Pointer(&events[0]))
		end := unix.SizeofInotifyEvent + int(event.Len)
		names = append(names, strings.TrimRight(string(events[unix.SizeofInotifyEvent:end]), "\x00"))
		events = events[end:]
	}
	return names
}

// restorer puts lanes' files back.
type restorer struct {
	*Manager
	stuck map[namespaceID]bool // mount namespaces in which a look at a file has no end
}

// restoreTime is how long that may take in a mount namespace. What is mounted in there may be a program's to answer for.
const restoreTime = 2 * time.Second

// restore puts the lanes' files back in all mount namespaces of programs in lanes that see the host's.
func (r restorer) restore(ctx context.Context) error {
	lanes := map[namespaceID]string{}
	paths, _ := filepath.Glob(policy.ResolvConfPath("*"))
	for _, path := range paths {
		lane := filepath.Base(filepath.Dir(path))
		if s, err := namespaceOf(lane); err == nil {
			lanes[s] = lane
		}
	}
	all, err := r.scan(lanes, Everybody)
	if err != nil {
		return err
	}
	done := map[namespaceID]bool{} // the host's, to begin with
	for _, host := range []string{"/proc/thread-self/ns/mnt", "/proc/1/ns/mnt"} {
		s, err := readNamespaceID(host)
		if err != nil {
			return err
		}
		done[s] = true
	}
	var errs []error
	for _, p := range all {
		mounts, err := readNamespaceID(fmt.Sprintf("/proc/%d/ns/mnt", p.PID))
		if err != nil || done[mounts] || r.stuck[mounts] {
			continue
		}
		done[mounts] = true
		if err := r.restoreFor(ctx, p, mounts); err != nil {
			errs = append(errs, fmt.Errorf("process %d in lane %s: %w", p.PID, p.Lane, err))
		}
	}
	return errors.Join(errs...)
}

// restoreFor puts a lane's files back for a program. A mount namespace that a user has made, as sandboxes do, is the user's business.
func (r restorer) restoreFor(ctx context.Context, p Program, mounts namespaceID) error {
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", p.PID), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended
	}
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(ns), "mount namespace")
	var st unix.Stat_t
	// It may be another process's by now.
	if err := unix.Fstat(ns, &st); err != nil || mounts != (namespaceID{st.Dev, st.Ino}) || !p.isSame() {
		return errors.Join(err, file.Close())
	}
	if user, err := isUsers(ns); err != nil || user {
		return errors.Join(err, file.Close())
	}
	ended := make(chan error, 1)
	go func() {
		defer file.Close()
		ended <- remount(ns, p.Lane)
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	case <-time.After(restoreTime):
		r.stuck[mounts] = true
		return fmt.Errorf("a look at its files takes longer than %v; it is left alone from now on", restoreTime)
	}
}

// remount mounts a lane's files in a mount namespace, where it sees the host's or none. Both are opened on the host: in there
// their paths may lead anywhere.
func remount(ns int, lane string) error {
	files := overlay.Files(lane)
	hosts := make([]unix.Stat_t, len(files))
	trees := make([]int, len(files))
	for i, f := range files {
		var err error
		if trees[i], err = f.Open(); err != nil {
			return err
		}
		defer unix.Close(trees[i])
		_ = unix.Stat(f.HostPath, &hosts[i]) // a link to nowhere is none
	}
	return nsthread.Run(func() error {
		// Threads that share their working directory can't enter one.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter mount namespace: %w", err)
		}
		for i, f := range files {
			// Whatever else is there, such as a container's own, was put there on purpose.
			var its unix.Stat_t
			err := unix.Stat(f.HostPath, &its)
			if err != nil && err != unix.ENOENT || err == nil && (its.Dev != hosts[i].Dev || its.Ino != hosts[i].Ino) {
				continue
			}
			if err := f.Mount(trees[i]); err != nil {
				return err
			}
		}
		return nil
	})
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
	ours, err := readNamespaceID("/proc/thread-self/ns/user")
	return ours != namespaceID{st.Dev, st.Ino}, err
}
