package api

import (
	"reflect"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
)

// sync tells of what changed since it was last called. The session's mutex is
// held: signals and answers are sent in one order.
func (s *session) sync() {
	latest := s.server.lanes.Load()
	if latest == s.latest {
		return
	}
	was, is := s.published, *latest
	s.latest, s.published = latest, *latest
	for len(was) > 0 || len(is) > 0 {
		switch {
		case len(was) == 0 || len(is) > 0 && is[0].Name < was[0].Name:
			s.emit(Path, objectManager+".InterfacesAdded", LanePath(is[0].Name), map[string]values{LaneInterface: is[0].values()})
			is = is[1:]
		case len(is) == 0 || was[0].Name < is[0].Name:
			s.emit(Path, objectManager+".InterfacesRemoved", LanePath(was[0].Name), []string{LaneInterface})
			was = was[1:]
		default:
			if changed := difference(&was[0], &is[0]); len(changed) > 0 {
				s.emit(LanePath(is[0].Name), properties+".PropertiesChanged", LaneInterface, changed, []string{})
			}
			was, is = was[1:], is[1:]
		}
	}
}

func (s *session) emit(path dbus.ObjectPath, name string, body ...any) {
	if err := s.conn.Emit(path, name, body...); err != nil {
		s.server.Log.Warn("can't tell of a change", "signal", name, "error", err)
	}
}

// difference returns the properties that differ, as they are now.
func difference(was, is *Lane) values {
	if reflect.DeepEqual(was, is) {
		return nil // as most are, most times
	}
	var changed values
	for _, p := range laneProperties {
		if v := p.of(is); !reflect.DeepEqual(p.of(was), v) {
			if changed == nil {
				changed = values{}
			}
			changed[p.name] = dbus.MakeVariant(v)
		}
	}
	return changed
}

// find returns a lane that the bus has heard of, or nil. The session's mutex is held.
func (s *session) find(name string) *Lane { return find(s.published, name) }

func find(lanes []Lane, name string) *Lane {
	i, ok := slices.BinarySearchFunc(lanes, name, func(l Lane, name string) int { return strings.Compare(l.Name, name) })
	if !ok {
		return nil
	}
	return &lanes[i]
}
