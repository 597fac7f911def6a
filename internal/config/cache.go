package config

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Cache keeps what files say, so that to load a thousand again takes a look at each and not a reading. It
// is for one goroutine. A nil Cache keeps nothing.
type Cache struct{ files map[string]*cached }

// cached is a lane file as it was read.
type cached struct {
	file   syscall.Stat_t
	source source
	// What it was understood as, with the text of uplane.toml.
	defaults []byte
	lane     laneAt
	errs     []error
	parsed   bool
}

// settled is for how long a file must not have changed: within one tick of the kernel's clock a second change has the
// time of the first.
const settled = time.Second

// NewCache returns an empty one.
func NewCache() *Cache { return &Cache{map[string]*cached{}} }

// read reads a file, unless it is still the one that was read.
func (c *Cache) read(file string) source {
	if c == nil {
		return readSource(file)
	}
	now, known := stat(file)
	if old := c.files[file]; old != nil && known && unchanged(&old.file, &now) {
		return old.source
	}
	s := readSource(file)
	delete(c.files, file)
	if after, ok := stat(file); ok && known && s.err == nil && unchanged(&now, &after) && time.Since(time.Unix(now.Ctim.Unix())) > settled {
		kept := &cached{file: now, source: s}
		kept.source.kept = kept
		c.files[file] = kept
	}
	return s
}

// keep forgets all files but those of some lanes.
func (c *Cache) keep(lanes map[string]source) {
	if c == nil {
		return
	}
	maps.DeleteFunc(c.files, func(file string, _ *cached) bool {
		name := strings.TrimSuffix(filepath.Base(file), suffix)
		return lanes[name].file != file
	})
}

func stat(file string) (st syscall.Stat_t, ok bool) {
	info, err := os.Stat(file)
	if err != nil {
		return st, false
	}
	p, ok := info.Sys().(*syscall.Stat_t)
	return *p, ok
}

// unchanged tells whether a file has not changed: whatever changes it, its owner or its mode sets the time of change.
func unchanged(a, b *syscall.Stat_t) bool {
	return a.Dev == b.Dev && a.Ino == b.Ino && a.Ctim == b.Ctim && a.Mtim == b.Mtim && a.Size == b.Size
}

// understand is lane, of what is still the same file with the same defaults.
func (s source) understand(name string, base settings, defaults []byte) (laneAt, []error) {
	k := s.kept
	if k == nil {
		return s.lane(name, base)
	}
	if !k.parsed || !slices.Equal(k.defaults, defaults) {
		k.lane, k.errs = s.lane(name, base)
		k.errs, k.defaults, k.parsed = slices.Clip(k.errs), defaults, true
	}
	return k.lane, k.errs
}
