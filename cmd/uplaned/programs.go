package main

import (
	"context"
	"errors"

	"uplane/internal/api"
	"uplane/internal/run/spawn"
)

func (m manager) Run(ctx context.Context, lane string, c api.Caller, socket string) (string, error) {
	unit, err := m.programs.Run(ctx, lane, spawn.Caller{UID: c.UID, PID: c.PID, Groups: c.Groups}, socket)
	if errors.Is(err, spawn.ErrElsewhere) || errors.Is(err, spawn.ErrTooMany) {
		return "", api.Errorf(api.Refused, "%v", err)
	}
	if errors.Is(err, spawn.ErrSocket) {
		return "", api.Errorf(api.InvalidArgument, "%v", err)
	}
	return unit, busError(err)
}

func (m manager) Programs(_ context.Context, lanes []string, uid uint32) ([]api.Program, error) {
	all, err := m.programs.List(lanes, whose(uid))
	out := make([]api.Program, len(all))
	for i, p := range all {
		out[i] = api.Program{Lane: p.Lane, PID: p.PID, UID: p.UID, Since: api.SinceTime(p.Since), Name: p.Name}
	}
	return out, busError(err)
}

func (m manager) Stop(ctx context.Context, lane string, uid uint32) (int, error) {
	n, err := m.programs.Stop(ctx, lane, whose(uid))
	return n, busError(err)
}

// whose are the programs that a user sees and ends: root all, others their own.
func whose(uid uint32) uint32 {
	if uid == 0 {
		return spawn.Everybody
	}
	return uid
}
