package api

import (
	"context"

	"github.com/godbus/dbus/v5"

	"uplane/internal/busguard"
)

// Manager is what the server needs of the daemon. Its errors are of kind
// [Failed] unless they are an [Error].
type Manager interface {
	// Up wants a lane up, with changes to its file first, which is made if create is set.
	Up(ctx context.Context, lane string, changes map[string]any, create bool) error
	// Set changes a lane's file.
	Set(ctx context.Context, lane string, changes map[string]any) error
	Down(ctx context.Context, lane string) error
	Remove(ctx context.Context, lane string) error
	Reload(ctx context.Context) (problems []error, err error)
	Plan(ctx context.Context, lane string) (lines []string, err error)
	// Settle waits until the lanes have followed what happened to an interface.
	Settle(ctx context.Context, iface, uuid string) error
	// Run starts uplane in a lane, as the caller, to hear at a socket what to run, and returns the name of its unit.
	Run(ctx context.Context, lane string, caller Caller, socket string) (unit string, err error)
	// Programs lists what runs in lanes, of one user, or of everybody if that is root.
	Programs(ctx context.Context, lanes []string, uid uint32) ([]Program, error)
	// Stop ends what Programs lists of a lane, and returns how many they were.
	Stop(ctx context.Context, lane string, uid uint32) (int, error)
}

// managerInterface is of the root object, for all lanes.
var managerInterface = iface{name: ManagerInterface, methods: []method{
	{name: "List", out: "lanes:a(sso)", needs: always(Read), reads: true, run: list},
	{name: "Get", in: "name:s", out: "lane:o", needs: always(Read), reads: true, run: getLane},
	{name: "Up", in: "name:s options:a{sv}", out: "lane:o", needs: upNeeds, run: up},
	{name: "Down", in: "name:s", needs: always(Use), run: func(r *request) ([]any, error) { return down(r, arg[string](r, 0)) }},
	{name: "Remove", in: "name:s", needs: always(Manage), run: remove},
	{name: "Reload", out: "problems:as", needs: always(Manage), run: reload},
	{name: "Plan", in: "name:s", out: "lines:as", needs: always(Read), run: func(r *request) ([]any, error) { return plan(r, arg[string](r, 0)) }},
	{name: "Settle", in: "interface:s profile:s", needs: always(Use), run: settle},
	{name: "Run", in: "name:s socket:s", out: "unit:s", needs: always(Use), process: true, run: run},
	{name: "Programs", in: "name:s", out: "programs:a(suuts)", needs: always(Read), run: listPrograms},
	{name: "Stop", in: "name:s", out: "programs:u", needs: always(Use), run: stop},
}}

// laneInterface is of a lane's object.
var laneInterface = iface{name: LaneInterface, properties: laneProperties, methods: []method{
	{name: "Up", needs: always(Use), run: func(r *request) ([]any, error) { return nil, r.manager().Up(r.ctx, r.lane, nil, false) }},
	{name: "Down", needs: always(Use), run: func(r *request) ([]any, error) { return down(r, r.lane) }},
	{name: "SetUplink", in: "selectors:as", needs: always(Manage), run: setUplink},
	{name: "Plan", out: "lines:as", needs: always(Read), run: func(r *request) ([]any, error) { return plan(r, r.lane) }},
}}

func (r *request) manager() Manager { return r.session.server.Manager }

// listed is a lane in the answer of List.
type listed struct {
	Name, State string
	Path        dbus.ObjectPath
}

func list(r *request) ([]any, error) {
	out := []listed{}
	for _, l := range r.session.published {
		out = append(out, listed{l.Name, l.State, LanePath(l.Name)})
	}
	return []any{out}, nil
}

func getLane(r *request) ([]any, error) {
	name := arg[string](r, 0)
	if r.session.find(name) == nil {
		return nil, Errorf(NoSuchLane, "%.40q: no such lane", name)
	}
	return []any{LanePath(name)}, nil
}

// upNeeds tells apart bringing a lane up, and making or changing one.
func upNeeds(r *request) Action {
	if r.session.server.has(arg[string](r, 0)) && len(arg[values](r, 1)) == 0 {
		return Use
	}
	return Manage
}

func up(r *request) ([]any, error) {
	name := arg[string](r, 0)
	changes, err := decodeOptions(arg[values](r, 1))
	if err != nil {
		return nil, err
	}
	// What was there when the caller was authorised may be gone now: who may use
	// lanes must not make one.
	create := r.allowed == Manage
	if err := r.manager().Up(r.ctx, name, changes, create); err != nil {
		return nil, err
	}
	return []any{LanePath(name)}, nil
}

func down(r *request, lane string) ([]any, error) { return nil, r.manager().Down(r.ctx, lane) }

func remove(r *request) ([]any, error) { return nil, r.manager().Remove(r.ctx, arg[string](r, 0)) }

func reload(r *request) ([]any, error) {
	problems, err := r.manager().Reload(r.ctx)
	out := make([]string, len(problems))
	for i, p := range problems {
		out[i] = busguard.Text(p.Error())
	}
	return []any{out}, err
}

func plan(r *request, lane string) ([]any, error) {
	lines, err := r.manager().Plan(r.ctx, lane)
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = busguard.Text(l)
	}
	return []any{out}, err
}

func setUplink(r *request) ([]any, error) {
	return nil, r.manager().Set(r.ctx, r.lane, map[string]any{"uplink": arg[[]string](r, 0)})
}
