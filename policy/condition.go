package policy

import (
	"cmp"
	"slices"
	"strings"
)

// Condition is a fact about a lane that a user should know.
type Condition struct {
	Type    ConditionType
	Reason  string // a code, CamelCase, that never changes
	Message string // for people
	Hint    string // one command or step that helps; may be empty
	// Effect is the best state that a lane can be in with it; Up: any.
	Effect LaneState
}

// ConditionType is what a condition is about.
type ConditionType string

// The types.
const (
	AboutConfig         ConditionType = "Config"         // its file or profile
	AboutNumbers        ConditionType = "Numbers"        // subnet, table, mark, names
	AboutNamespace      ConditionType = "Namespace"      //
	AboutUplink         ConditionType = "Uplink"         //
	AboutBridge         ConditionType = "Bridge"         // and its ports
	AboutDNS            ConditionType = "DNS"            //
	AboutRules          ConditionType = "Rules"          // others' routing rules
	AboutFirewall       ConditionType = "Firewall"       //
	AboutFight          ConditionType = "Fight"          // somebody undoes what we do
	AboutKernel         ConditionType = "Kernel"         // an operation that failed
	AboutMemory         ConditionType = "Memory"         // the state files
	AboutNetworkManager ConditionType = "NetworkManager" //
)

// severity orders states from the best to the worst.
func (s LaneState) severity() int {
	return slices.Index([]LaneState{Up, Degraded, Waiting, Error}, s)
}

// worst is the state that conditions leave a wanted lane in.
func worst(conditions []Condition) LaneState {
	state := Up
	for _, c := range conditions {
		if c.Effect.severity() > state.severity() {
			state = c.Effect
		}
	}
	return state
}

// reason is what a lane's conditions say that keep it from being up, the worst first.
func reason(conditions []Condition) string {
	var parts []string
	sorted := slices.SortedStableFunc(slices.Values(conditions), func(a, b Condition) int {
		return cmp.Compare(b.Effect.severity(), a.Effect.severity())
	})
	for _, c := range sorted {
		if c.Effect == Up {
			continue
		}
		text := c.Message
		if c.Hint != "" {
			text += ": " + c.Hint
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}
