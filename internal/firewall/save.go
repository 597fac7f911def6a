package firewall

import (
	"fmt"
	"slices"
	"strings"

	"uplane/policy"
)

// parseSave picks our chains, and the rules that lead to them, out of what iptables-save prints.
func parseSave(text string) ([]observed, error) {
	var all, chains []observed // chains: of the current table
	table := ""
	rules := map[string][]string{} // chain -> its rules, in the current table
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "# Table `"):
			// iptables-save leaves such a table out, and iptables-restore would add to it blindly: jump after jump.
			if name, ok := incompatible(line); ok && slices.Contains(tables, name) {
				return nil, fmt.Errorf(`table %s holds nftables rules that iptables cannot read: set firewall = "nftables" or move them to a table of their own`, name)
			}
		case strings.HasPrefix(line, "*"):
			table, chains = line[1:], nil
			clear(rules)
		case !slices.Contains(tables, table):
		case strings.HasPrefix(line, ":"+policy.ChainPrefix):
			name, _, _ := strings.Cut(line[1:], " ")
			chains = append(chains, observed{Chain: policy.Chain{Table: table, Name: name, Hook: hookOf(name)}})
		case strings.HasPrefix(line, "-A "):
			chain, rule, _ := strings.Cut(line[3:], " ")
			rules[chain] = append(rules[chain], rule)
			if o := named(chains, target(rule)); o != nil {
				o.jumps = append(o.jumps, line[3:])
			}
		case line == "COMMIT":
			for i := range chains {
				o := &chains[i]
				hook := rules[o.Hook]
				o.Jumped = len(hook) > 0 && hook[0] == "-j "+o.Name && len(o.hookJumps()) == 1
				o.Rules = strings.Join(rules[o.Name], "\n")
			}
			all = append(all, chains...)
		}
	}
	slices.SortFunc(all, byPlace)
	return all, nil
}

// hookOf is the built-in chain that a chain of ours belongs to: UPLANE-FORWARD is for FORWARD.
func hookOf(chain string) string { return strings.TrimPrefix(chain, policy.ChainPrefix) }

// hookJumps are the rules of the chain's hook that lead to it.
func (o *observed) hookJumps() []string {
	var out []string
	for _, j := range o.jumps {
		if strings.HasPrefix(j, o.Hook+" ") {
			out = append(out, j)
		}
	}
	return out
}

// target is the chain of ours that a rule jumps or goes to, if any; it is the last word, quoted ones included: a
// comment that looks like a jump ends in a quote.
func target(rule string) string {
	at := strings.LastIndexByte(rule, ' ')
	before, name := " "+rule[:max(at, 0)], rule[at+1:]
	if strings.HasPrefix(name, policy.ChainPrefix) && (strings.HasSuffix(before, " -j") || strings.HasSuffix(before, " -g")) {
		return name
	}
	return ""
}

// incompatible reads "# Table `filter' is incompatible, use 'nft' tool.". The same line with "contains incompatible
// base-chains" is harmless: the others are listed.
func incompatible(line string) (table string, ok bool) {
	table, rest, _ := strings.Cut(strings.TrimPrefix(line, "# Table `"), "' ")
	return table, strings.HasPrefix(rest, "is incompatible")
}

func named(chains []observed, name string) *observed {
	for i := range chains {
		if chains[i].Name == name {
			return &chains[i]
		}
	}
	return nil
}

func byPlace(a, b observed) int {
	return strings.Compare(a.Table+" "+a.Name, b.Table+" "+b.Name)
}
