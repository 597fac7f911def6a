package nm

import (
	"context"
	"errors"
	"time"

	"github.com/godbus/dbus/v5"
)

// maxReads bounds how many calls are under way: a bus allows a connection 128.
const maxReads = 32

// reading fetches the settings of profiles, which are a method's answer and no
// property. It runs beside everything else: an uplink's change never waits for it.
type reading struct {
	answers chan *dbus.Call
	under   map[dbus.ObjectPath]context.CancelFunc // way
	again   map[dbus.ObjectPath]bool               // changed since it was asked for
	queue   []dbus.ObjectPath
	later   []dbus.ObjectPath // could not be read; once more after retry
	retry   <-chan time.Time
	pause   time.Duration
	first   bool // nothing has been published before all was read once
}

func newReading() reading {
	return reading{
		answers: make(chan *dbus.Call, maxReads),
		under:   map[dbus.ObjectPath]context.CancelFunc{},
		again:   map[dbus.ObjectPath]bool{},
		first:   true,
		pause:   minPause,
	}
}

func (r *reading) stop() {
	for _, cancel := range r.under {
		cancel()
	}
}

// add puts a profile in the queue.
func (r *reading) add(path dbus.ObjectPath) {
	if r.under[path] != nil {
		r.again[path] = true
		return
	}
	r.queue = append(r.queue, path)
}

func (r *reading) idle() bool { return len(r.queue)+len(r.under)+len(r.later) == 0 }

// failed puts a profile off that can't be read, and tells whether it is the first of an outage.
func (r *reading) failed(path dbus.ObjectPath) bool {
	r.later = append(r.later, path)
	if r.retry != nil {
		return false
	}
	first := r.pause == minPause
	r.retry = time.After(r.pause)
	r.pause = min(2*r.pause, maxPause)
	return first
}

// resume tries again what could not be read.
func (r *reading) resume() {
	later := r.later
	r.later, r.retry = nil, nil
	for _, path := range later {
		r.add(path)
	}
}

// readProfiles asks for what is in the queue, and does not wait.
func (s *session) readProfiles() {
	for _, path := range s.tree.unread {
		s.reading.add(path)
	}
	s.tree.unread = nil
	for len(s.reading.queue) > 0 && len(s.reading.under) < maxReads {
		path := s.reading.queue[0]
		s.reading.queue = s.reading.queue[1:]
		if s.tree.profiles[path] == nil || s.reading.under[path] != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(s.ctx, fetchTimeout)
		s.reading.under[path] = cancel
		s.conn.Object(s.owner, path).GoWithContext(ctx, ifaceProfile+".GetSettings", dbus.FlagNoAutoStart, s.reading.answers)
	}
}

// profileRead takes in the settings of one profile.
func (s *session) profileRead(call *dbus.Call) {
	path := call.Path
	if cancel := s.reading.under[path]; cancel != nil {
		cancel()
	}
	delete(s.reading.under, path)
	if s.reading.again[path] {
		delete(s.reading.again, path)
		s.reading.add(path)
	}
	p := s.tree.profiles[path]
	if p == nil || p.Leaving {
		return
	}
	next, err := settingsOf(call)
	switch {
	case gone(err):
		return // the signal that says so is on its way
	case err != nil:
		// It may be a lane's, or limit a network. What was read before stays.
		if s.reading.failed(path) {
			s.w.options.Log.Warn("can't read a profile of NetworkManager; trying again", "path", path, "error", err)
		}
		return
	default:
		s.reading.pause = minPause
		if next.refused != "" && next.refused != p.refused {
			s.w.options.Log.Warn("a private profile gets no lane; to let it have one: nmcli connection modify "+next.UUID+" connection.permissions ''",
				"name", next.Name, "uuid", next.UUID, "lane", next.refused)
		}
		next.flags = p.flags
		*p = next
	}
	s.assemble()
}

func settingsOf(call *dbus.Call) (profile, error) {
	if call.Err != nil {
		return profile{}, call.Err
	}
	if len(call.Body) > 0 {
		if sections, ok := call.Body[0].(map[string]props); ok {
			return decodeProfile(plain(sections)), nil
		}
	}
	return profile{}, errors.New("the answer is not of the type a{sa{sv}}")
}

func plain(sections map[string]props) settings {
	s := make(settings, len(sections))
	for name, section := range sections {
		s[name] = make(map[string]any, len(section))
		for key, v := range section {
			s[name][key] = v.Value()
		}
	}
	return s
}
