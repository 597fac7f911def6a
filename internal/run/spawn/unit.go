package spawn

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/internal/busguard"
	"uplane/internal/run/nsexec"
	"uplane/internal/run/overlay"
	"uplane/policy"
)

// systemd's names on the bus.
const (
	systemdName    = "org.freedesktop.systemd1"
	systemdPath    = dbus.ObjectPath("/org/freedesktop/systemd1")
	systemdManager = systemdName + ".Manager"
	systemdService = systemdName + ".Service"
)

// property is one of a unit.
type property struct {
	Name  string
	Value dbus.Variant
}

// aux is a unit that comes along with a transient one; there are none.
type aux struct {
	Name       string
	Properties []property
}

const (
	// maxUnits is how many programs a user may have had started that still run.
	maxUnits = 200
	// startTimeout is for a systemd that hangs.
	startTimeout = 20 * time.Second
	// abandonTimeout is for such a one to hear that a start is no longer wanted.
	abandonTimeout = 2 * time.Second
	// stopTimeout is how long a program that is asked to end may take.
	stopTimeout = 5 * time.Second
)

// ErrTooMany refuses a user who has enough programs.
var ErrTooMany = fmt.Errorf("%d programs that this user had started in lanes still run", maxUnits)

// ErrSocket refuses a path that no socket of a keeper's has.
var ErrSocket = errors.New("no path for a socket")

// ErrNoSystemd tells that nobody is there who could start a program.
var ErrNoSystemd = errors.New("systemd runs this machine, and is not on the system bus")

// Run has uplane started in a lane as the caller, which goes to the socket to hear what to run. It returns once uplane is
// there, with the name of its unit; where there is no systemd it has none, and it returns once uplane has been executed.
func (m *Manager) Run(ctx context.Context, lane string, caller Caller, socket string) (unit string, err error) {
	if err := policy.CheckLaneName(lane); err != nil {
		return "", err
	}
	if err := CheckSocket(socket); err != nil {
		return "", fmt.Errorf("%w: %w", ErrSocket, err)
	}
	if err := checkPath(m.Uplane); err != nil {
		return "", fmt.Errorf("uplane is installed where systemd can't be told of: %w", err)
	}
	if err := nsexec.CheckLane(lane); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	leave, err := m.starting.enter(ctx, caller.UID)
	if err != nil {
		return "", err
	}
	defer leave()
	like, err := caller.inspect()
	if err != nil {
		return "", err
	}
	if err := overlay.Check(); err != nil {
		return "", err
	}
	if !booted() {
		return "", m.fork(ctx, lane, caller, like, socket)
	}
	s, err := m.systemd(ctx)
	if err != nil {
		return "", err
	}
	defer s.conn.Close()
	if err := s.bounded(ctx, caller.UID); err != nil {
		return "", err
	}
	unit = unitName(lane, caller.UID)
	return unit, s.start(ctx, unit, m.properties(lane, caller, like, socket))
}

const unitPrefix, unitSuffix = "uplane-run-", ".service"

// unitName has the user's number where a pattern finds it.
func unitName(lane string, uid uint32) string {
	var random [8]byte
	rand.Read(random[:]) // never fails
	return fmt.Sprintf("%s%d-%s-%s%s", unitPrefix, uid, lane, hex.EncodeToString(random[:]), unitSuffix)
}

// unitOf is the user and the lane of such a unit, as they are in its name.
func unitOf(unit string) (uid, lane string) {
	name, ok := strings.CutPrefix(strings.TrimSuffix(unit, unitSuffix), unitPrefix)
	uid, name, _ = strings.Cut(name, "-")
	end := strings.LastIndexByte(name, '-')
	if !ok || end < 0 {
		return "", ""
	}
	return uid, name[:end]
}

// properties are the unit's. It must not have PrivateTmp, PrivateUsers or
// RestrictNamespaces: programs with windows and those that make sandboxes of their own
// live on what these take away.
func (m *Manager) properties(lane string, c Caller, like execContext, socket string) []property {
	type exec struct {
		Path    string
		Argv    []string
		MayFail bool
	}
	type bind struct {
		From, To string
		Optional bool
		Flags    uint64
	}
	type tmpfs struct{ Path, Options string }
	var binds []bind
	for _, f := range overlay.Files(lane) {
		if _, err := os.Lstat(f.HostPath); err != nil {
			continue // systemd would make one on the host
		}
		binds = append(binds, bind{From: f.LanePath, To: f.HostPath})
	}
	var masks []tmpfs
	for _, dir := range overlay.Masked {
		masks = append(masks, tmpfs{dir, "ro"})
	}

	uid := strconv.Itoa(int(c.UID))
	groups := make([]string, len(like.groups))
	for i, g := range like.groups {
		groups[i] = strconv.Itoa(int(g))
	}
	values := []struct {
		name  string
		value any
	}{
		// Of what a caller says, systemd's file of the unit has only what was checked: a line's end would begin another setting.
		{"Description", fmt.Sprintf("uplane run in lane %s, for user %s", lane, uid)},
		// Not ExecStartEx, which systemd 252 writes in a way that it can't read after a daemon-reload.
		{"ExecStart", []exec{{m.Uplane, m.keeper(like, socket), false}}},
		{"User", uid},
		{"Group", strconv.Itoa(int(like.gid))},
		{"SupplementaryGroups", groups},
		// Here logind and polkit know whose it is.
		{"Slice", "user-" + uid + ".slice"},

		{"NetworkNamespacePath", policy.NetnsPath(lane)},
		{"BindReadOnlyPaths", binds},
		{"TemporaryFileSystem", masks},

		{"Type", "notify"}, // started means that the keeper has met who waits for it
		// A program may end and leave others behind: the unit lives as long as any of them.
		{"ExitType", "cgroup"},
		{"CollectMode", "inactive-or-failed"},
		{"OOMPolicy", "continue"},
		{"TasksMax", uint64(math.MaxUint64)}, // the user's slice has a bound
		{"TimeoutStopUSec", uint64(stopTimeout.Microseconds())},
		{"SendSIGHUP", true}, // a shell heeds no SIGTERM
		{"IgnoreSIGPIPE", false},
		{"KeyringMode", "shared"},
		{"NoNewPrivileges", like.noNewPrivileges},
		{"CapabilityBoundingSet", like.bounding},
		{"Nice", int32(like.nice)},
		{"AddRef", true},
	}
	out := make([]property, 0, len(values)+2*len(like.limits))
	for _, v := range values {
		out = append(out, property{v.name, dbus.MakeVariant(v.value)})
	}
	for _, l := range like.limits {
		out = append(out, property{"Limit" + l.name, dbus.MakeVariant(l.hard)}, property{"Limit" + l.name + "Soft", dbus.MakeVariant(l.soft)})
	}
	return out
}

// starter is systemd on a connection of its own.
type starter struct {
	systemd dbus.BusObject
	conn    *dbus.Conn
}

// systemd makes a connection of its own: systemd keeps the unit for as long as it is there, which is until we
// know how the start went. It outlives ctx a little, for there may be something to end then.
func (m *Manager) systemd(ctx context.Context) (starter, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout+2*abandonTimeout)
	conn, err := busguard.Connect(ctx, m.Address, nil)
	if err != nil {
		cancel()
		return starter{}, err
	}
	context.AfterFunc(conn.Context(), cancel)
	return starter{conn.Object(systemdName, systemdPath), conn}, nil
}

// call never starts a systemd: on a machine without one its activation file may be there.
func (s starter) call(ctx context.Context, method string, args ...any) *dbus.Call {
	return s.systemd.CallWithContext(ctx, systemdManager+"."+method, dbus.FlagNoAutoStart, args...)
}

// bounded refuses a user who has too many programs: each costs process 1 something. Some may start at a time, so it may be
// a few more.
func (s starter) bounded(ctx context.Context, uid uint32) error {
	units, err := s.units(ctx, fmt.Sprintf("%s%d-*%s", unitPrefix, uid, unitSuffix))
	if err == nil && len(units) >= maxUnits {
		return ErrTooMany
	}
	return err
}

// units are the names of units that a pattern matches.
func (s starter) units(ctx context.Context, pattern string) (names []string, err error) {
	var units [][]any
	err = s.call(ctx, "ListUnitsByPatterns", []string{}, []string{pattern}).Store(&units)
	if isError(err, "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner") {
		return nil, ErrNoSystemd
	}
	if err != nil {
		return nil, fmt.Errorf("ask systemd what runs: %w", err)
	}
	for _, u := range units {
		name, _ := u[0].(string)
		names = append(names, name)
	}
	return names, nil
}

// isError tells whether it is one of the bus's errors of these names.
func isError(err error, names ...string) bool {
	var derr dbus.Error
	return errors.As(err, &derr) && slices.Contains(names, derr.Name)
}

// start starts a unit and waits until its program is ready.
func (s starter) start(ctx context.Context, unit string, properties []property) error {
	removed := make(chan *dbus.Signal, 64)
	s.conn.Signal(removed)
	// The job can't be in the rule, for it has no number yet; the unit can.
	err := s.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(systemdName), dbus.WithMatchInterface(systemdManager),
		dbus.WithMatchMember("JobRemoved"), dbus.WithMatchArg(2, unit))
	if err != nil {
		return err
	}
	if err := s.call(ctx, "Subscribe").Err; err != nil {
		return fmt.Errorf("hear from systemd: %w", err)
	}
	var job dbus.ObjectPath
	if err := s.call(ctx, "StartTransientUnit", unit, "fail", properties, []aux{}).Store(&job); err != nil {
		s.abandon(ctx, unit)
		return fmt.Errorf("have systemd start it: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			s.abandon(ctx, unit)
			return fmt.Errorf("have systemd start it: %w", ctx.Err())
		case signal, ok := <-removed:
			if !ok {
				return errors.New("the bus went away while systemd started it")
			}
			// JobRemoved(id, job, unit, result); other signals are the bus's own.
			if len(signal.Body) != 4 || signal.Body[1] != job {
				continue
			}
			if signal.Body[3] != "done" {
				return s.why(ctx, unit)
			}
			return nil
		}
	}
}

// abandon ends a unit whose start took so long that nobody waits for it any more: whoever asked is told that it
// failed, so it must not run later.
func (s starter) abandon(ctx context.Context, unit string) {
	if ctx.Err() == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTimeout)
	defer cancel()
	_ = s.call(ctx, "StopUnit", unit, "replace").Err // a systemd that hangs has it in its queue
}

// why is what systemd knows of a unit that did not start: the words of its program, or how that ended.
func (s starter) why(ctx context.Context, unit string) error {
	failed := errors.New("systemd could not start it")
	var path dbus.ObjectPath
	if err := s.call(ctx, "GetUnit", unit).Store(&path); err != nil {
		return failed
	}
	var service map[string]dbus.Variant
	get := s.conn.Object(systemdName, path).CallWithContext(ctx, "org.freedesktop.DBus.Properties.GetAll", dbus.FlagNoAutoStart, systemdService)
	if err := get.Store(&service); err != nil {
		return failed
	}
	result, status := service["Result"].Value(), service["ExecMainStatus"].Value()
	if words, _ := service["StatusText"].Value().(string); words != "" {
		return fmt.Errorf("the lane's half of uplane failed: %s", words)
	}
	if step, ok := steps[status]; ok && result == "exit-code" {
		return fmt.Errorf("%w: %s", failed, step)
	}
	return fmt.Errorf("the lane's half of uplane failed, result %v, status %v: journalctl --unit=%s", result, status, unit)
}

// steps are those of systemd.exec(5) that can fail for reasons of ours.
var steps = map[any]string{
	int32(203): "the program can't be executed",
	int32(217): "there is no such user",
	int32(225): "the lane's namespace is not there any more",
	int32(226): "the lane's own view of files can't be made",
}
