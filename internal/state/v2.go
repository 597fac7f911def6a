package state

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"uplane/policy"
)

// Version 2 grows: whoever reads it passes over fields that it does not know and
// over values that it may not act on. It holds only what version 1 cannot; where
// the two differ, as after a time with the first release, version 1 is right.

// stateV2 is the data of state.v2.json.
type stateV2 struct {
	Lanes map[string]stateLaneV2 `json:"lanes"` // by lane name
}

type stateLaneV2 struct {
	// Definition is there if version 1 has a part of it only, or none.
	Definition *laneV2 `json:"definition"`
}

type laneV2 struct {
	laneV1
	MarkMask  uint32 `json:",omitzero"`
	AllowHost bool   `json:",omitzero"`
}

// runV2 is the data of run.v2.json.
type runV2 struct {
	Lanes map[string]runLaneV2 `json:"lanes"` // by lane name
	worldV2
}

// worldV2 is what runV2 has beside lanes.
type worldV2 struct {
	Forwarded bool                     `json:"forwarded,omitempty"`
	Sysctl    map[string]int           `json:"sysctl,omitempty"` // by keys that version 1 does not take
	Draining  map[netip.Prefix]drainV2 `json:"draining,omitempty"`
	Answers   map[netip.Addr]string    `json:"answers,omitempty"`
}

type runLaneV2 struct {
	State string    `json:"state,omitempty"`
	Since time.Time `json:"since,omitzero"`
	Files bool      `json:"files,omitempty"`
}

type drainV2 struct {
	Since time.Time `json:"since"`
}

func decodeV2[T any](data []byte) (T, error) {
	var f struct{ Data T }
	err := checkVersion(data, 2)
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		var none T
		return none, err
	}
	return f.Data, nil
}

func newLaneV2(l *policy.Lane) *laneV2 {
	return &laneV2{laneV1: lanePartV1(l), MarkMask: l.MarkMask, AllowHost: l.AllowHost}
}

func (l *laneV2) lane() policy.Lane {
	p := l.laneV1.lane()
	p.MarkMask, p.AllowHost = l.MarkMask, l.AllowHost
	return p
}

// v1 is what version 1 has of l; nil: it takes none of it.
func (l *laneV2) v1() *laneV1 {
	if !l.known() {
		return nil
	}
	part := l.laneV1
	return &part
}

func (l runLaneV2) check(name string) error {
	switch policy.LaneState(l.State) {
	case "", policy.Down, policy.Waiting, policy.Up, policy.Degraded, policy.Error:
	default:
		return fmt.Errorf("lane %s: invalid state %.40q", name, l.State)
	}
	if err := checkTime(l.Since); err != nil {
		return fmt.Errorf("lane %s: since: %w", name, err)
	}
	return nil
}

func checkDrain(subnet netip.Prefix, d drainV2) error {
	if err := policy.CheckSubnet(subnet); err != nil {
		return fmt.Errorf("draining: %w", err)
	}
	if err := checkTime(d.Since); err != nil {
		return fmt.Errorf("draining %v: %w", subnet, err)
	}
	return nil
}

func checkAnswer(addr netip.Addr, iface string) error {
	if !addr.IsValid() || addr.Zone() != "" || addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() {
		return fmt.Errorf("invalid answering address %v", addr)
	}
	if err := policy.CheckInterfaceName(iface); err != nil {
		return fmt.Errorf("answering address %v: %w", addr, err)
	}
	return nil
}

// checkTime takes what RFC 3339 can say in any zone.
func checkTime(t time.Time) error {
	if y := t.Year(); y < 1 || y > 9998 {
		return fmt.Errorf("invalid year %d", y)
	}
	return nil
}
