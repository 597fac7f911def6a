package kernel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

type resolvState struct {
	content string
	ours    bool
}

// maxResolvConf bounds what is read of a file that anybody may have put there, in bytes.
const maxResolvConf = 64 << 10

// readFiles reads lanes' files and the host's nsswitch.conf again, all or those that changed.
func (k *Kernel) readFiles(stale nameSet) {
	if k.files != nil && !k.files.watches(policy.EtcNetns) {
		k.files.add(policy.EtcNetns)
		stale.all = stale.all || k.files.watches(policy.EtcNetns) // it came just now, and who knows what with it
	}
	if !stale.all {
		for path := range stale.names {
			if path == policy.HostSwitch {
				k.readSwitch()
			} else if name := filepath.Base(path); name == filepath.Base(policy.ResolvConfPath("")) || name == filepath.Base(policy.SwitchPath("")) {
				k.readFile(path)
			}
		}
		return
	}
	for path := range k.resolv {
		delete(k.resolv, path)
		put(&k.dirty.files, path)
	}
	k.readSwitch()
	for _, of := range []func(string) string{policy.ResolvConfPath, policy.SwitchPath} {
		found, _ := filepath.Glob(of("*"))
		for _, path := range found {
			k.readFile(path)
		}
	}
}

// readFile reads a lane's file.
func (k *Kernel) readFile(path string) {
	delete(k.resolv, path)
	put(&k.dirty.files, path)
	if k.files != nil {
		k.files.add(filepath.Dir(path)) // before it is read, so that nothing comes between
	}
	info, err := os.Lstat(path)
	if err != nil {
		return
	}
	if !info.Mode().IsRegular() || info.Size() > maxResolvConf {
		k.resolv[path] = resolvState{}
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return
	}
	k.resolv[path] = resolvState{unpadded(string(data)), strings.HasPrefix(string(data), policy.FileTag)}
}

// readSwitch reads the host's nsswitch.conf. A host without one asks files and DNS, as lanes do.
func (k *Kernel) readSwitch() {
	k.hostSwitch = ""
	info, err := os.Stat(policy.HostSwitch)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxResolvConf {
		return
	}
	if k.files != nil {
		k.files.addFile(policy.HostSwitch)
	}
	if data, err := os.ReadFile(policy.HostSwitch); err == nil {
		k.hostSwitch = string(data)
	}
}

// fileObjects returns the lane's file at path, if it is ours.
func (k *Kernel) fileObjects(path string) []object {
	if f := k.resolv[path]; f.ours {
		return []object{{policy.File{Path: path, Content: f.content}, filepath.Base(filepath.Dir(path))}}
	}
	return nil
}

// block is what the size of a lane's file is a multiple of, in bytes. Most lanes' resolv.conf
// have less than one, and so keep their size whatever they say.
const block = 256

// padded ends content with a comment of blanks, so that it has at least size bytes.
func padded(content string, size int) string {
	size = max(size, (len(content)+block-1)/block*block)
	switch room := size - len(content); room {
	case 0:
		return content
	case 1:
		return content + "\n"
	default:
		return content + "#" + strings.Repeat(" ", room-2) + "\n"
	}
}

// unpadded is content without its padding.
func unpadded(content string) string {
	content = strings.TrimRight(content, "\x00") // of a change that a crash cut short
	text, blank := strings.CutSuffix(content, "\n")
	if !blank {
		return content
	}
	text = strings.TrimRight(text, " ")
	if rest, ok := strings.CutSuffix(text, "\n#"); ok {
		return rest + "\n"
	}
	if rest, ok := strings.CutSuffix(content, "\n\n"); ok {
		return rest + "\n"
	}
	return content
}

// applyFile writes in place: programs in the lane have this inode bound over
// the host's file. What lacks our tag is left alone, unless op says that it is
// known to be a file of ours which lost it: then the content to start from has none. A link in such a file's
// place goes; what it leads to stays as it is.
func (k *Kernel) applyFile(op policy.Op, f policy.File) error {
	k.stale.mark(func(p *parts) { p.files.name(f.Path) })
	dir := filepath.Dir(f.Path)
	have, replaces := op.Have.(policy.File)
	untagged := replaces && !strings.HasPrefix(have.Content, policy.FileTag)
	if op.Verb != policy.Remove {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	file, err := openFile(f.Path, untagged)
	if untagged && errors.Is(err, errLink) {
		if err := os.Remove(f.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		err = os.ErrNotExist
	}
	missing := errors.Is(err, os.ErrNotExist)
	switch {
	case missing && op.Verb == policy.Remove:
		os.Remove(dir)
		return nil
	case missing: // fails when somebody has made one since
		return createFile(f.Path, padded(f.Content, 0), 0o644)
	case err != nil:
		return err
	}
	defer file.Close()
	if op.Verb == policy.Remove {
		if err := os.Remove(f.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		os.Remove(dir) // stays when the user keeps other files there
		return nil
	}
	if err := overwrite(file, f.Content); err != nil {
		return err
	}
	return file.Close()
}

var errLink = errors.New("symbolic link")

// openFile opens a file to write to it, which carries our tag unless it may be untagged.
func openFile(path string, untagged bool) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is %w: it is a %w", path, errNotOurs, errLink)
	}
	if err != nil {
		return nil, err
	}
	tag := make([]byte, len(policy.FileTag))
	if n, err := file.ReadAt(tag, 0); !untagged && string(tag[:n]) != policy.FileTag {
		file.Close()
		if err != nil && err != io.EOF {
			return nil, err
		}
		return nil, fmt.Errorf("%s is %w: it does not begin with %q", path, errNotOurs, policy.FileTag)
	}
	return file, nil
}

// overwrite replaces what a file says by one write of its whole size, so a reader sees neither an
// empty file nor the end of a longer one before. The size never shrinks; where it must grow, that comes first.
func overwrite(file *os.File, content string) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	text := padded(content, int(info.Size()))
	if int64(len(text)) > info.Size() {
		if err := file.Truncate(int64(len(text))); err != nil {
			return err
		}
	}
	if _, err := file.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	// The kernel dates a file before it writes, and not always by the nanosecond. Who has read it in that
	// moment, and asks by its date whether to read it again, shall do so.
	return os.Chtimes(file.Name(), time.Time{}, time.Now())
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
