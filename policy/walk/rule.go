package walk

import (
	"cmp"
	"net/netip"
	"slices"

	"uplane/policy"
)

// localTable has the host's own addresses.
const localTable = 255

// merge returns the rules in the order in which the kernel goes through them: others' and those of
// ours that are there already where they stand, ours that are not yet where adding them
// would put them, behind all of their priority.
func merge(state policy.State, present []policy.HostRule) []policy.HostRule {
	var rules []policy.HostRule
	placed := map[policy.Rule]bool{}
	families := map[policy.Family]bool{}
	for _, r := range present {
		if r.Ours() && !state.Has(r.Rule) {
			continue
		}
		rules = append(rules, r)
		families[r.Family] = true
		if r.Ours() {
			placed[r.Rule] = true
		}
	}
	for _, f := range []policy.Family{policy.IPv4, policy.IPv6} {
		if !families[f] { // nobody has looked: those that every kernel starts with
			for _, r := range []policy.Rule{{Table: localTable}, {Priority: 32766, Table: policy.MainTable}} {
				r.Family = f
				rules = append(rules, policy.HostRule{Rule: r})
			}
		}
	}
	slices.SortStableFunc(rules, func(a, b policy.HostRule) int { return cmp.Compare(a.Priority, b.Priority) })
	missing := policy.State{}
	for o := range state {
		if r, ok := o.(policy.Rule); ok && !placed[r] {
			missing[r] = ""
		}
	}
	for _, op := range policy.Diff(nil, missing) {
		r := op.Object.(policy.Rule)
		i, _ := slices.BinarySearchFunc(rules, r.Priority, func(x policy.HostRule, priority uint32) int {
			if x.Priority <= priority {
				return -1
			}
			return 1
		})
		rules = slices.Insert(rules, i, policy.HostRule{Rule: r, Protocol: policy.Protocol})
	}
	return rules
}

// flow is what routing looks at.
type flow struct {
	family   policy.Family
	from, to netip.Addr
	mark     uint32
	in       string // lo: the host itself
}

// matches tells whether a rule is about a flow. The interface that it leaves by is not known yet.
func matches(r *policy.HostRule, f flow) bool {
	all := (!r.From.IsValid() || r.From.Contains(f.from)) &&
		(!r.To.IsValid() || r.To.Contains(f.to)) &&
		(r.Mark^f.mark)&r.Mask == 0 &&
		(r.In == "" || r.In == f.in) && r.Out == ""
	return all != r.Invert
}

// wayTo goes through the rules. It returns the route that is taken, or nil and why there is none; local: it is
// for the host itself.
func (w *World) wayTo(f flow) (found *route, local bool, steps []Step) {
	step := func(r *policy.HostRule, result string) {
		if !w.Quiet {
			steps = append(steps, Step{Routing, ruleText(r), result})
		}
	}
	at := uint32(0) // where a goto leads
	for i := range w.rules {
		r := &w.rules[i]
		if r.Family != f.family || r.Priority < at || !matches(r, f) {
			continue
		}
		switch r.Action {
		case policy.Goto:
			if !slices.ContainsFunc(w.rules, func(x policy.HostRule) bool { return x.Family == f.family && x.Priority == r.Goto }) {
				step(r, "leads nowhere, so the next rule decides")
				continue
			}
			step(r, "goes on there")
			at = r.Goto
			continue
		case policy.UnreachableRule:
			step(r, "unreachable")
			return nil, false, steps
		}
		if r.Table == localTable {
			if w.local(f.to) {
				step(r, "the host's own")
				return nil, true, steps
			}
			continue
		}
		best := lookup(w.tables[r.Table], f.to)
		switch {
		case best == nil:
			continue
		case best.kind == policy.Throw:
			step(r, "throw: the next rule decides")
			continue
		case best.kind != policy.Unicast:
			step(r, best.text)
			return nil, false, steps
		case best.dst.Bits() < int(r.AtLeast):
			continue
		}
		step(r, best.text)
		return best, false, steps
	}
	return nil, false, append(steps, Step{Routing, "ip rule", "none leads to " + f.to.String()})
}

// ruleText is the rule as a person would type it.
func ruleText(r *policy.HostRule) string {
	text := "ip rule " + r.Rule.String()
	if r.Invert {
		text = "ip rule not " + r.Rule.String()
	}
	if r.In != "" {
		text += " iif " + r.In
	}
	return text
}
