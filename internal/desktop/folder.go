package desktop

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"uplane/internal/state/safefile"
)

// Folders are where desktop entries are, in order of preference. The first is the user's own.
type Folders []string

// UserFolders are those that the XDG Base Directory Specification names. Paths in its variables that are not absolute do not count.
func UserFolders(getenv func(string) string) (Folders, error) {
	data := getenv("XDG_DATA_HOME")
	if !filepath.IsAbs(data) {
		if data = filepath.Join(getenv("HOME"), ".local/share"); !filepath.IsAbs(data) {
			return nil, errors.New("HOME names no folder")
		}
	}
	all := []string{data}
	for _, dir := range filepath.SplitList(cmp.Or(getenv("XDG_DATA_DIRS"), "/usr/local/share:/usr/share")) {
		if filepath.IsAbs(dir) {
			all = append(all, dir)
		}
	}
	for i, dir := range all {
		all[i] = filepath.Join(dir, "applications")
	}
	return all, nil
}

// suffix is that of an entry's file. It is part of an entry's ID, but nobody types it.
const suffix = ".desktop"

// ID is the ID, without ".desktop", of the entry at a path: below one of the folders that is the rest of the path, with dashes.
func (f Folders) ID(path string) string {
	path = strings.TrimSuffix(path, suffix)
	for _, dir := range f {
		if below, found := strings.CutPrefix(path, dir+"/"); found {
			return strings.ReplaceAll(below, "/", "-")
		}
	}
	return filepath.Base(path)
}

// ErrNotFound tells that no entry has an ID.
var ErrNotFound = errors.New("no such program is installed")

// Find returns the path of the entry that has an ID, with or without ".desktop".
func (f Folders) Find(id string) (path string, err error) {
	id = strings.TrimSuffix(id, suffix) + suffix
	for _, dir := range f {
		if path := find(dir, id); path != "" {
			return path, nil
		}
	}
	return "", ErrNotFound
}

// find looks for an ID in a folder: every dash may stand for a folder's end.
func find(dir, id string) string {
	path := filepath.Join(dir, id)
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		return path
	}
	for i, c := range id {
		if c != '-' || i == 0 {
			continue
		}
		below := filepath.Join(dir, id[:i])
		if info, err := os.Stat(below); err != nil || !info.IsDir() || strings.Trim(id[:i], ".") == "" {
			continue
		}
		if path := find(below, id[i+1:]); path != "" {
			return path
		}
	}
	return ""
}

// Read reads the entry at a path.
func Read(path string) (Entry, error) {
	data, err := safefile.Read(path, MaxSize)
	if err != nil {
		return Entry{}, err
	}
	return Parse(data)
}

// Program is an installed program.
type Program struct{ ID, Name string }

// Programs lists those that menus show, by their IDs, without launchers of ours.
func (f Folders) Programs() (all []Program) {
	seen := map[string]bool{}
	for _, dir := range f {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			id := f.ID(path)
			if err != nil || d.IsDir() || filepath.Ext(path) != suffix || seen[id] {
				return nil // what can't be read is nothing to offer
			}
			seen[id] = true
			if e, err := Read(path); err == nil && e.Shown() && e.Lane() == "" {
				all = append(all, Program{id, e.Name()})
			}
			return nil
		})
	}
	slices.SortFunc(all, func(a, b Program) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// Launcher is an entry of ours, in the form of --json.
type Launcher struct {
	Lane string `json:"lane"`
	App  string `json:"app"` // the ID of the program's own entry
	Name string `json:"name"`
	File string `json:"file"`
}

// prefix begins the names of launchers' files.
const prefix = "uplane-"

// launcher is where the launcher of a lane and a program is.
func (f Folders) launcher(lane, app string) string {
	return filepath.Join(f[0], prefix+lane+"-"+app+suffix)
}

// Launchers lists those that there are, by lane and program.
func (f Folders) Launchers() (all []Launcher, err error) {
	entries, err := os.ReadDir(f[0])
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, d := range entries {
		path := filepath.Join(f[0], d.Name())
		if !strings.HasPrefix(d.Name(), prefix) || filepath.Ext(path) != suffix {
			continue
		}
		e, err := Read(path)
		if err != nil || e.Lane() == "" {
			continue // somebody else's
		}
		app, ours := strings.CutPrefix(strings.TrimSuffix(d.Name(), suffix), prefix+e.Lane()+"-")
		if ours {
			all = append(all, Launcher{e.Lane(), app, e.Name(), path})
		}
	}
	slices.SortFunc(all, func(a, b Launcher) int {
		return cmp.Or(cmp.Compare(a.Lane, b.Lane), cmp.Compare(a.App, b.App))
	})
	return all, nil
}

// Add writes the launcher of a program in a lane, and tells whether that was there already.
func (f Folders) Add(lane, app string, entry []byte) (l Launcher, same bool, err error) {
	e, err := Parse(entry)
	if err != nil {
		return l, false, err
	}
	l = Launcher{lane, app, e.Name(), f.launcher(lane, app)}
	switch err := owned(l); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return l, false, err
	default:
		if old, err := safefile.Read(l.File, MaxSize); err == nil && string(old) == string(entry) {
			return l, true, nil
		}
	}
	if err := os.MkdirAll(f[0], 0o700); err != nil { // as the specification has it
		return l, false, err
	}
	return l, false, safefile.Write(l.File, entry, 0o644)
}

// Remove deletes the launcher of a program in a lane.
func (f Folders) Remove(lane, app string) (Launcher, error) {
	l := Launcher{Lane: lane, App: app, File: f.launcher(lane, app)}
	if err := owned(l); err != nil {
		return l, err
	}
	return l, os.Remove(l.File)
}

// owned returns nil if a launcher is there and ours. The lane counts: lane a's launcher of b-c has the same name as lane a-b's of c.
func owned(l Launcher) error {
	if _, err := os.Lstat(l.File); err != nil {
		return err
	}
	e, err := Read(l.File)
	switch {
	case err == nil && e.Lane() == l.Lane:
		return nil
	case err == nil && e.Lane() != "":
		return fmt.Errorf("%s is a launcher of lane %s", l.File, e.Lane())
	}
	return fmt.Errorf("%s is somebody else's: it lacks the key %s", l.File, laneKey)
}
