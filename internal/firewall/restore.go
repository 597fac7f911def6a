package firewall

import (
	"fmt"
	"strings"

	"uplane/policy"
)

// restoreInput is what iptables-restore --noflush reads. There is one transaction a table: a COMMIT is one in
// iptables-nft as well.
func restoreInput(changes []change) string {
	var b strings.Builder
	for _, table := range tables {
		var inTable []change
		for _, c := range changes {
			if c.table() == table {
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
		switch {
		case c.to == nil:
			fmt.Fprintf(b, "-F %s\n", c.from.Name)
		case c.from == nil || c.from.Rules != c.to.Rules:
			fmt.Fprintf(b, ":%s - [0:0]\n", c.to.Name) // makes it, or empties it
			for _, rule := range c.to.Lines() {
				fmt.Fprintf(b, "-A %s %s\n", c.to.Name, rule)
			}
		}
	}
	for _, c := range changes {
		if c.to != nil && (c.from == nil || !c.from.Jumped) {
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
	var out []string
	for _, j := range jumps {
		if !strings.HasPrefix(j, policy.ChainPrefix) {
			out = append(out, j)
		}
	}
	return out
}
