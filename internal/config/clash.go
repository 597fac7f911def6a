package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// byClaim puts lanes into the order in which they get what they claim: first those that hold it, then others by
// name, last the one that is being changed.
func (all sources) byClaim(lanes []laneAt) {
	rank := func(l *laneAt) int {
		switch {
		case l.lane.Name == all.edited:
			return 2
		case all.holds != nil && all.holds(l.lane):
			return 0
		}
		return 1
	}
	slices.SortFunc(lanes, func(a, b laneAt) int {
		return cmp.Or(cmp.Compare(rank(&a), rank(&b)), strings.Compare(a.lane.Name, b.lane.Name))
	})
}

// clash returns an error if the lane at a place claims for itself what another of the lanes has
// claimed: of two lanes, the later is in the wrong, so that the earlier
// goes on working. Broken lanes claim nothing.
//
// Only what the files say is compared. Automatic values are chosen around it,
// but for the bridge's name: a lane that takes another lane's ul-NAME is in the
// wrong whatever the order, as the other's file has no line to blame.
func (l *laneAt) clash(lanes []laneAt, place int, broken map[string]error) error {
	if l.lane.Bridge == "" && !l.lane.Subnet.IsValid() && l.lane.Table == 0 && l.lane.Mark == 0 {
		return nil // it claims nothing, as most do: a thousand need not be compared with a thousand
	}
	for i := range lanes {
		o := &lanes[i]
		if i == place || broken[o.lane.Name] != nil {
			continue
		}
		if l.lane.Bridge != "" && o.lane.Bridge == "" && !o.lane.NoBridge && l.lane.Bridge == "ul-"+o.lane.Name {
			return l.clashError("bridge", l.lane.Bridge+" is the default", o)
		}
		if i > place {
			continue
		}
		switch {
		case l.lane.Subnet.IsValid() && o.lane.Subnet.IsValid() && l.lane.Subnet.Overlaps(o.lane.Subnet):
			return l.clashError("subnet", fmt.Sprintf("%v overlaps with %v", l.lane.Subnet, o.lane.Subnet), o)
		case l.lane.Table != 0 && l.lane.Table == o.lane.Table:
			return l.clashError("table", fmt.Sprintf("%d is the table", l.lane.Table), o)
		case l.lane.Mark != 0 && l.lane.Mark == o.lane.Mark && l.lane.MarkMask == o.lane.MarkMask:
			return l.clashError("mark", showMark(l.lane.Mark, l.lane.MarkMask)+" is the mark", o)
		case l.lane.SharesMark(&o.lane):
			return l.clashError("mark", fmt.Sprintf("%s has packets in common with %s", showMark(l.lane.Mark, l.lane.MarkMask), showMark(o.lane.Mark, o.lane.MarkMask)), o)
		case l.lane.Bridge != "" && l.lane.Bridge == o.lane.Bridge:
			return l.clashError("bridge", l.lane.Bridge+" is the bridge", o)
		}
	}
	return nil
}

// clashError blames l's key for being what lane o has.
func (l *laneAt) clashError(key, what string, o *laneAt) error {
	where := o.file
	if at, ok := o.at[key]; ok {
		where = fmt.Sprintf("%s:%d", o.file, at.line)
	}
	at := l.at[key]
	return &Error{l.file, at.line, at.column, key,
		fmt.Sprintf("%s of lane %s (%s); use another one, or leave the key out", what, o.lane.Name, where)}
}
