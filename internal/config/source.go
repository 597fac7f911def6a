package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"uplane/internal/state/safefile"
	"uplane/policy"
)

// Dirs are the root folders of the configuration, in order of preference. Lane
// files are in their sub-folder lanes.d; uplane.toml is in Etc alone. An empty
// one is passed over.
type Dirs struct {
	Etc string // the administrator's: /etc/uplane
	Run string // until the next boot: /run/uplane
	Lib string // packages': /usr/lib/uplane

	// Holds tells which lanes have what their files claim already: of two that claim one thing, the one that
	// holds it is in the right. Without it nobody does.
	Holds func(policy.Lane) bool
	// Cache keeps what lane files say from one time to the next; nil: nothing is kept.
	Cache *Cache
}

const (
	lanesDir     = "lanes.d"
	defaultsFile = "uplane.toml"
	suffix       = ".toml"
	maxFile      = 64 << 10 // bytes; a lane file is some hundred
)

func (d Dirs) roots() []string { return []string{d.Etc, d.Run, d.Lib} }

func (d Dirs) defaults() string { return filepath.Join(d.Etc, defaultsFile) }

// laneFile is where the lane's file is in root.
func laneFile(root, lane string) string { return filepath.Join(root, lanesDir, lane+suffix) }

// source is a file as it was read.
type source struct {
	file   string
	data   []byte
	err    error   // why there is no data
	masked bool    // the file only hides those of the folders after it
	kept   *cached // by a [Cache]; nil: it is not
}

// sources are all files of a configuration, before a word of them is understood.
type sources struct {
	defaults source
	lanes    map[string]source // by lane name; the winner's alone
	errs     []error           // of folders, and of files that no lane can have
	partial  bool              // a folder could not be read
	holds    func(policy.Lane) bool
	edited   string // the lane whose file is to be changed: everybody else is in the right
}

// read collects the files in dirs.
func read(dirs Dirs) sources {
	all := sources{lanes: make(map[string]source), holds: dirs.Holds}
	if dirs.Etc != "" {
		all.defaults = readSource(dirs.defaults())
		if errors.Is(all.defaults.err, fs.ErrNotExist) || all.defaults.masked {
			all.defaults = source{}
		}
	}
	var hidden error // why nobody knows whether the rest of the folders count
	for _, root := range dirs.roots() {
		if root == "" {
			continue
		}
		dir := filepath.Join(root, lanesDir)
		names, err := all.names(dir)
		unreadable := err != nil
		if err == nil {
			err = trustFolder(dir)
		}
		if err != nil {
			err = fileError(dir, err)
			all.errs = append(all.errs, err)
		}
		if unreadable {
			all.partial, hidden = true, err
		}
		for _, name := range names {
			if _, taken := all.lanes[name]; taken {
				continue
			}
			s := source{file: laneFile(root, name), err: hidden}
			if s.err == nil {
				s.err = err
			}
			if s.err == nil {
				s = dirs.Cache.read(s.file)
			}
			if !errors.Is(s.err, fs.ErrNotExist) { // removed since the folder was listed
				all.lanes[name] = s
			}
		}
	}
	dirs.Cache.keep(all.lanes)
	return all
}

// names lists the lanes that have a file in dir; a folder that is not there has
// none.
func (all *sources) names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name, is := strings.CutSuffix(e.Name(), suffix)
		if !is || strings.HasPrefix(name, ".") {
			continue // an editor's backup, a package manager's leftover, a README
		}
		if err := policy.CheckLaneName(name); err != nil {
			all.errs = append(all.errs, fileError(filepath.Join(dir, e.Name()), err))
			continue
		}
		names = append(names, name)
	}
	return names, nil
}

// readSource reads a file. An empty one, and a link to /dev/null, masks.
func readSource(file string) source {
	s := source{file: file}
	if isNull(file) {
		s.masked = true
		return s
	}
	data, err := safefile.Read(file, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		if _, lerr := os.Lstat(file); lerr != nil {
			s.err = err
			return s
		}
		err = errors.New("it is a link to a file that does not exist")
	}
	if err != nil {
		s.err = fileError(file, err)
		return s
	}
	s.data, s.masked = data, len(data) == 0
	return s
}

// isNull tells whether file is /dev/null, most often by a link, without opening
// it.
func isNull(file string) bool {
	info, err := os.Stat(file)
	if err != nil || info.Mode()&fs.ModeCharDevice == 0 {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && uint64(st.Rdev) == unix.Mkdev(1, 3)
}

// trustFolder refuses a folder in which others than root could put files that
// root owns, by renaming or linking them.
func trustFolder(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return safefile.Trust(dir, info)
}

// fileError is err about file as a whole.
func fileError(file string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return &Error{File: file, Msg: err.Error()}
}
