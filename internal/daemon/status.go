package daemon

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"uplane/policy"
)

// Status is how a lane is, for users.
type Status struct {
	policy.LaneStatus
	Since time.Time // of the present state
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
		slices.Equal(s.DNS, o.DNS) && slices.Equal(s.Conditions, o.Conditions) && sameUplink(s.Uplink, o.Uplink)
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

// publish tells how lanes are when that has changed.
func (l *Loop) publish(d *policy.Decision, failed map[string]string) {
	now := time.Now()
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		c := policy.Condition{Type: policy.AboutKernel, Reason: "Failed", Effect: policy.Error, Message: failed[name]}
		switch name {
		case leftover:
			continue
		case "":
			c.Effect = policy.Degraded // what lanes have of their own is in place
		}
		d.Add(name, c, now)
	}
	l.complain(d.Sources.Complaints)
	next := make(map[string]Status, len(d.Lanes))
	changed := l.statuses == nil || len(d.Lanes) != len(l.statuses)
	for _, st := range d.Lanes {
		s := Status{LaneStatus: st, Since: now}
		old, ok := l.statuses[st.Lane.Name]
		switch {
		case ok && old.State == st.State:
			s.Since = old.Since
		case !ok && !d.Memory.Lanes[st.Lane.Name].Since.IsZero() && d.Memory.Lanes[st.Lane.Name].State == st.State:
			s.Since = d.Memory.Lanes[st.Lane.Name].Since // by an earlier daemon
		}
		if !ok || old.State != st.State || uplinkName(old.Uplink) != uplinkName(st.Uplink) {
			l.tell(&s)
		}
		changed = changed || !ok || !s.equal(old)
		next[st.Lane.Name] = s
	}
	l.statuses = next
	if changed && l.Changed != nil {
		l.Changed(l.list())
	}
}

// blindAfter is how many looks in a row fail before lanes say so: a kernel that is busy fails one now and then.
const blindAfter = 3

// publishBlind tells that nobody knows how lanes are, as nothing could be looked at.
func (l *Loop) publishBlind(err error) {
	l.decided.Clean = false
	if l.failures < blindAfter || l.statuses == nil {
		return
	}
	blind := policy.Condition{Type: policy.AboutKernel, Reason: "Unreadable", Effect: policy.Degraded, Message: "the kernel can't be read, so the lane follows nothing: " + err.Error()}
	d := l.decided
	d.Lanes = slices.Clone(d.Lanes)
	for i := range d.Lanes {
		st := &d.Lanes[i]
		st.Conditions = slices.DeleteFunc(slices.Clone(st.Conditions), func(c policy.Condition) bool {
			return c.Type == blind.Type && c.Reason == blind.Reason
		})
	}
	d.Add("", blind, time.Now())
	l.publish(&d, nil)
}

// tell writes a line for a change of a lane's state into the journal.
func (l *Loop) tell(s *Status) {
	text := "lane " + s.Lane.Name + " is " + string(s.State)
	if why := cmp.Or(s.Reason, uplinkName(s.Uplink)); why != "" {
		text += ": " + why
	}
	l.Log.Info(text, "lane", s.Lane.Name, "state", string(s.State), "uplink", uplinkName(s.Uplink))
}

func uplinkName(u *policy.Uplink) string {
	if u == nil {
		return ""
	}
	return u.Interface
}

// complain logs what is wrong with profiles that no lane can come from, unless that was said before.
func (l *Loop) complain(complaints map[string]string) {
	for uuid, why := range complaints {
		if l.said[uuid] != why {
			l.Log.Error("profile", "uuid", uuid, "error", why)
		}
	}
	l.said = complaints
}

func (l *Loop) list() []Status {
	return slices.SortedFunc(maps.Values(l.statuses), func(a, b Status) int { return strings.Compare(a.Lane.Name, b.Lane.Name) })
}
