package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"uplane/internal/state/safefile"
	"uplane/policy"
)

// Edit changes keys of the lane's file and returns its path. A change is the
// key's new value, a string, bool, int, uint32 or []string, or nil to take the
// key out. Comments and everything else stay as they are; see editText.
//
// A file of a package, in dirs.Lib, is not changed: the edited text goes to
// dirs.Etc, which wins. Edit refuses, and writes nothing, if the lane has no file
// ([fs.ErrNotExist]), and if Load would then find this lane broken, or another
// one that is not now; the error is Load's, as a [Refused]. Without changes it tells whether the
// lane is sound.
func Edit(dirs Dirs, lane string, changes map[string]any) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("change lane %s: %w", lane, err) }
	all := read(dirs)
	s, ok := all.lanes[lane]
	switch {
	case !ok:
		return fail(fs.ErrNotExist)
	case s.masked:
		return fail(fmt.Errorf("%s masks it; remove that file first", s.file))
	case s.err != nil:
		return fail(s.err)
	}
	data, err := editText(s.file, s.data, changes)
	if err != nil {
		return fail(&Refused{err})
	}
	if len(data) == 0 {
		data = header(lane) // the only key was taken out, and an empty file would mask
	}
	same := bytes.Equal(data, s.data)
	if !same && dirs.Lib != "" && s.file == laneFile(dirs.Lib, lane) {
		s.file = laneFile(dirs.Etc, lane)
	}
	if err := all.try(lane, source{file: s.file, data: data}); err != nil {
		return fail(&Refused{err})
	}
	if same {
		return s.file, nil
	}
	if err := overwrite(s.file, data); err != nil {
		return fail(err)
	}
	return s.file, nil
}

// overwrite gives file new content. It keeps the mode, and writes through a
// link, where a rename would put a file in the link's place.
func overwrite(file string, data []byte) error {
	target, err := filepath.EvalSymlinks(file)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		return safefile.Write(file, data, 0o644)
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	return safefile.Write(target, data, info.Mode().Perm())
}

// try returns an error if s as the lane's file broke this lane, or another one
// that is not broken now.
func (all sources) try(lane string, s source) error {
	if was, ok := all.lanes[lane]; !ok || !bytes.Equal(was.data, s.data) {
		all.edited = lane
	}
	before, _ := all.resolve()
	all.lanes = maps.Clone(all.lanes)
	all.lanes[lane] = s
	after, _ := all.resolve()
	if err := after.Broken[lane]; err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(after.Broken)) {
		if before.Broken[name] == nil {
			return after.Broken[name]
		}
	}
	return nil
}

// Remove deletes the lane's files in dirs.Etc and dirs.Run. It refuses, and
// deletes nothing, if there is no such lane ([fs.ErrNotExist]), and if a
// package's file in dirs.Lib would then bring the lane back; the error says how
// to mask that.
func Remove(dirs Dirs, lane string) error {
	if err := policy.CheckLaneName(lane); err != nil {
		return fmt.Errorf("remove lane: %w", err)
	}
	var files []string
	for _, root := range dirs.roots() {
		if root == "" {
			continue
		}
		file := laneFile(root, lane)
		info, err := os.Lstat(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("remove lane %s: %w", lane, err)
		}
		if len(files) == 0 && (isNull(file) || info.Mode().IsRegular() && info.Size() == 0) {
			return fmt.Errorf("remove lane %s: %s masks it already: %w", lane, file, fs.ErrNotExist)
		}
		files = append(files, file)
	}
	if len(files) == 0 {
		return fmt.Errorf("remove lane %s: no lane file: %w", lane, fs.ErrNotExist)
	}
	if last := files[len(files)-1]; dirs.Lib != "" && last == laneFile(dirs.Lib, lane) {
		return fmt.Errorf("remove lane %s: %s comes with a package and would bring it back; mask it with: ln -sf /dev/null %s",
			lane, last, laneFile(dirs.Etc, lane))
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("remove lane %s: %w", lane, err)
		}
		if err := safefile.Sync(filepath.Dir(file)); err != nil {
			return fmt.Errorf("remove lane %s: %w", lane, err)
		}
	}
	return nil
}
