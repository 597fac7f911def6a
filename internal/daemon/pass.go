package daemon

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"uplane/policy"
)

// pass makes one comparison and carries out what it finds. It returns after
// what time to look again without a poke; 0: never.
func (l *Loop) pass() (again time.Duration) {
	start, operations := time.Now(), 0
	defer func() { l.Log.Debug("pass", "took", time.Since(start), "operations", operations) }()
	l.followGateway()
	d, err := l.decide()
	if err != nil {
		l.Log.Error("observe", "error", err)
		l.Kernel.Invalidate()
		again = l.backoff()
		l.publishBlind(err)
		return again
	}
	operations = len(d.Ops)
	ops := l.remember(&d)
	failed := l.apply(ops, d.Want.Filter)
	done := len(failed) == 0 && len(ops) == len(d.Ops)
	if done {
		d.Memory.Converged = d.Want
	} else {
		l.Kernel.Invalidate()
	}
	l.memory, l.decided = d.Memory, d
	l.exits = exitsOf(l.memory.Converged.Parts)
	l.askOnlyFor(&d)
	if done {
		l.cleanUp(&d)
	}

	again = d.Again
	if len(failed) > 0 || len(l.problems) > 0 || l.unsaved != nil || d.Clean && !l.swept {
		again = sooner(again, l.backoff())
	} else {
		l.failures = 0
	}
	if !l.swept && !d.Clean && done {
		again = time.Millisecond // it goes once a look has found all in place
	}
	if l.freshUplink(&d) {
		again = sooner(again, l.Grace) // NetworkManager may have said nothing, or something else
	}
	l.publish(&d, failed)
	l.wake(&d, failed)
	return again
}

// sooner is the earlier of two times to look again; 0 is never.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// askOnlyFor forgets to ask for switches that nobody needs any more.
func (l *Loop) askOnlyFor(d *policy.Decision) {
	maps.DeleteFunc(l.asked, func(key string, _ bool) bool {
		_, saved := d.Memory.Sysctls[key]
		return !saved && !d.Switches[key]
	})
}

// freshUplink tells whether an uplink's routes come from the kernel, ahead of NetworkManager.
func (l *Loop) freshUplink(d *policy.Decision) bool {
	return slices.ContainsFunc(d.Uplinks, func(u *policy.Uplink) bool { return l.Kernel.Fresh(u.Interface) || l.awaited(u.Interface) })
}

// backoff returns how long to wait after a failure: from 100 ms to half a minute.
func (l *Loop) backoff() time.Duration {
	l.failures++
	return min(100*time.Millisecond<<min(l.failures-1, 10), 30*time.Second)
}

// cleanUp removes, once lanes are as they shall be, what nobody needs any more.
func (l *Loop) cleanUp(d *policy.Decision) {
	before := len(l.undo.Tables) + len(l.undo.Directories)
	if l.firewall != nil && l.problems[policy.EdgeFirewall] == "" {
		if d.Clean && !l.swept {
			l.sweep()
		}
		if len(l.undo.Tables) > 0 && !d.Want.Filter.Chains() {
			left, err := l.firewall.Sweep(l.undo.Tables)
			if err != nil {
				l.Log.Warn("remove empty tables", "error", err)
			}
			l.undo.Tables = left
		}
	}
	l.removeDirs(d)
	if len(l.undo.Tables)+len(l.undo.Directories) != before {
		l.unsaved = l.Store.Save(l.memory, l.undo)
	}
}

// leftoverPatience is for commands that remove what another backend left.
const leftoverPatience = 10 * time.Second

// sweep removes what other backends left.
func (l *Loop) sweep() {
	ctx, cancel := context.WithTimeout(context.Background(), leftoverPatience)
	defer cancel()
	removed, err := l.firewall.RemoveLeftovers(ctx)
	if len(removed) > 0 {
		l.Log.Info("removed what another firewall backend left", "what", removed, "now", l.firewall.Name())
	}
	if err != nil {
		l.Log.Warn("remove what another firewall backend left", "error", err)
	}
	l.swept = err == nil
}

// apply carries out ops and returns what failed, by lane; "" is everybody's. After a
// failure a lane's further operations are left to the next pass.
func (l *Loop) apply(ops []policy.Op, want policy.State) map[string]string {
	failed := map[string]string{}
	for i := 0; i < len(ops); {
		n := 1
		op := ops[i]
		switch {
		case failed[op.Lane] != "" && op.Lane != "" && op.Verb != policy.Destroy:
		case isDoor(op):
			l.done(ops[i:i+1], l.firewall.Apply(ops[i:i+1], want), failed)
		case isFirewall(op):
			n = run(ops[i:], isFirewall)
			l.applyFirewall(ops[i:i+n], want, failed)
		case isLinkRemoval(op):
			n = run(ops[i:], isLinkRemoval)
			l.done(ops[i:i+n], l.removeLinks(ops[i:i+n]), failed)
		case op.Verb == policy.Flush:
			n = run(ops[i:], func(op policy.Op) bool { return op.Verb == policy.Flush })
			l.done(ops[i:i+n], l.flush(ops[i:i+n]), failed)
		default:
			l.done(ops[i:i+1], l.Kernel.Apply(op), failed)
		}
		i += n
	}
	return failed
}

// run is how many operations ops begins with that are of a kind.
func run(ops []policy.Op, kind func(policy.Op) bool) int {
	n := slices.IndexFunc(ops, func(op policy.Op) bool { return !kind(op) })
	if n < 0 {
		return len(ops)
	}
	return n
}

// done logs what came of operations, whose error is one. A clean-up that fails is nobody's trouble but that of the
// lane it is for.
func (l *Loop) done(ops []policy.Op, err error, failed map[string]string) {
	for _, op := range ops {
		if err == nil {
			l.Log.Debug("applied", "verb", op.Verb.String(), "op", op.String(), "lane", op.Lane)
			if f, ok := op.Have.(policy.File); ok && !strings.HasPrefix(f.Content, policy.FileTag) {
				l.Log.Warn("put right a file of the lane's that another program wrote", "path", f.Path, "lane", op.Lane)
			}
			continue
		}
		who := op.Lane
		if who == "" && (op.Verb == policy.Remove || op.Verb == policy.Flush) {
			who = leftover
		}
		failed[who] = err.Error()
	}
	if err != nil {
		l.Log.Error("apply", "op", ops[0].String(), "lane", ops[0].Lane, "more", len(ops)-1, "error", err)
	}
}

// leftover stands for what no lane wants any more: no lane's name has a blank.
const leftover = " leftover"

// isDoor: doors are in other people's chains, so each is a transaction of its own.
func isDoor(op policy.Op) bool {
	_, ok := op.Object.(policy.Door)
	return ok
}

func isFirewall(op policy.Op) bool { return policy.IsFilter(op.Object) }

// applyFirewall makes one transaction of all. When that is refused, each lane gets its own, so that one lane's trouble
// is not everybody's.
func (l *Loop) applyFirewall(ops []policy.Op, want policy.State, failed map[string]string) {
	err := l.firewall.Apply(ops, want)
	lanes := map[string][]policy.Op{}
	for _, op := range ops {
		lanes[op.Lane] = append(lanes[op.Lane], op)
	}
	if err == nil || len(lanes) == 1 {
		l.done(ops, err, failed)
		return
	}
	names := []string{""}
	for name := range lanes {
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if len(lanes[name]) > 0 {
			l.done(lanes[name], l.firewall.Apply(lanes[name], want), failed)
		}
	}
}

func isLinkRemoval(op policy.Op) bool {
	switch op.Object.(type) {
	case policy.Bridge, policy.Veth:
		return op.Verb == policy.Remove
	}
	return false
}

// flush forgets connections of several lanes in one go.
func (l *Loop) flush(ops []policy.Op) error {
	var flushes []policy.Conntrack
	for _, op := range ops {
		flushes = append(flushes, op.Object.(policy.Conntrack))
	}
	return l.Kernel.Flush(flushes)
}

// removeLinks removes links in one go: the kernel waits for all processors once for each deletion.
func (l *Loop) removeLinks(ops []policy.Op) error {
	var names []string
	for _, op := range ops {
		switch o := op.Object.(type) {
		case policy.Bridge:
			names = append(names, o.Name)
		case policy.Veth:
			names = append(names, o.Name)
		}
	}
	return l.Kernel.RemoveLinks(names)
}
