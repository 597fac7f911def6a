// Package units tells systemd which lanes are up: for each there is a target,
// uplane-lane@NAME.target, that is started and stopped with it.
//
// It is level-triggered. Whatever happens, what systemd has is compared with what
// lanes there are, so a daemon or a systemd that restarts changes nothing. Without
// systemd nothing happens.
package units

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"

	"uplane/internal/busguard"
	"uplane/policy"
)

// systemd's names on the bus.
const (
	busName       = "org.freedesktop.systemd1"
	objectManager = dbus.ObjectPath("/org/freedesktop/systemd1")
	ifaceManager  = busName + ".Manager"
	noSuchUnit    = busName + ".NoSuchUnit"
)

const (
	targetPrefix = "uplane-lane@"
	targetSuffix = ".target"
)

// Target is the name of a lane's target. Lane names need no escaping but for the
// dash, which means a slash only in paths.
func Target(lane string) string { return targetPrefix + lane + targetSuffix }

// laneOf is the other way.
func laneOf(target string) (lane string, ok bool) {
	lane, ok = strings.CutPrefix(target, targetPrefix)
	if ok {
		lane, ok = strings.CutSuffix(lane, targetSuffix)
	}
	return lane, ok && policy.CheckLaneName(lane) == nil
}

// systemd is systemd's manager on one connection.
type systemd struct{ object dbus.BusObject }

func newSystemd(conn *dbus.Conn) systemd { return systemd{conn.Object(busName, objectManager)} }

// call never starts a systemd: on a machine without one its activation file may be there.
func (s systemd) call(ctx context.Context, method string, args ...any) *dbus.Call {
	return s.object.CallWithContext(ctx, ifaceManager+"."+method, dbus.FlagNoAutoStart, args...)
}

// unit is what ListUnitsByPatterns says of one.
type unit struct {
	Name, Description, Load, Active, Sub, Follows string
	Path                                          dbus.ObjectPath
	Job                                           uint32 // queued; 0: none
	JobType                                       string
	JobPath                                       dbus.ObjectPath
}

// started returns the lanes whose targets are active, or soon will be.
func (s systemd) started(ctx context.Context) (map[string]bool, error) {
	var all []unit
	err := s.call(ctx, "ListUnitsByPatterns", []string{}, []string{targetPrefix + "*" + targetSuffix}).Store(&all)
	if err != nil {
		return nil, fmt.Errorf("list the targets of lanes: %w", err)
	}
	lanes := map[string]bool{}
	for _, u := range all {
		lane, ok := laneOf(u.Name)
		// The job that is queued decides what it will be, its state what it is without one.
		switch {
		case !ok:
		case u.JobType == "start":
			lanes[lane] = true
		case u.JobType == "stop":
		case u.Active == "active" || u.Active == "activating" || u.Active == "reloading":
			lanes[lane] = true
		}
	}
	return lanes, nil
}

// set starts or stops a lane's target. It does not wait for its units.
func (s systemd) set(ctx context.Context, lane string, up bool) error {
	method := "StopUnit"
	if up {
		method = "StartUnit"
	}
	err := s.call(ctx, method, Target(lane), "replace").Err
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, Target(lane), err)
	}
	return nil
}

// Reload makes systemd read its unit files again, as "systemctl daemon-reload"
// does. Without systemd on the bus it does nothing.
func Reload(ctx context.Context) error {
	conn, err := busguard.Connect(ctx, "", nil)
	if err != nil {
		return nil
	}
	defer conn.Close()
	err = newSystemd(conn).call(ctx, "Reload").Err
	if gone(err) {
		return nil
	}
	return err
}

// gone tells whether an error means that there is no systemd on the bus.
func gone(err error) bool {
	return named(err, "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner")
}

// named tells whether err came over the bus under one of names.
func named(err error, names ...string) bool {
	var derr dbus.Error
	return errors.As(err, &derr) && slices.Contains(names, derr.Name)
}
