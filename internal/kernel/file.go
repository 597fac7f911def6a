package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

type resolvState struct {
	content string
	ours    bool
}

// maxResolvConf bounds what is read of a file that anybody may have put there.
const maxResolvConf = 64 << 10

func (k *Kernel) readFiles() {
	k.resolv = make(map[string]resolvState)
	paths, _ := filepath.Glob(filepath.Join(policy.EtcNetns, "*", "resolv.conf"))
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err != nil {
			continue
		}
		if !info.Mode().IsRegular() || info.Size() > maxResolvConf {
			k.resolv[path] = resolvState{}
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if k.files != nil {
			k.files.add(filepath.Dir(path))
		}
		k.resolv[path] = resolvState{string(data), strings.HasPrefix(string(data), policy.FileTag)}
	}
}

func (k *Kernel) observeFiles(state policy.State, host *policy.Host) {
	for path, f := range k.resolv {
		if f.ours {
			state.Add(policy.File{Path: path, Content: f.content})
		} else {
			host.Files[path] = true
		}
	}
}

// applyFile writes in place: programs in the lane have this inode bound over
// their /etc/resolv.conf. The new text goes over the old one before the rest is
// cut off, so a reader never sees an empty file.
func (k *Kernel) applyFile(op policy.Op, f policy.File) error {
	k.stale.mark(func(p *parts) { p.files = true })
	dir := filepath.Dir(f.Path)
	if op.Verb == policy.Remove {
		if err := os.Remove(f.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		os.Remove(dir) // stays when the user keeps other files there
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(f.Path, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return createFile(f.Path, f.Content, 0o644)
	}
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte(f.Content), 0); err != nil {
		return err
	}
	if err := file.Truncate(int64(len(f.Content))); err != nil {
		return err
	}
	return file.Close()
}

// createFile makes a file that has its content from its first moment. What a
// crash leaves of it carries our tag, or is nothing.
func createFile(path, content string, mode uint32) error {
	fd, err := unix.Open(filepath.Dir(path), unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, mode)
	if err == unix.EOPNOTSUPP || err == unix.EISDIR { // some network and overlay file systems
		fd, err = unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, mode)
	}
	if err != nil {
		return &os.PathError{Op: "create", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	if _, err := file.WriteString(content); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink > 0 {
		return err
	}
	return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
}
