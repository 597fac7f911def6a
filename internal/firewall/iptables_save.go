package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"uplane/policy"
)

// xtChain is a chain of ours with its rules, and the rules of other chains that lead to it, as iptables-save prints them
// without "-A ": "FORWARD -j UPLANE-FORWARD".
type xtChain struct {
	policy.Chain
	rules []policy.XTRule
	jumps []string
}

// parseSave picks our chains, and the rules that lead to them, out of what iptables-save prints.
func parseSave(text string) ([]xtChain, error) {
	var all, chains []xtChain // chains: of the current table
	table := ""
	rules := map[string][]string{} // chain -> its rules, in the current table
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "# Table `"):
			// iptables-save leaves such a table out, and iptables-restore would add to it blindly: jump after jump.
			if name, ok := incompatible(line); ok && slices.Contains(tables, name) {
				return nil, fmt.Errorf("table %s holds nftables rules", name)
			}
		case strings.HasPrefix(line, "*"):
			table, chains = line[1:], nil
			clear(rules)
		case !slices.Contains(tables, table):
		case strings.HasPrefix(line, ":"+policy.ChainPrefix):
			name, _, _ := strings.Cut(line[1:], " ")
			hook := strings.TrimPrefix(name, policy.ChainPrefix) // UPLANE-FORWARD is for FORWARD
			chains = append(chains, xtChain{Chain: policy.Chain{Table: table, Name: name, Hook: hook}})
		case strings.HasPrefix(line, "-A "):
			chain, rule, _ := strings.Cut(line[3:], " ")
			rules[chain] = append(rules[chain], rule)
			name := target(rule)
			if i := slices.IndexFunc(chains, func(c xtChain) bool { return c.Name == name }); i >= 0 {
				chains[i].jumps = append(chains[i].jumps, line[3:])
			}
		case line == "COMMIT":
			for i := range chains {
				c := &chains[i]
				hook := rules[c.Hook]
				c.Jumped = len(hook) > 0 && hook[0] == "-j "+c.Name && len(c.hookJumps()) == 1
				for _, r := range rules[c.Name] {
					c.rules = append(c.rules, parseRule(r))
				}
			}
			all = append(all, chains...)
			chains = nil
		}
	}
	return all, nil
}

// hookJumps are the rules of the chain's hook that lead to it.
func (c *xtChain) hookJumps() []string {
	var out []string
	for _, j := range c.jumps {
		if strings.HasPrefix(j, c.Hook+" ") {
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

// parseRule reads a rule as iptables-save prints it. What is of no shape that package policy writes is Other.
func parseRule(text string) policy.XTRule {
	var r policy.XTRule
	words := strings.Split(text, " ")
	for len(words) >= 2 {
		option, value := words[0], words[1]
		words = words[2:]
		switch option {
		case "-s":
			r.Source, _ = netip.ParsePrefix(value)
		case "-d":
			r.Dest, _ = netip.ParsePrefix(value)
		case "-i":
			r.In = value
		case "-o":
			r.Out = value
		case "-p":
			r.ICMP = value == "icmp"
		case "--ctstate":
			r.Invalid = value == "INVALID,UNTRACKED"
			r.Established = !r.Invalid
		case "--ctdir":
			r.Reply = true
		case "-j":
			r.Target = value
		case "--set-xmark":
			mark, mask, _ := strings.Cut(value, "/")
			r.Mark, r.Mask = hex(mark), hex(mask)
		}
	}
	known := slices.Contains([]string{policy.TargetAccept, policy.TargetDrop, policy.TargetMasquerade, policy.TargetMark}, r.Target)
	if !known || r.String() != text { // some word was not understood
		return policy.XTRule{Other: text}
	}
	return r
}

func hex(s string) uint32 {
	n, _ := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 32)
	return uint32(n)
}
