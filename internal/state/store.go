// Package state keeps what the daemon must remember: what lanes were given, in
// the state folder, and what is undone on their removal, in the runtime folder.
// The daemon acts on both as root, so nothing is believed that it could not have
// written itself.
package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"uplane/internal/state/safefile"
)

// version is that of both files' format. A file of another one is not used: raise
// it when an older daemon would misread what a newer one writes.
const version = 1

// maxFile bounds a file's size in bytes. A lane takes about one KiB.
const maxFile = 4 << 20

// document is a value that can be stored.
type document interface {
	// check returns an error unless the daemon may act on the value.
	check() error
}

// Store is one value in one file. Its methods may be called concurrently; of
// several processes only one may write.
type Store[T document] struct {
	path string
	dir  fs.FileMode // of the folder, if it is made

	mu   sync.Mutex
	data []byte // what the file holds; nil: no file, or a bad one
}

// OpenState reads dir/state.json, which survives a reboot. The folder is made
// for root alone when the first value is set.
func OpenState(dir string) (*Store[State], error) {
	return open[State](filepath.Join(dir, "state.json"), 0o700)
}

// OpenRun reads dir/run.json, which does not survive a reboot.
func OpenRun(dir string) (*Store[Run], error) {
	return open[Run](filepath.Join(dir, "run.json"), 0o755)
}

// open reads path. It always returns a store, which can be used as it is: an
// error is to be reported, and says where the file was moved if what it holds
// cannot be used. The store is empty then, as it is without a file.
func open[T document](path string, dir fs.FileMode) (*Store[T], error) {
	s := &Store[T]{path: path, dir: dir}
	safefile.Clean(path)
	data, err := readFile[T](path)
	if err == nil {
		s.data = data
		return s, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	bad := path + ".bad"
	if rerr := os.Rename(path, bad); rerr != nil {
		return s, fmt.Errorf("read %s: %w; starting without it", path, errors.Join(err, rerr))
	}
	return s, fmt.Errorf("read %s: %w; starting without it, it is kept as %s", path, err, bad)
}

// readFile returns the content of path if it is sound.
func readFile[T document](path string) ([]byte, error) {
	// The daemon never writes a link: one would make it read another's file.
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	data, err := safefile.Read(path, maxFile)
	if err != nil {
		return nil, err
	}
	_, err = decode[T](data)
	return data, err
}

// Get returns a copy of the value.
func (s *Store[T]) Get() T {
	s.mu.Lock()
	defer s.mu.Unlock()
	var v T
	if s.data != nil {
		v, _ = decode[T](s.data) // it came from encode, or was decoded before
	}
	return v
}

// Set stores v on the disk, unless the file says the same already. It refuses
// what a later open would not believe; then, and on any other error, the old
// value stays.
func (s *Store[T]) Set(v T) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, err := encode(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	if bytes.Equal(data, s.data) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(s.path), s.dir); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	if err := safefile.Write(s.path, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	s.data = data
	return nil
}

// file is the outermost object of a file.
type file[T any] struct {
	Version int `json:"version"`
	Data    T   `json:"data"`
}

// encode is the one text of v: maps are written in the order of their keys.
func encode[T document](v T) ([]byte, error) {
	if err := v.check(); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(file[T]{version, v}, "", "\t")
	if err == nil && len(data) >= maxFile {
		err = fmt.Errorf("%d KiB are more than open takes", len(data)>>10)
	}
	return append(data, '\n'), err
}

// decode is strict: it takes no field that encode does not write, nothing behind
// the end, no other version, and no value that does not pass its check.
func decode[T document](data []byte) (T, error) {
	var none T
	var head struct{ Version int }
	if err := json.Unmarshal(data, &head); err != nil {
		return none, err
	}
	if head.Version != version {
		return none, fmt.Errorf("version %d is not %d, the only one known", head.Version, version)
	}
	var f file[T]
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return none, err
	}
	if _, err := d.Token(); err != io.EOF {
		return none, errors.New("there is something behind the end")
	}
	if err := f.Data.check(); err != nil {
		return none, err
	}
	return f.Data, nil
}
