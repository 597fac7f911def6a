package firewall

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"uplane/policy"
)

// tables are those that can hold chains of ours, in the order in which they are written: what drops is there before what
// lets through.
var tables = []string{"filter", "mangle", "nat"}

// change is one chain to write: from nil is a new one, to nil is one to delete.
type change struct {
	from, to *xtChain
}

// wantedChains are the chains of a state, with their rules in order.
func wantedChains(want policy.State) []xtChain {
	rules := map[policy.Chain][]policy.ChainRule{} // by table and name
	for o := range want {
		if r, ok := o.(policy.ChainRule); ok {
			at := policy.Chain{Table: r.Table, Name: r.Chain}
			rules[at] = append(rules[at], r)
		}
	}
	var out []xtChain
	for o := range want {
		c, ok := o.(policy.Chain)
		if !ok {
			continue
		}
		in := rules[policy.Chain{Table: c.Table, Name: c.Name}]
		slices.SortFunc(in, func(a, b policy.ChainRule) int { return cmp.Compare(a.N, b.N) })
		chain := xtChain{Chain: c}
		for _, r := range in {
			chain.rules = append(chain.rules, r.XTRule)
		}
		out = append(out, chain)
	}
	return out
}

// changes are the chains that the operations are about, sorted by table and name: as they are, and as they shall be. A
// chain that shall not be any more is deleted when an operation says so, and only emptied before.
func changes(ops []policy.Op, have, want []xtChain) ([]change, error) {
	gone := map[policy.Chain]bool{} // by table and name
	for _, op := range ops {
		switch o := op.Object.(type) {
		case policy.Chain:
			gone[policy.Chain{Table: o.Table, Name: o.Name}] = op.Verb == policy.Remove
		case policy.ChainRule:
			at := policy.Chain{Table: o.Table, Name: o.Chain}
			if _, known := gone[at]; !known {
				gone[at] = false
			}
		default:
			return nil, fmt.Errorf("iptables does not keep %s", op)
		}
	}
	var out []change
	for at, gone := range gone {
		if !slices.Contains(tables, at.Table) || !strings.HasPrefix(at.Name, policy.ChainPrefix) {
			return nil, fmt.Errorf("chain %s in table %s is not ours", at.Name, at.Table)
		}
		c := change{from: chainAt(have, at), to: chainAt(want, at)}
		switch {
		case c.to == nil && c.from == nil:
			continue
		case c.to == nil && !gone:
			c.to = &xtChain{Chain: c.from.Chain}
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b change) int {
		x, y := a.chain(), b.chain()
		return cmp.Or(cmp.Compare(slices.Index(tables, x.Table), slices.Index(tables, y.Table)), cmp.Compare(x.Name, y.Name))
	})
	return out, nil
}

func chainAt(chains []xtChain, at policy.Chain) *xtChain {
	i := slices.IndexFunc(chains, func(c xtChain) bool { return c.Table == at.Table && c.Name == at.Name })
	if i < 0 {
		return nil
	}
	return &chains[i]
}

func (c change) chain() policy.Chain {
	if c.to != nil {
		return c.to.Chain
	}
	return c.from.Chain
}

// restoreInput is what iptables-restore --noflush reads. There is one transaction a table: a COMMIT is one in
// iptables-nft as well.
func restoreInput(changes []change) string {
	var b strings.Builder
	for _, table := range tables {
		var inTable []change
		for _, c := range changes {
			if c.chain().Table == table {
				inTable = append(inTable, c)
			}
		}
		if inTable != nil {
			fmt.Fprintf(&b, "*%s\n", table)
			restoreTable(&b, inTable)
			b.WriteString("COMMIT\n")
		}
	}
	return b.String()
}

// restoreTable goes in four rounds. Every chain is empty before the first is deleted: iptables-nft 1.8.9 answers EBUSY
// to the deletion of a chain that a rule of a later-deleted one jumped to.
func restoreTable(b *strings.Builder, changes []change) {
	for _, c := range changes {
		// In full, as listed: if such a rule is gone by then, the table stays as it was and the caller looks again.
		for _, jump := range c.staleJumps() {
			fmt.Fprintf(b, "-D %s\n", jump)
		}
	}
	for _, c := range changes {
		if c.to == nil {
			fmt.Fprintf(b, "-F %s\n", c.from.Name)
			continue
		}
		fmt.Fprintf(b, ":%s - [0:0]\n", c.to.Name) // makes it, or empties it
		for _, rule := range c.to.rules {
			fmt.Fprintf(b, "-A %s %s\n", c.to.Name, rule)
		}
	}
	for _, c := range changes {
		if c.to != nil && c.to.Jumped && (c.from == nil || !c.from.Jumped) {
			fmt.Fprintf(b, "-I %s 1 -j %s\n", c.to.Hook, c.to.Name)
		}
	}
	for _, c := range changes {
		if c.to == nil {
			fmt.Fprintf(b, "-X %s\n", c.from.Name)
		}
	}
}

// staleJumps are the rules of other people's chains that lead to this one and have to go: all of them with the chain,
// those of its hook if they are not one and the first. Own chains are emptied anyway.
func (c change) staleJumps() []string {
	if c.from == nil || c.to != nil && c.from.Jumped {
		return nil
	}
	jumps := c.from.jumps
	if c.to != nil {
		jumps = c.from.hookJumps()
	}
	return slices.DeleteFunc(slices.Clone(jumps), func(j string) bool { return strings.HasPrefix(j, policy.ChainPrefix) })
}
