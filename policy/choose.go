package policy

import (
	"fmt"
	"slices"
	"strings"
)

// choose returns the uplink that l leaves by, or why there is none. The order of
// l's selectors decides; within one, the present uplink stays.
func (b *builder) choose(l *Lane) (*Uplink, Condition) {
	var reasons []string
	code := "NotConnected"
	for _, sel := range l.Uplink {
		var found *Uplink
		matched, private := false, ""
		for _, u := range b.uplinks {
			if !sel.Matches(u) {
				if sel.Kind == ByConnection && u.Private && u.Connection == sel.Value {
					private = u.Interface
				}
				continue
			}
			matched = true
			if why := u.unusable(b.in.Host); why != "" {
				reasons = append(reasons, why)
			} else if !u.serves(l.Name) {
				reasons = append(reasons, u.unserving())
			} else if found == nil || u.Interface == b.current(l.Name) {
				found = u
			}
		}
		if found != nil {
			return found, Condition{}
		}
		switch {
		case matched:
		case private != "":
			reasons = append(reasons, fmt.Sprintf("%v matches only a private profile on %s: select it by uuid:, or nmcli connection modify it with connection.permissions ''", sel, private))
		default:
			code = "NoMatch"
			reasons = append(reasons, "nothing matches "+sel.String()+b.elsewhere(sel))
		}
	}
	slices.Sort(reasons)
	return nil, Condition{Type: AboutUplink, Reason: code, Effect: Waiting, Message: "no uplink: " + strings.Join(slices.Compact(reasons), ", ")}
}

// current is the interface that a lane left by last.
func (b *builder) current(lane string) string {
	if u := b.in.Memory.Lanes[lane].Uplink; u != nil {
		return u.Interface
	}
	return ""
}

// elsewhere says where the radios are when the network that a lane is for is not there: that is the first thing to look at.
func (b *builder) elsewhere(sel Selector) string {
	if sel.Kind != BySSID {
		return ""
	}
	var radios []string
	for _, u := range b.uplinks {
		switch {
		case u.Type != "wifi":
		case u.SSID == "" || u.Phase == PhaseDown:
			radios = append(radios, u.Interface+" is not connected")
		default:
			radios = append(radios, u.Interface+" is on "+u.SSID)
		}
	}
	if len(radios) == 0 {
		return ""
	}
	return " (" + strings.Join(radios, ", ") + ")"
}
