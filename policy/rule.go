package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// Rule is a policy-routing rule of ours, with protocol 117.
type Rule struct {
	Priority uint32
	Family   Family
	From, To netip.Prefix // zero: any
	// Mark is matched in the bits of Mask; a zero Mask matches any packet.
	Mark, Mask uint32
	Action     RuleAction
	Table      uint32 // of Lookup
	Goto       uint32 // of Goto: the priority to go on at
	// AtLeast: of Lookup, a route found there counts only if its prefix has as many
	// bits (suppress_prefixlength of one less); 0: any counts.
	AtLeast uint8
}

// RuleAction is what a rule does with the packets it matches.
type RuleAction string

// The actions. A look-up that finds nothing goes on with the next rule.
const (
	Lookup          RuleAction = ""
	Goto            RuleAction = "goto"
	UnreachableRule RuleAction = "unreachable"
)

func (r Rule) key() key {
	k := key{kind: kindRule, name: string(r.Action), prefix: r.From, to: r.To, number: [5]uint32{r.Priority, r.Mark, r.Mask, r.Table, r.Goto}}
	k.family = r.Family
	if r.AtLeast > 0 {
		k.name += fmt.Sprintf(" %d", r.AtLeast)
	}
	return k
}

// rank: the host's answers go by a lane's table, so they come when its routes are there.
func (r Rule) rank() kind {
	if r.Priority == answersPriority || r.Priority == answersPriority+1 || r.Action == Goto && r.Goto == answersPriority {
		return kindAnswer
	}
	return kindRule
}

func (r Rule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "priority %d", r.Priority)
	if r.From.IsValid() {
		fmt.Fprintf(&b, " from %s", r.From)
	}
	if r.To.IsValid() {
		fmt.Fprintf(&b, " to %s", r.To)
	}
	if r.Mask != 0 {
		fmt.Fprintf(&b, " fwmark %#x/%#x", r.Mark, r.Mask)
	}
	switch r.Action {
	case Goto:
		fmt.Fprintf(&b, " goto %d", r.Goto)
	case UnreachableRule:
		b.WriteString(" unreachable")
	default:
		fmt.Fprintf(&b, " lookup %d", r.Table)
		if r.AtLeast > 0 {
			fmt.Fprintf(&b, " suppress_prefixlength %d", r.AtLeast-1)
		}
	}
	fmt.Fprintf(&b, " protocol %d", Protocol)
	return b.String()
}

func (r Rule) add() []string    { return []string{r.Family.ip("") + " rule add " + r.String()} }
func (r Rule) remove() []string { return []string{r.Family.ip("") + " rule del " + r.String()} }
