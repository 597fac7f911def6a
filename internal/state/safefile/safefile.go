// Package safefile reads and writes small files that a daemon running as root
// acts on: what it reads nobody else can have written, and what it writes is
// there as a whole or not at all.
package safefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Read returns the content of the file at path, which may be a symbolic link.
// It refuses anything but a regular file of at most limit bytes that passes
// [Trust]. Its errors do not repeat path, except that one says what to type.
// A file that does not exist gives an error that is [fs.ErrNotExist].
func Read(path string, limit int64) ([]byte, error) {
	// Look before opening: opening a device can already do something (a tape
	// rewinds, a watchdog starts).
	info, err := os.Stat(path)
	if err != nil {
		return nil, bare(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	// Without O_NONBLOCK, a FIFO put here since then would block us for ever.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, bare(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	if err := Trust(path, info); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, bare(err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("larger than %d KiB", limit>>10)
	}
	return data, nil
}

var errNotRegular = errors.New("not a regular file")

// Trust returns an error that says what to type unless only root can have
// written the file or folder at path, whose description is info. Without root's
// rights there is nothing to protect, and everything passes.
func Trust(path string, info fs.FileInfo) error {
	if os.Geteuid() != 0 {
		return nil
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
		return fmt.Errorf("it belongs to user %d, not to root; run: chown root %s", st.Uid, path)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("others than root can write to it (mode %04o); run: chmod go-w %s", mode, path)
	}
	return nil
}

// Write puts data at path: it writes a temporary file beside it, flushes that
// to the disk and renames it, so that a crash leaves the old content or the new
// one, and a reader never sees half of it. The folder must exist.
func Write(path string, data []byte, mode fs.FileMode) (err error) {
	dir, name := filepath.Split(path)
	f, err := os.CreateTemp(dir, tempPattern(name))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode) // CreateTemp gave 0600, and the umask must not decide
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return Sync(dir)
}

// Sync flushes the names in dir to the disk, so that a rename or a removal in
// it survives a power cut.
func Sync(dir string) error {
	if dir == "" {
		dir = "."
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// staleAfter is far longer than a Write takes.
const staleAfter = time.Minute

// Clean removes the temporary files that a Write to path left when it was
// killed. Those of a Write that may still be under way stay.
func Clean(path string) {
	dir, name := filepath.Split(path)
	left, _ := filepath.Glob(filepath.Join(dir, tempPattern(name)))
	for _, f := range left {
		if info, err := os.Lstat(f); err == nil && time.Since(info.ModTime()) > staleAfter {
			os.Remove(f)
		}
	}
}

// tempPattern starts with a dot and ends in no known suffix: whoever lists the
// folder meanwhile passes over the file.
func tempPattern(name string) string { return "." + name + ".*.tmp" }

// bare strips operation and path from err: the callers name the file
// themselves.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
