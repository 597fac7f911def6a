package daemon

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"uplane/policy"
)

// Status is how a lane is, for users.
type Status struct {
	policy.LaneStatus
	Profile string    // NetworkManager's, that the lane is; empty: it is a file
	Since   time.Time // of the present state
}

// Up returns the names of the lanes that are up or degraded.
func Up(statuses []Status) (lanes []string) {
	for _, s := range statuses {
		if s.State == policy.Up || s.State == policy.Degraded {
			lanes = append(lanes, s.Lane.Name)
		}
	}
	return lanes
}

// equal tells whether a user would see no difference. Since follows State.
func (s Status) equal(o Status) bool {
	return s.State == o.State && s.Reason == o.Reason && s.Profile == o.Profile && s.Alloc == o.Alloc && s.Lane.Mark == o.Lane.Mark &&
		slices.Equal(s.DNS, o.DNS) && sameUplink(s.Uplink, o.Uplink)
}

func sameUplink(a, b *policy.Uplink) bool {
	if a == nil || b == nil {
		return a == b
	}
	ga, _ := a.Gateway()
	gb, _ := b.Gateway()
	return a.Interface == b.Interface && a.Connection == b.Connection && a.UUID == b.UUID && a.SSID == b.SSID &&
		ga == gb && slices.Equal(a.Addresses, b.Addresses)
}

// publish works out every configured lane's status and tells when one changed.
func (l *Loop) publish(v *view, failed map[string]string, undone map[policy.Object]int) {
	next := make(map[string]Status, len(v.lanes))
	running := l.Uplinks().Running
	var owner map[policy.Object]string
	if len(undone) > 0 {
		owner = owners(v.lanes)
	}
	clear(l.current)
	for _, st := range v.lanes {
		if st.Uplink != nil {
			l.current[st.Lane.Name] = st.Uplink.Interface
		}
		if why := cmp.Or(failed[st.Lane.Name], failed[""]); why != "" {
			st.State, st.Reason = policy.Error, why
		}
		for o, times := range undone {
			if name := owner[o]; name == st.Lane.Name || name == "" {
				worsen(&st, fmt.Sprintf("another program keeps undoing %q (healed %d times, now slowly)", policy.Op{Object: o}.Shell()[0], times))
			}
		}
		if !l.memory.keeps(&st) {
			worsen(&st, fmt.Sprintf("its numbers are not saved, and may be others after a reboot: %v", l.memory.unsaved))
		}
		if !running && st.Uplink != nil {
			worsen(&st, "NetworkManager is not running, so the lane keeps its last uplink and can't follow changes")
		}
		if err := l.lanes.broken[st.Lane.Name]; err != nil {
			worsen(&st, err.Error()+"; the lane stays as it was")
		}
		for _, note := range l.lanes.notes[st.Lane.Name] {
			worsen(&st, note)
		}
		st.Want = nil
		next[st.Lane.Name] = Status{LaneStatus: st}
	}
	for name, lane := range l.lanes.known {
		if _, ok := next[name]; !ok {
			st := policy.LaneStatus{Lane: lane, State: policy.Down}
			if owner, ok := l.lanes.owner[name]; ok {
				st.Reason = fmt.Sprintf("its profile %s is down in NetworkManager: nmcli connection up %s", owner, quote(owner))
			}
			next[name] = Status{LaneStatus: st}
		}
	}
	for name, err := range l.lanes.broken {
		if _, ok := next[name]; !ok {
			next[name] = Status{LaneStatus: policy.LaneStatus{Lane: policy.Lane{Name: name}, State: policy.Error, Reason: err.Error()}}
		}
	}
	changed := l.statuses == nil || len(next) != len(l.statuses)
	now := time.Now()
	for name, s := range next {
		s.Profile = l.lanes.owner[name]
		old, ok := l.statuses[name]
		if s.Since = now; ok && old.State == s.State {
			s.Since = old.Since
		}
		changed = changed || !ok || !s.equal(old)
		next[name] = s
	}
	l.statuses = next
	if changed && l.Changed != nil {
		l.Changed(l.list())
	}
}

func (l *Loop) list() []Status {
	return slices.SortedFunc(maps.Values(l.statuses), func(a, b Status) int { return strings.Compare(a.Lane.Name, b.Lane.Name) })
}

// worsen turns "up" into "degraded" and adds a reason.
func worsen(st *policy.LaneStatus, reason string) {
	if st.State == policy.Up {
		st.State = policy.Degraded
	}
	if st.Reason != "" {
		reason = st.Reason + "; " + reason
	}
	st.Reason = reason
}
