package config

import "fmt"

// clash returns an error if l claims for itself what another of the lanes has
// claimed: of two lanes, the later by name is in the wrong, so that the earlier
// goes on working. Broken lanes claim nothing.
//
// Only what the files say is compared. Automatic values are chosen around it,
// but for the bridge's name: a lane that takes another lane's ul-NAME is in the
// wrong whatever the order, as the other's file has no line to blame.
func (l laneAt) clash(lanes []laneAt, broken map[string]error) error {
	for _, o := range lanes {
		if o.lane.Name == l.lane.Name || broken[o.lane.Name] != nil {
			continue
		}
		if l.lane.Bridge != "" && o.lane.Bridge == "" && !o.lane.NoBridge && l.lane.Bridge == "ul-"+o.lane.Name {
			return l.clashError("bridge", l.lane.Bridge+" is the default", o)
		}
		if o.lane.Name > l.lane.Name {
			continue
		}
		switch {
		case l.lane.Subnet.IsValid() && o.lane.Subnet.IsValid() && l.lane.Subnet.Overlaps(o.lane.Subnet):
			return l.clashError("subnet", fmt.Sprintf("%v overlaps with %v", l.lane.Subnet, o.lane.Subnet), o)
		case l.lane.Table != 0 && l.lane.Table == o.lane.Table:
			return l.clashError("table", fmt.Sprintf("%d is the table", l.lane.Table), o)
		case l.lane.Mark != 0 && l.lane.Mark == o.lane.Mark:
			return l.clashError("mark", fmt.Sprintf("%d is the mark", l.lane.Mark), o)
		case l.lane.Bridge != "" && l.lane.Bridge == o.lane.Bridge:
			return l.clashError("bridge", l.lane.Bridge+" is the bridge", o)
		}
	}
	return nil
}

// clashError blames l's key for being what lane o has.
func (l laneAt) clashError(key, what string, o laneAt) error {
	where := o.file
	if at, ok := o.at[key]; ok {
		where = fmt.Sprintf("%s:%d", o.file, at.line)
	}
	at := l.at[key]
	return &Error{l.file, at.line, at.column, key,
		fmt.Sprintf("%s of lane %s (%s); use another one, or leave the key out", what, o.lane.Name, where)}
}
