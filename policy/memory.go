package policy

import (
	"net/netip"
	"time"
)

// Memory is what deciding needs to know beyond what can be seen: what lanes were
// given, what users said, and what it takes to undo things.
type Memory struct {
	Lanes map[string]LaneMemory
	// Sysctls is what switches were before us, by [Sysctl]'s key.
	Sysctls map[string]string
	// Forwarded: the host forwarded packets when that was last looked at.
	Forwarded bool
	// Draining are subnets of lanes that have gone whose connections still live.
	Draining map[netip.Prefix]Drain
	// Answers are the uplinks' addresses from which the host still answers for lanes.
	Answers map[netip.Addr]string // to the interface

	// What follows is not kept on the disk.

	// Answered is since when no lane leaves by an address of Answers any more.
	Answered  map[netip.Addr]time.Time
	Fights    map[Object]Fight
	Converged Setup // what was wanted when there was last nothing left to do
	built     *built
}

// LaneMemory is what is remembered of a lane.
type LaneMemory struct {
	Allocation
	// Definition is what the lane goes on as while its file is broken; nil: it never was sound.
	Definition *Lane
	Want       Want
	Profile    bool    // it was up by its NetworkManager profile when that was last seen
	Uplink     *Uplink // the last one; nil: none yet
	Files      bool    // its files were ours
	State      LaneState
	Since      time.Time // of State
}

// Want is what a user said about a lane, over its file's "enabled".
type Want string

// The values of Want; empty: nothing was said.
const (
	WantUp   Want = "up"
	WantDown Want = "down"
)

// Drain is a subnet that no lane has any more, as long as connections of it live: until
// then what still comes for it is dropped here, and nothing answers it by another card.
type Drain struct{ Since time.Time }
