package daemon

import (
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"

	"uplane/internal/state"
	"uplane/policy"
)

// memory is what the loop knows beyond one look: what lanes were given, and
// what it takes to undo them. It is on disk before anything that depends on it is done.
type memory struct {
	state  state.State
	run    state.Run
	states *state.Store[state.State]
	runs   *state.Store[state.Run]
	// unsaved is why the last change is not on the disk; the next look tries again.
	unsaved error
}

func recall(states *state.Store[state.State], runs *state.Store[state.Run]) memory {
	m := memory{state: states.Get(), run: runs.Get(), states: states, runs: runs}
	if m.state.Lanes == nil {
		m.state.Lanes = map[string]state.Lane{}
	}
	if m.run.Lanes == nil {
		m.run.Lanes = map[string]state.LaneRun{}
	}
	if m.run.Sysctl == nil {
		m.run.Sysctl = map[string]int{}
	}
	return m
}

// allocations returns what lanes were given.
func (m *memory) allocations() map[string]policy.Allocation {
	out := make(map[string]policy.Allocation, len(m.state.Lanes))
	for name, l := range m.state.Lanes {
		out[name] = l.Allocation
	}
	return out
}

// sysctls returns what switches were before us.
func (m *memory) sysctls() map[string]string {
	out := make(map[string]string, len(m.run.Sysctl))
	for key, value := range m.run.Sysctl {
		out[key] = strconv.Itoa(value)
	}
	return out
}

// uplinks returns what lanes left by last, one an interface. They count only
// as far as the kernel still has them.
func (m *memory) uplinks() []policy.Uplink {
	seen := map[string]bool{}
	var out []policy.Uplink
	for _, l := range m.run.Lanes {
		if l.Uplink != nil && !seen[l.Uplink.Interface] {
			seen[l.Uplink.Interface] = true
			u := *l.Uplink
			u.Phase = policy.PhaseChanging
			out = append(out, u)
		}
	}
	return out
}

// want notes what the user said of a lane, until the next boot.
func (m *memory) want(name string, want state.Want) error {
	l := m.run.Lanes[name]
	l.Want = want
	m.run.Lanes[name] = l
	return m.runs.Set(m.run)
}

// forget drops all that is known of a lane.
func (m *memory) forget(name string) error {
	delete(m.run.Lanes, name)
	delete(m.state.Lanes, name)
	return errors.Join(m.runs.Set(m.run), m.states.Set(m.state))
}

// before notes what ops will change on the host and a later removal, maybe by
// another daemon after a crash, has to put back.
func (m *memory) before(ops []policy.Op, v *view, k Kernel, f Firewall) error {
	changed := false
	if slices.ContainsFunc(ops, func(op policy.Op) bool { return isChain(op) && op.Verb != policy.Remove }) {
		missing, err := f.Missing()
		if err != nil {
			return err
		}
		for _, name := range missing {
			if !slices.Contains(m.run.Tables, name) {
				m.run.Tables = append(m.run.Tables, name)
				changed = true
			}
		}
	}
	for _, op := range ops {
		switch o := op.Object.(type) {
		case policy.Bridge:
			if op.Verb == policy.Release {
				changed = m.released(o.Name, v) || changed
			}
		case policy.Sysctl:
			// Our own links' switches go with them.
			_, foreign := v.host.Links[o.Link()]
			_, known := m.run.Sysctl[o.Key]
			value, exists := k.Sysctl(o.Key)
			n, err := strconv.Atoi(value)
			if foreign && !known && exists && err == nil {
				m.run.Sysctl[o.Key] = n
				changed = true
			}
		case policy.Netns:
			if op.Verb != policy.Add {
				continue
			}
			for _, dir := range k.MissingDirs(o.Name) {
				if !slices.Contains(m.run.Directories, dir) {
					m.run.Directories = append(m.run.Directories, dir)
					changed = true
				}
			}
		}
	}
	if !changed {
		return nil
	}
	return m.runs.Set(m.run)
}

// released notes that the switches of a bridge were ours from its birth, when they were at their defaults.
func (m *memory) released(bridge string, v *view) (changed bool) {
	for o := range v.have {
		if s, ok := o.(policy.Sysctl); ok && s.Link() == bridge {
			m.run.Sysctl[s.Key] = 0
			changed = true
		}
	}
	return changed
}

// after notes how lanes are now. With clean set nothing was left to do, so what
// was kept for undoing can go where nothing is left to undo.
// Lanes that have neither a file nor a profile are forgotten then, if NetworkManager runs and so its profiles are known.
func (m *memory) after(v *view, lanes *lanes, tables []string, k Kernel, clean, running bool) error {
	gone := func(name string) bool {
		_, known := lanes.known[name]
		return clean && running && !known && lanes.broken[name] == nil
	}
	m.unsaved = errors.Join(m.afterState(v, gone), m.afterRun(v, lanes, tables, k, clean, gone))
	return m.unsaved
}

// keeps tells whether a lane's numbers are on the disk.
func (m *memory) keeps(st *policy.LaneStatus) bool {
	return m.unsaved == nil || m.states.Get().Lanes[st.Lane.Name].Allocation == st.Alloc
}

func (m *memory) afterState(v *view, gone func(lane string) bool) error {
	changed := false
	for name := range m.state.Lanes {
		if gone(name) {
			delete(m.state.Lanes, name)
			changed = true
		}
	}
	for _, st := range v.lanes {
		old := m.state.Lanes[st.Lane.Name]
		if old.Allocation == st.Alloc && old.Definition != nil && reflect.DeepEqual(*old.Definition, st.Lane) {
			continue
		}
		lane := st.Lane
		m.state.Lanes[lane.Name] = state.Lane{Allocation: st.Alloc, Definition: &lane}
		changed = true
	}
	if !changed && m.unsaved == nil {
		return nil
	}
	return m.states.Set(m.state)
}

func (m *memory) afterRun(v *view, lanes *lanes, tables []string, k Kernel, clean bool, gone func(lane string) bool) error {
	changed := !slices.Equal(m.run.Tables, tables)
	m.run.Tables = tables
	for name := range lanes.known {
		l := m.run.Lanes[name]
		was := l
		l.Profile = lanes.known[name].External && lanes.wanted[name]
		if l.Profile && lanes.held[name] == "" && l.Want == state.WantDown {
			l.Want = "" // it is up, which is the last word: a file that it goes on from was not meant by the one before
		}
		if l != was {
			m.run.Lanes[name] = l
			changed = true
		}
	}
	for name, l := range m.run.Lanes {
		if gone(name) {
			delete(m.run.Lanes, name)
			changed = true
		} else if _, known := lanes.known[name]; l.Profile && !known {
			l.Profile = false
			m.run.Lanes[name] = l
			changed = true
		}
	}
	for _, st := range v.lanes {
		l := m.run.Lanes[st.Lane.Name]
		if st.Uplink != nil && (l.Uplink == nil || !reflect.DeepEqual(*l.Uplink, *st.Uplink)) {
			l.Uplink = st.Uplink
			m.run.Lanes[st.Lane.Name] = l
			changed = true
		}
	}
	if clean {
		for key, value := range m.run.Sysctl {
			_, exists := v.host.Links[policy.Sysctl{Key: key}.Link()]
			if !exists || v.want.Has(policy.Sysctl{Key: key, Value: strconv.Itoa(value)}) {
				delete(m.run.Sysctl, key)
				changed = true
			}
		}
		changed = m.removeDirs(v.lanes, k) || changed
	}
	if !changed && m.unsaved == nil {
		return nil
	}
	return m.runs.Set(m.run)
}

// removeDirs removes the folders that were made for lanes and serve none any
// more, and tells whether there were such.
func (m *memory) removeDirs(lanes []policy.LaneStatus, k Kernel) bool {
	serves := func(dir string) bool {
		if filepath.Dir(dir) != policy.EtcNetns {
			return len(lanes) > 0
		}
		return slices.ContainsFunc(lanes, func(st policy.LaneStatus) bool { return st.Lane.Name == filepath.Base(dir) })
	}
	var kept []string
	for _, dir := range slices.Backward(m.run.Directories) { // what is in a folder before it
		if serves(dir) {
			kept = append(kept, dir)
		} else {
			k.RemoveDir(dir)
		}
	}
	slices.Reverse(kept)
	removed := len(kept) < len(m.run.Directories)
	m.run.Directories = kept
	return removed
}
