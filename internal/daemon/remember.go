package daemon

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"uplane/internal/state"
	"uplane/policy"
)

// remember keeps on the disk what the decision says to know, and what its operations will change on the host and a later
// removal, maybe by another daemon after a crash, has to put back. It returns the operations that may be carried out.
func (l *Loop) remember(d *policy.Decision) []policy.Op {
	if l.firewall != nil && len(d.Ops) > 0 {
		missing, err := l.firewall.Missing(d.Ops)
		if err != nil {
			l.Log.Warn("firewall", "error", err)
		}
		l.undo.Tables = union(l.undo.Tables, missing)
	}
	for _, op := range d.Ops {
		if isNew(op) {
			l.undo.Directories = union(l.undo.Directories, l.Kernel.MissingDirs(op.Lane))
		}
	}
	var lost *state.NotNoted
	if l.unsaved = l.Store.Save(d.Memory, l.undo); l.unsaved != nil {
		l.Log.Error("save state", "error", l.unsaved)
		d.Add("", policy.Condition{
			Type: policy.AboutMemory, Reason: "NotSaved", Effect: policy.Degraded,
			Message: "its numbers are not saved, and may be others after a reboot: " + oneLine(l.unsaved),
		}, time.Now())
		if errors.As(l.unsaved, &lost) {
			return l.undoable(d)
		}
	}
	l.noted = d.Memory.Sysctls
	return d.Ops
}

// undoable leaves out what could not be undone: new lanes are not begun, and no more switches of others' cards are set.
// All else goes on.
func (l *Loop) undoable(d *policy.Decision) []policy.Op {
	now := time.Now()
	held := map[string]bool{}
	for _, op := range d.Ops {
		if isNew(op) {
			held[op.Lane] = true
			d.Add(op.Lane, policy.Condition{
				Type: policy.AboutMemory, Reason: "NotBuilt", Effect: policy.Error,
				Message: "it is not built, as what it changes can't be noted: " + oneLine(l.unsaved),
			}, now)
		}
	}
	return slices.DeleteFunc(slices.Clone(d.Ops), func(op policy.Op) bool {
		if s, ok := op.Object.(policy.Sysctl); ok {
			_, noted := l.noted[s.Key]
			return !noted && d.Memory.Sysctls[s.Key] != ""
		}
		return held[op.Lane]
	})
}

// oneLine is the text of an error that may be several.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// isNew tells whether an operation begins a lane.
func isNew(op policy.Op) bool {
	_, netns := op.Object.(policy.Netns)
	return netns && op.Verb == policy.Add
}

// union appends what a lacks.
func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

// want notes what the user said of a lane, until the next boot.
func (l *Loop) want(name string, want policy.Want) {
	lanes := maps.Clone(l.memory.Lanes) // the last decision has this one, too
	if lanes == nil {
		lanes = map[string]policy.LaneMemory{}
	}
	m := lanes[name]
	m.Want = want
	lanes[name] = m
	l.memory.Lanes = lanes
}

// forget drops all that is known of a lane.
func (l *Loop) forget(name string) {
	l.memory.Lanes = maps.Clone(l.memory.Lanes)
	delete(l.memory.Lanes, name)
}

// removeDirs removes the folders that were made for lanes and serve none any more.
func (l *Loop) removeDirs(d *policy.Decision) {
	some := slices.Contains(slices.Collect(maps.Values(d.Sources.Wanted)), true)
	var kept []string
	for _, dir := range slices.Backward(l.undo.Directories) { // what is in a folder before it
		serves := some
		if filepath.Dir(dir) == policy.EtcNetns {
			serves = d.Sources.Wanted[filepath.Base(dir)]
		}
		if serves {
			kept = append(kept, dir)
		} else {
			l.Kernel.RemoveDir(dir)
		}
	}
	slices.Reverse(kept)
	l.undo.Directories = kept
}
