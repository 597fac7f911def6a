package main

import (
	"context"
	"net/netip"

	"uplane/internal/bus"
	"uplane/internal/reconcile"
)

// manager shows the loop's lanes in the form of the bus.
type manager struct{ *reconcile.Loop }

func (m manager) List(ctx context.Context) ([]bus.Lane, error) {
	statuses, err := m.Loop.List(ctx)
	out := make([]bus.Lane, len(statuses))
	for i, s := range statuses {
		out[i] = toLane(s)
	}
	return out, err
}

func (m manager) Up(ctx context.Context, lane string, changes map[string]any) (bus.Lane, error) {
	s, err := m.Loop.Up(ctx, lane, changes)
	return toLane(s), err
}

func (m manager) Down(ctx context.Context, lane string) (bus.Lane, error) {
	s, err := m.Loop.Down(ctx, lane)
	return toLane(s), err
}

func toLane(s reconcile.Status) bus.Lane {
	l := bus.Lane{
		Name: s.Lane.Name, State: string(s.State), Reason: s.Reason, Mark: s.Lane.Mark,
		IPv4: bus.Family{Addresses: []string{}}, IPv6: bus.Family{Addresses: []string{}},
		DNS: texts(s.DNS), Since: bus.SinceTime(s.Since),
	}
	if s.Alloc.Subnet.IsValid() {
		l.Namespace, l.Bridge, l.Subnet, l.Table = "/run/netns/"+s.Lane.Name, s.Alloc.Bridge, s.Alloc.Subnet.String(), s.Alloc.Table
	}
	if u := s.Uplink; u != nil {
		l.Uplink = bus.Uplink{Interface: u.Interface, Connection: u.Connection, UUID: u.UUID, SSID: u.SSID}
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
