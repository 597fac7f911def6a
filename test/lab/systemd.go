package lab

import (
	"errors"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/godbus/dbus/v5"
)

const (
	systemdName  = "org.freedesktop.systemd1"
	systemdPath  = dbus.ObjectPath("/org/freedesktop/systemd1")
	systemdIface = systemdName + ".Manager"
)

// Systemd stands in for systemd's manager on a bus: it knows which units are started, and does
// what it is told at once.
type Systemd struct {
	mu      sync.Mutex
	conn    *dbus.Conn
	address string
	active  map[string]bool
	calls   []string
	fail    *dbus.Error
}

// NewSystemd puts a systemd with these units started on the bus at an address.
func NewSystemd(address string, active ...string) (*Systemd, error) {
	s := &Systemd{address: address, active: map[string]bool{}}
	for _, unit := range active {
		s.active[unit] = true
	}
	return s, s.Appear()
}

// Appear takes the name on the bus, as a systemd that starts or was executed anew.
func (s *Systemd) Appear() error {
	conn, err := dbus.Connect(s.address)
	if err != nil {
		return err
	}
	if err := conn.Export(systemdManager{s}, systemdPath, systemdIface); err != nil {
		return errors.Join(err, conn.Close())
	}
	reply, err := conn.RequestName(systemdName, dbus.NameFlagDoNotQueue)
	if err == nil && reply != dbus.RequestNameReplyPrimaryOwner {
		err = errors.New("there is a systemd on this bus")
	}
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
	return nil
}

// Vanish leaves the bus and keeps what is started.
func (s *Systemd) Vanish() error { return s.conn.Close() }

// Fail makes all jobs fail with an error of this name; "" mends that.
func (s *Systemd) Fail(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = nil
	if name != "" {
		s.fail = dbus.NewError(name, []any{"as it was told to"})
	}
}

// Set starts or stops a unit as another program would.
func (s *Systemd) Set(unit string, active bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active[unit] = active
}

// Active lists the started units.
func (s *Systemd) Active() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for unit, active := range s.active {
		if active {
			out = append(out, unit)
		}
	}
	slices.Sort(out)
	return out
}

// Calls lists what was asked for, such as "StartUnit a.target replace", since the last time.
func (s *Systemd) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

func (s *Systemd) call(args ...string) *dbus.Error {
	s.calls = append(s.calls, strings.Join(args, " "))
	return s.fail
}

// systemdManager is the stand-in's methods, as they are exported.
type systemdManager struct{ s *Systemd }

type listedUnit struct {
	Name, Description, Load, Active, Sub, Follows string
	Path                                          dbus.ObjectPath
	Job                                           uint32
	JobType                                       string
	JobPath                                       dbus.ObjectPath
}

// ListUnitsByPatterns lists units as systemd does: also some that are loaded and stopped.
func (m systemdManager) ListUnitsByPatterns(_, patterns []string) ([]listedUnit, *dbus.Error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	units := []listedUnit{}
	for unit, active := range m.s.active {
		state := "inactive"
		if active {
			state = "active"
		}
		for _, p := range patterns {
			if ok, _ := path.Match(p, unit); ok {
				units = append(units, listedUnit{Name: unit, Load: "loaded", Active: state, Path: "/", JobPath: "/"})
			}
		}
	}
	return units, nil
}

// StartUnit starts a unit.
func (m systemdManager) StartUnit(unit, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.set("StartUnit", unit, mode, true)
}

// StopUnit stops a unit.
func (m systemdManager) StopUnit(unit, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.set("StopUnit", unit, mode, false)
}

func (m systemdManager) set(method, unit, mode string, active bool) (dbus.ObjectPath, *dbus.Error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if err := m.s.call(method, unit, mode); err != nil {
		return "/", err
	}
	m.s.active[unit] = active
	return systemdPath + "/job/1", nil
}

// Reload reads no unit files.
func (m systemdManager) Reload() *dbus.Error {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	return m.s.call("Reload")
}
