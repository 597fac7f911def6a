package main

import (
	"context"
	"errors"

	"uplane/internal/bus"
	"uplane/internal/programs"
)

func (m manager) Run(ctx context.Context, lane string, c bus.Caller, socket string) (string, error) {
	unit, err := m.programs.Run(ctx, lane, programs.Caller{UID: c.UID, PID: c.PID, Groups: c.Groups}, socket)
	if errors.Is(err, programs.ErrElsewhere) || errors.Is(err, programs.ErrTooMany) {
		return "", bus.Errorf(bus.Refused, "%v", err)
	}
	if errors.Is(err, programs.ErrSocket) {
		return "", bus.Errorf(bus.InvalidArgument, "%v", err)
	}
	return unit, busError(err)
}

func (m manager) Programs(_ context.Context, lanes []string, uid uint32) ([]bus.Program, error) {
	all, err := m.programs.List(lanes, whose(uid))
	out := make([]bus.Program, len(all))
	for i, p := range all {
		out[i] = bus.Program{Lane: p.Lane, PID: p.PID, UID: p.UID, Since: bus.SinceTime(p.Since), Name: p.Name}
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
		return programs.Everybody
	}
	return uid
}
