package main

import (
	"context"
	"errors"
	"net/netip"

	"uplane/internal/api"
	"uplane/internal/config"
	"uplane/internal/daemon"
	"uplane/internal/run/spawn"
	"uplane/policy"
)

// manager shows the loop, and what runs in lanes, to the bus, in the bus's words.
type manager struct {
	loop     *daemon.Loop
	programs *spawn.Manager
}

func (m manager) Up(ctx context.Context, lane string, changes map[string]any, create bool) error {
	_, err := m.loop.Up(ctx, lane, changes, create)
	return busError(err)
}

func (m manager) Set(ctx context.Context, lane string, changes map[string]any) error {
	_, err := m.loop.Set(ctx, lane, changes)
	return busError(err)
}

func (m manager) Down(ctx context.Context, lane string) error {
	_, err := m.loop.Down(ctx, lane)
	return busError(err)
}

func (m manager) Remove(ctx context.Context, lane string) error {
	return busError(m.loop.Remove(ctx, lane))
}

func (m manager) Reload(ctx context.Context) ([]error, error) {
	problems, err := m.loop.Reload(ctx)
	return problems, busError(err)
}

func (m manager) Plan(ctx context.Context, lane string) ([]string, error) {
	lines, err := m.loop.Plan(ctx, lane)
	return lines, busError(err)
}

func (m manager) Settle(ctx context.Context, iface, uuid string) error {
	return busError(m.loop.Settle(ctx, iface, uuid))
}

// busError tells the kind of an error to the bus.
func busError(err error) error {
	var refused *config.Refused
	switch {
	case err == nil:
		return nil
	case errors.Is(err, daemon.ErrNoLane):
		return api.Errorf(api.NoSuchLane, "%v", err)
	case errors.As(err, &refused) && refused.LacksUplink():
		return api.Errorf(api.UplinkMissing, "%v", err)
	case errors.As(err, &refused):
		return api.Errorf(api.InvalidArgument, "%v", err)
	}
	return api.Errorf(api.Failed, "%v", err)
}

func toLanes(statuses []daemon.Status) []api.Lane {
	out := make([]api.Lane, len(statuses))
	for i, s := range statuses {
		out[i] = toLane(s)
	}
	return out
}

func toLane(s daemon.Status) api.Lane {
	l := api.Lane{
		Name: s.Lane.Name, State: string(s.State), Reason: s.Reason, Profile: s.Profile, Mark: s.Lane.Mark,
		IPv4: api.Family{Addresses: []string{}}, IPv6: api.Family{Addresses: []string{}},
		DNS: texts(s.DNS), Since: api.SinceTime(s.Since),
	}
	l.Conditions = make([]api.Condition, len(s.Conditions))
	for i, c := range s.Conditions {
		l.Conditions[i] = api.Condition{Type: string(c.Type), Status: "True", Reason: c.Reason, Message: c.Message, Hint: c.Hint}
	}
	if s.Alloc.Subnet.IsValid() {
		l.Namespace, l.Bridge, l.Subnet, l.Table = policy.NetnsPath(s.Lane.Name), s.Alloc.Bridge, s.Alloc.Subnet.String(), s.Alloc.Table
	}
	if u := s.Uplink; u != nil {
		l.Uplink = api.Uplink{Interface: u.Interface, Connection: u.Connection, UUID: u.UUID, SSID: u.SSID}
		for _, a := range u.Addresses {
			f := &l.IPv4
			if a.Addr().Is6() {
				f = &l.IPv6
			}
			f.Addresses = append(f.Addresses, a.String())
		}
		if gw, _ := u.Gateway(); gw.IsValid() {
			l.IPv4.Gateway = gw.String()
		}
		if gw, _ := u.Gateway6(); gw.IsValid() {
			l.IPv6.Gateway = gw.String()
		}
	}
	return l
}

func texts(addrs []netip.Addr) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return out
}
