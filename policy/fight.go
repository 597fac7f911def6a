package policy

import (
	"fmt"
	"maps"
	"time"
)

// Fight counts how often somebody else has undone an object of ours.
type Fight struct {
	Healed int
	Last   time.Time
}

const (
	// quietHeals is how many are healed without a word.
	quietHeals = 5
	// managerHeals is that for what NetworkManager undoes whenever a user
	// reactivates or reapplies a lane's profile.
	managerHeals = 30
	// peaceAfter: without another undoing the fight is over.
	peaceAfter = time.Minute
	// doorPause is how long a door waits that somebody keeps moving. Nothing
	// else ever waits: what keeps a lane closed is healed at once each time.
	doorPause = 5 * time.Second
)

// fights counts what ops heal: what the last clean pass wanted and is not there any more.
// It takes out of ops the doors that are to wait, and returns when to look again.
func fights(was map[Object]Fight, ops []Op, converged Setup, now time.Time) (is map[Object]Fight, rest []Op, again time.Duration) {
	is = maps.Clone(was)
	if is == nil {
		is = map[Object]Fight{}
	}
	maps.DeleteFunc(is, func(_ Object, f Fight) bool { return now.Sub(f.Last) > peaceAfter })
	rest = ops[:0:0]
	for _, op := range ops {
		if op.Verb != Add && op.Verb != Replace || !converged.hasOf(op.Lane, op.Object) {
			rest = append(rest, op)
			continue
		}
		f := is[op.Object]
		if _, door := op.Object.(Door); door && f.Healed >= quietHeals {
			if left := doorPause - now.Sub(f.Last); left > 0 {
				again = left
				continue
			}
		}
		is[op.Object] = Fight{f.Healed + 1, now}
		rest = append(rest, op)
	}
	return is, rest, again
}

// undone is what users should know of.
type undone struct {
	Object
	lane   string // empty: several
	healed int
}

// undoneOf are the fights over what is wanted that are more than a slip.
func undoneOf(all map[Object]Fight, want Setup) (out []undone) {
	for o, f := range all {
		if lane, wanted := want.laneOf(o); wanted && f.Healed >= quietHeals {
			out = append(out, undone{o, lane, f.Healed})
		}
	}
	return out
}

// about returns the condition of a lane that is in the fight.
func (u *undone) about(l *Lane) (Condition, bool) {
	c := Condition{
		Type: AboutFight, Reason: "Undone", Effect: Degraded,
		Message: fmt.Sprintf("another program keeps undoing %q (healed %d times)", undoing(u.Object), u.healed),
	}
	return c, (u.lane == "" || u.lane == l.Name) && (!l.External || u.healed >= managerHeals)
}

// undoing is what an object is for those who look for who undoes it.
func undoing(o Object) string {
	if f, ok := o.(File); ok {
		return f.Path
	}
	return firstLine(o.add())
}

// firstLine is the first line of the first of lines.
func firstLine(lines []string) string {
	line := lines[0]
	for i, c := range line {
		if c == '\n' {
			return line[:i]
		}
	}
	return line
}
