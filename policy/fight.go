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
func fights(was map[Object]Fight, ops []Op, converged State, now time.Time) (is map[Object]Fight, rest []Op, again time.Duration) {
	is = maps.Clone(was)
	if is == nil {
		is = map[Object]Fight{}
	}
	maps.DeleteFunc(is, func(_ Object, f Fight) bool { return now.Sub(f.Last) > peaceAfter })
	rest = ops[:0:0]
	for _, op := range ops {
		if _, was := converged[op.Object]; !was || op.Verb != Add && op.Verb != Replace {
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

// undone is what a lane should know of the fights over its objects.
func undone(all map[Object]Fight, lane string, want State, external bool) []Condition {
	var out []Condition
	for o, f := range all {
		of, wanted := want[o]
		limit := quietHeals
		if external {
			limit = managerHeals
		}
		if !wanted || of != lane && of != "" || f.Healed < limit {
			continue
		}
		out = append(out, Condition{
			Type: AboutFight, Reason: "Undone", Effect: Degraded,
			Message: fmt.Sprintf("another program keeps undoing %q (healed %d times)", undoing(o), f.Healed),
		})
	}
	return out
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
