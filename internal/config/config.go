// Package config reads and writes what the user configures: one file a lane,
// lanes.d/NAME.toml, and the defaults for all lanes, uplane.toml.
//
// It is strict. Whatever it does not understand is an [Error] with file, line
// and key that says what is allowed, and a lane whose file has one is reported
// as broken rather than guessed. A bad lane file never touches another lane; a
// bad uplane.toml breaks every lane, because each could depend on what is wrong.
// What is broken stays as it was: that is the daemon's part.
//
// Of several files for one lane only the one in the first folder counts. It
// masks the lane, so that there is none, if it is empty (zero bytes) or a link
// to /dev/null, as with systemd's units. A lane made of nothing but defaults is
// a file with a comment in it.
//
// As root acts on these files, they and their folder must belong to root and
// nobody else may write to them.
package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"uplane/policy"
)

// Config is the configuration as far as it is sound.
type Config struct {
	Firewall string           // auto, iptables or nftables; empty when uplane.toml is broken
	Lanes    []Lane           // sorted by name
	Broken   map[string]error // lane name → what is wrong with its file
	Partial  bool             // a folder was unreadable: a lane that is not here may exist

	base    settings // what a lane is that says nothing
	baseErr error    // uplane.toml is broken
}

// Lane is a lane with the file that defines it.
type Lane struct {
	policy.Lane
	File string
}

// Load reads all files in dirs. The errors are complete, those in
// [Config.Broken] included, and of type *[Error]; Config holds what is sound
// nevertheless.
func Load(dirs Dirs) (Config, []error) { return read(dirs).resolve() }

// resolve understands what was read.
func (all sources) resolve() (Config, []error) {
	cfg := Config{Broken: make(map[string]error), Partial: all.partial}
	errs := slices.Clone(all.errs)

	base, baseErrs := all.base()
	errs = append(errs, baseErrs...)
	cfg.Firewall, cfg.base, cfg.baseErr = base.firewall, base, errors.Join(baseErrs...)
	if baseErrs != nil {
		cfg.Firewall = ""
	}

	var sound []laneAt
	for _, name := range slices.Sorted(maps.Keys(all.lanes)) {
		s := all.lanes[name]
		if s.masked {
			continue
		}
		lane, laneErrs := s.understand(name, base, all.defaults.data)
		if laneErrs == nil && baseErrs == nil {
			sound = append(sound, lane)
			continue
		}
		cfg.Broken[name] = errors.Join(append(laneErrs, baseErrs...)...)
		for _, err := range laneErrs {
			if !slices.Contains(errs, err) { // a folder's error is that of all its lanes
				errs = append(errs, err)
			}
		}
	}
	all.byClaim(sound)
	for i := range sound {
		l := &sound[i]
		if err := l.clash(sound, i, cfg.Broken); err != nil {
			cfg.Broken[l.lane.Name] = err
			errs = append(errs, err)
			continue
		}
		cfg.Lanes = append(cfg.Lanes, Lane{l.lane, l.file})
	}
	slices.SortFunc(cfg.Lanes, func(a, b Lane) int { return strings.Compare(a.Name, b.Name) })
	return cfg, errs
}

// base is what a lane is when its file says nothing: the built-in values with
// uplane.toml on top.
func (all sources) base() (settings, []error) {
	s := all.defaults
	if s.err != nil {
		return builtin, []error{s.err}
	}
	p, errs := parse(s.file, s.data, builtin, true)
	return p.settings, errs
}

// laneAt is a lane with the places of its keys.
type laneAt struct {
	parsed
	file string
}

// lane understands the file of the lane called name.
func (s source) lane(name string, base settings) (laneAt, []error) {
	if s.err != nil {
		return laneAt{}, []error{s.err}
	}
	p, errs := parse(s.file, s.data, base, false)
	p.lane.Name = name
	if _, tried := p.at["uplink"]; !tried && len(errs) == 0 && len(p.lane.Uplink) == 0 {
		uplink, _ := keyNamed("uplink")
		errs = append(errs, &Error{File: s.file, Key: uplink.name, Msg: fmt.Sprintf(
			"missing here, and %s has no default for it; use %s", defaultsFile, uplink.want)})
	}
	return laneAt{p, s.file}, errs
}
