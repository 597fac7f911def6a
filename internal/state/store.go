// Package state keeps what the daemon must remember: what lanes were given, in
// the state folder, and what is undone on their removal, in the runtime folder.
// The daemon acts on both as root, so nothing is believed that it could not have
// written itself.
//
// Each folder has two files. That of version 1 is what the first release reads and
// writes, so that it can be installed again, with lanes up, and what is newer is
// beside it in the file of version 2, which that release leaves alone. Each can be
// used without the other.
package state

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"sync"

	"uplane/internal/config"
	"uplane/policy"
)

// Undo is what was not there before us, and may go with the last lane.
type Undo struct {
	// Tables are firewall tables and base chains, "filter" or "filter FORWARD", as
	// netfilter names them. They may go once nothing else is in them.
	Tables []string
	// Directories may go by rmdir(2), which takes empty ones alone.
	Directories []string
}

// Store is what is remembered, on the disk. Its methods may be called
// concurrently; of several processes only one may write, see [Acquire].
type Store struct {
	mu    sync.Mutex
	files [fileCount]file
	lanes map[string]laneText // what lanes were when they were saved last
}

// The files.
const (
	stateFile1 = iota
	stateFile2
	runFile1
	runFile2
	fileCount
)

// laneText is a lane's entry in each file; nil: it has none there.
type laneText struct {
	lane  policy.LaneMemory
	texts [fileCount][]byte
	err   error // why a part of it is missing
}

// Open reads the files in stateDir, which survive a reboot, and in runtimeDir,
// which do not. It always returns a store that can be used: the error joins
// warnings, which say what cannot be used and where such a file was moved. A folder is
// made when there is something to store, stateDir for root alone.
func Open(stateDir, runtimeDir string) (*Store, error) {
	s := &Store{files: [fileCount]file{
		stateFile1: {path: filepath.Join(stateDir, "state.json"), version: 1, dir: 0o700, check: usable(decodeV1[stateV1])},
		stateFile2: {path: filepath.Join(stateDir, "state.v2.json"), version: 2, dir: 0o700, check: usable(decodeV2[stateV2])},
		runFile1:   {path: filepath.Join(runtimeDir, "run.json"), version: 1, dir: 0o755, check: usable(decodeV1[runV1])},
		runFile2:   {path: filepath.Join(runtimeDir, "run.v2.json"), version: 2, dir: 0o755, check: usable(decodeV2[runV2])},
	}}
	var warnings []error
	for i := range s.files {
		warnings = append(warnings, s.files[i].open())
	}
	_, _, unusable := s.decode()
	for _, err := range unusable {
		warnings = append(warnings, fmt.Errorf("read saved state: %w; it is passed over", err))
	}
	return s, errors.Join(warnings...)
}

func usable[T any](decode func([]byte) (T, error)) func([]byte) error {
	return func(data []byte) error {
		_, err := decode(data)
		return err
	}
}

// Memory returns what the disk holds. It belongs to the caller, and no map in it is nil.
func (s *Store) Memory() policy.Memory {
	m, _, _ := s.decode()
	return m
}

// Undo returns what the disk holds of that.
func (s *Store) Undo() Undo {
	_, u, _ := s.decode()
	return u
}

// decode understands the files. A value in a file of version 2 that may not be acted
// on is passed over, and so is a lane's definition: rules change between releases.
func (s *Store) decode() (policy.Memory, Undo, []error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// What is here was decoded before, or encoded; a file that is missing gives an error and nothing.
	s1, _ := decodeV1[stateV1](s.files[stateFile1].data)
	s2, _ := decodeV2[stateV2](s.files[stateFile2].data)
	r1, _ := decodeV1[runV1](s.files[runFile1].data)
	r2, _ := decodeV2[runV2](s.files[runFile2].data)

	var unusable []error
	fine := func(err error) bool {
		if err != nil {
			unusable = append(unusable, err)
		}
		return err == nil
	}
	m := policy.Memory{
		Lanes: map[string]policy.LaneMemory{}, Sysctls: map[string]string{}, Forwarded: r2.Forwarded,
		Draining: map[netip.Prefix]policy.Drain{}, Answers: map[netip.Addr]string{},
	}
	for name, l := range s1.Lanes {
		definition, errs := definition(name, l.Definition, s2.Lanes[name].Definition)
		unusable = append(unusable, errs...)
		m.Lanes[name] = policy.LaneMemory{Allocation: policy.Allocation(l.Allocation), Definition: definition}
	}
	for name, l := range r1.Lanes {
		is := m.Lanes[name]
		is.Want, is.Profile, is.Uplink = policy.Want(l.Want), l.Profile, l.Uplink.uplink()
		if l2 := r2.Lanes[name]; fine(l2.check(name)) {
			is.State, is.Since, is.Files = policy.LaneState(l2.State), l2.Since, l2.Files
		}
		m.Lanes[name] = is
	}
	for key, value := range r2.Sysctl {
		if fine(checkSysctl(key, value)) && !isSysctlV1(key) {
			m.Sysctls[key] = strconv.Itoa(value)
		}
	}
	for key, value := range r1.Sysctl {
		m.Sysctls[key] = strconv.Itoa(value)
	}
	for subnet, d := range r2.Draining {
		if fine(checkDrain(subnet, d)) {
			m.Draining[subnet] = policy.Drain(d)
		}
	}
	for addr, iface := range r2.Answers {
		if fine(checkAnswer(addr, iface)) {
			m.Answers[addr] = iface
		}
	}
	return m, Undo{r1.Tables, r1.Directories}, unusable
}

// definition is a lane's, of what both versions have, and why one cannot be used. That of
// version 2 counts if what version 1 has is its part: else the first release has
// written another since.
func definition(name string, v1 *laneV1, v2 *laneV2) (*policy.Lane, []error) {
	var have []policy.Lane
	if v2 != nil && reflect.DeepEqual(v2.v1(), v1) {
		have = append(have, v2.lane())
	}
	if v1 != nil {
		have = append(have, v1.lane())
	}
	var errs []error
	for i := range have {
		err := checkDefinition(name, &have[i])
		if err == nil {
			return &have[i], errs
		}
		errs = append(errs, fmt.Errorf("lane %s: definition: %w", name, err))
	}
	return nil, errs
}

func checkDefinition(name string, l *policy.Lane) error {
	if l.Name != name {
		return fmt.Errorf("it is that of lane %.40q", l.Name)
	}
	return config.Check(*l)
}

// Save puts m and u on the disk, as far as it differs from what is there. What a later
// Open would not believe is left out, and the rest saved; and so is what one
// file cannot take: the error says what is missing. What m's pointers point to must
// not be changed afterwards.
func (s *Store) Save(m policy.Memory, u Undo) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	contents, errs := s.encode(&m, u)
	for i := range s.files {
		err := s.files[i].write(contents[i])
		if err != nil && i >= runFile1 {
			err = &NotNoted{err}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// NotNoted is an error of [Store.Save] by which what is changed on the host could not be undone later. Others are
// about what lanes were given, which only the next boot needs.
type NotNoted struct{ Err error }

func (e *NotNoted) Error() string { return e.Err.Error() }
func (e *NotNoted) Unwrap() error { return e.Err }

// encode returns what each file is made of. Of the same m and u that is one text.
func (s *Store) encode(m *policy.Memory, u Undo) (contents [fileCount]content, errs []error) {
	known := make(map[string]laneText, len(m.Lanes))
	for _, name := range slices.Sorted(maps.Keys(m.Lanes)) {
		l, ok := s.lanes[name]
		if is := m.Lanes[name]; !ok || l.lane != is {
			was := l.texts
			l = encodeLane(name, is)
			for i := range was {
				if bytes.Equal(l.texts[i], was[i]) {
					l.texts[i] = was[i]
				}
			}
		}
		known[name] = l
		if l.err != nil {
			errs = append(errs, fmt.Errorf("remember: %w", l.err))
		}
		for i, text := range l.texts {
			if text != nil {
				contents[i].lanes = append(contents[i].lanes, text)
			}
		}
	}
	s.lanes = known
	undo, world, more := encodeRest(m, u)
	for i, rest := range [fileCount]any{struct{}{}, struct{}{}, undo, world} {
		contents[i].rest = others(rest)
	}
	return contents, append(errs, more...)
}

// encodeLane returns the entries of a lane, without what a later Open would not believe.
func encodeLane(name string, l policy.LaneMemory) laneText {
	if err := policy.CheckLaneName(name); err != nil {
		return laneText{lane: l, err: err}
	}
	var errs []error
	var state stateLaneV1
	var state2 *laneV2
	if a := allocationV1(l.Allocation); a.check() == nil {
		state.Allocation = a
	} else {
		errs = append(errs, fmt.Errorf("lane %s: allocation: %w", name, a.check()))
	}
	if l.Definition != nil {
		if err := checkDefinition(name, l.Definition); err == nil {
			state2 = newLaneV2(l.Definition)
			state.Definition = state2.v1()
		} else {
			errs = append(errs, fmt.Errorf("lane %s: definition: %w", name, err))
		}
	}
	run := runLaneV1{Want: string(l.Want), Uplink: newUplinkV1(l.Uplink), Profile: l.Profile}
	if err := run.check(); err != nil {
		errs = append(errs, fmt.Errorf("lane %s: %w", name, err))
		run = runLaneV1{Profile: l.Profile}
	}
	run2 := runLaneV2{State: string(l.State), Since: l.Since.UTC(), Files: l.Files}
	if err := run2.check(name); err != nil {
		errs = append(errs, err)
		run2 = runLaneV2{Files: l.Files}
	}

	t := laneText{lane: l, err: errors.Join(errs...)}
	if state != (stateLaneV1{}) || state2 != nil {
		t.texts[stateFile1] = entry(name, state)
	}
	if state2 != nil && (state.Definition == nil || !reflect.DeepEqual(*state2, laneV2{laneV1: *state.Definition})) {
		t.texts[stateFile2] = entry(name, stateLaneV2{state2})
	}
	if run != (runLaneV1{}) || run2 != (runLaneV2{}) {
		t.texts[runFile1] = entry(name, run) // even with nothing in it: it says that the lane's in version 2 counts
	}
	if run2 != (runLaneV2{}) {
		t.texts[runFile2] = entry(name, run2)
	}
	return t
}

// encodeRest returns what the files of the runtime folder have beside lanes, without what
// a later Open would not believe.
func encodeRest(m *policy.Memory, u Undo) (undoV1, worldV2, []error) {
	var errs []error
	fine := func(err error) bool {
		if err != nil {
			errs = append(errs, fmt.Errorf("remember: %w", err))
		}
		return err == nil
	}
	undo := undoV1{Sysctl: map[string]int{}}
	world := worldV2{Forwarded: m.Forwarded, Sysctl: map[string]int{}, Draining: map[netip.Prefix]drainV2{}, Answers: map[netip.Addr]string{}}
	for key, text := range m.Sysctls {
		value, err := strconv.Atoi(text)
		if err != nil {
			err = fmt.Errorf("invalid sysctl %.80s=%.40q: it is no number", key, text)
		} else {
			err = checkSysctl(key, value)
		}
		switch {
		case !fine(err):
		case isSysctlV1(key):
			undo.Sysctl[key] = value
		default:
			world.Sysctl[key] = value
		}
	}
	for _, t := range u.Tables {
		if fine(checkTable(t)) {
			undo.Tables = append(undo.Tables, t)
		}
	}
	for _, d := range u.Directories {
		if fine(checkDirectory(d)) {
			undo.Directories = append(undo.Directories, d)
		}
	}
	for subnet, d := range m.Draining {
		is := drainV2{d.Since.UTC()}
		if fine(checkDrain(subnet, is)) {
			world.Draining[subnet] = is
		}
	}
	for addr, iface := range m.Answers {
		if fine(checkAnswer(addr, iface)) {
			world.Answers[addr] = iface
		}
	}
	return undo, world, errs
}
