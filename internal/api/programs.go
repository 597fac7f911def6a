package api

import (
	"context"
	"time"

	"uplane/internal/busguard"
)

// Caller is a program on the bus, as it was when it connected.
type Caller struct {
	UID, PID uint32
	Groups   []uint32
}

// Program is what runs in a lane, in the form of --json.
type Program struct {
	Lane  string `json:"lane"`
	PID   uint32 `json:"pid"`
	UID   uint32 `json:"uid"`
	Since string `json:"since"` // RFC 3339, UTC
	Name  string `json:"name"`
}

// caller asks the bus who sent a request.
func (s *session) caller(ctx context.Context, sender string) (Caller, error) {
	var v values
	if err := s.conn.BusObject().CallWithContext(ctx, driver+".GetConnectionCredentials", 0, sender).Store(&v); err != nil {
		return Caller{}, Errorf(NotAuthorized, "the bus does not know who asks: %v", err)
	}
	uid, hasUID := v["UnixUserID"].Value().(uint32)
	pid, hasPID := v["ProcessID"].Value().(uint32)
	if !hasUID || !hasPID {
		return Caller{}, Errorf(NotAuthorized, "the bus does not know which process asks")
	}
	return Caller{UID: uid, PID: pid, Groups: get[[]uint32](v, "UnixGroupIDs")}, nil
}

func run(r *request) ([]any, error) {
	lane := arg[string](r, 0)
	if err := r.session.server.inKernel(lane); err != nil {
		return nil, err
	}
	unit, err := r.manager().Run(r.ctx, lane, r.caller, arg[string](r, 1))
	return []any{unit}, err
}

// inKernel returns nil if there is a lane of that name, and it has a namespace.
func (s *Server) inKernel(name string) error {
	lane := find(*s.lanes.Load(), name)
	if lane == nil || lane.State == "down" || lane.Namespace == "" {
		return Errorf(NoSuchLane, "there is no lane %.40q, or it is down", name)
	}
	return nil
}

// listedProgram is a program in the answer of Programs.
type listedProgram struct {
	Lane     string
	PID, UID uint32
	Since    uint64 // seconds since 1970
	Name     string
}

// listPrograms tells root of all, and everybody else of their own.
func listPrograms(r *request) ([]any, error) {
	var lanes []string
	name := arg[string](r, 0)
	for _, l := range *r.session.server.lanes.Load() {
		if name == "" || name == l.Name {
			lanes = append(lanes, l.Name)
		}
	}
	if name != "" && len(lanes) == 0 {
		return nil, Errorf(NoSuchLane, "%.40q: no such lane", name)
	}
	all, err := r.manager().Programs(r.ctx, lanes, r.uid)
	out := make([]listedProgram, len(all))
	for i, p := range all {
		since, _ := time.Parse(time.RFC3339, p.Since)
		out[i] = listedProgram{p.Lane, p.PID, p.UID, uint64(since.Unix()), busguard.Text(p.Name)}
	}
	return []any{out}, err
}

func stop(r *request) ([]any, error) {
	name := arg[string](r, 0)
	if !r.session.server.has(name) {
		return nil, Errorf(NoSuchLane, "%.40q: no such lane", name)
	}
	n, err := r.manager().Stop(r.ctx, name, r.uid)
	return []any{uint32(n)}, err
}

// Run starts uplane's other half in a lane as this process's user, which comes to the socket, and returns the name of its unit.
func (c *Client) Run(ctx context.Context, lane, socket string) (unit string, err error) {
	err = c.call(ctx, Path, ManagerInterface+".Run", &unit, lane, socket)
	return unit, err
}

// Programs lists what runs in a lane, or in all if its name is empty: of everybody for root, else of this user.
func (c *Client) Programs(ctx context.Context, lane string) ([]Program, error) {
	var all []listedProgram
	err := c.call(ctx, Path, ManagerInterface+".Programs", &all, lane)
	out := make([]Program, len(all))
	for i, p := range all {
		out[i] = Program{Lane: p.Lane, PID: p.PID, UID: p.UID, Since: SinceTime(time.Unix(int64(p.Since), 0)), Name: p.Name}
	}
	return out, err
}

// Stop ends what Programs lists, and returns how many they were.
func (c *Client) Stop(ctx context.Context, lane string) (programs uint32, err error) {
	err = c.call(ctx, Path, ManagerInterface+".Stop", &programs, lane)
	return programs, err
}
