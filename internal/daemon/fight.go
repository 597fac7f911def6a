package daemon

import (
	"time"

	"uplane/policy"
)

// fights notices when another program keeps undoing what we do. Healing at once
// is right the first times; doing so for ever would be a war that burns both
// programs' time, so it slows down and is told to the user.
type fights map[policy.Object]*fight

type fight struct {
	healed int
	last   time.Time
	next   time.Time // no healing before
}

const (
	freeHeals  = 5                // at once, without waiting
	moreHeals  = 30               // of what NetworkManager undoes whenever a user reactivates or reapplies a lane's profile
	maxHold    = 30 * time.Second // between two heals in a long war
	peaceAfter = 2 * maxHold      // without an undoing the war is over
)

// hold takes out of ops what has been undone too often to be done now. It
// returns the rest, when to look again (0: nothing held), and what is held with
// how often it was undone. converged is what a clean pass wanted last; patient
// tells what may be undone more often without being a fight.
func (f fights) hold(ops []policy.Op, converged policy.State, patient func(policy.Object) bool) (rest []policy.Op, wait time.Duration, held map[policy.Object]int) {
	now := time.Now()
	for o, x := range f {
		if now.Sub(x.last) > peaceAfter {
			delete(f, o)
		}
	}
	rest = ops[:0:0]
	for _, op := range ops {
		if op.Verb == policy.Remove || op.Verb == policy.Flush || !converged.Has(op.Object) {
			rest = append(rest, op)
			continue
		}
		x := f[op.Object]
		if x == nil {
			x = &fight{}
			f[op.Object] = x
		}
		if left := x.next.Sub(now); left > 0 {
			if wait == 0 || left < wait {
				wait = left
			}
			if held == nil {
				held = map[policy.Object]int{}
			}
			held[op.Object] = x.healed
			continue
		}
		x.healed++
		x.last = now
		free := freeHeals
		if x.healed >= free && patient(op.Object) {
			free = moreHeals
		}
		if x.healed >= free {
			x.next = now.Add(min(time.Second<<min(x.healed-free, 10), maxHold))
		}
		rest = append(rest, op)
	}
	return rest, wait, held
}
