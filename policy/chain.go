package policy

import (
	"fmt"
	"strings"
)

// Chain is one of our own firewall chains with all its rules, and its place:
// jumped to first from one of the kernel's chains. It is replaced as a whole,
// so there is never a moment with half of its rules.
type Chain struct {
	Table  string // filter, nat or mangle
	Name   string // UPLANE-…
	Hook   string // the built-in chain that jumps to it: FORWARD, POSTROUTING, PREROUTING
	Jumped bool   // exactly one jump from Hook, and it is Hook's first rule
	Rules  string // one a line, as "iptables -S" prints them, without "-A NAME "
}

// Own chains. Names start with ChainPrefix: nothing else is ever touched.
const (
	ChainPrefix      = "UPLANE-"
	ForwardChain     = ChainPrefix + "FORWARD"
	PostroutingChain = ChainPrefix + "POSTROUTING"
	PreroutingChain  = ChainPrefix + "PREROUTING"
)

// Lines returns the chain's rules, one an element.
func (c Chain) Lines() []string {
	if c.Rules == "" {
		return nil
	}
	return strings.Split(c.Rules, "\n")
}

func (c Chain) key() key { return key{kind: kindChain, name: c.Table + " " + c.Name} }

func (c Chain) add() []string {
	ipt := "iptables -t " + c.Table
	lines := []string{fmt.Sprintf("%s -N %s", ipt, c.Name)}
	for _, r := range c.Lines() {
		lines = append(lines, fmt.Sprintf("%s -A %s %s", ipt, c.Name, r))
	}
	return append(lines, fmt.Sprintf("%s -I %s 1 -j %s", ipt, c.Hook, c.Name))
}

func (c Chain) remove() []string {
	ipt := "iptables -t " + c.Table
	unjump := fmt.Sprintf("%s -D %s -j %s", ipt, c.Hook, c.Name)
	if !c.Jumped {
		unjump = c.unjumpAll()
	}
	return []string{unjump, fmt.Sprintf("%s -F %s", ipt, c.Name), fmt.Sprintf("%s -X %s", ipt, c.Name)}
}

// unjumpAll takes away any number of jumps, none included.
func (c Chain) unjumpAll() string {
	return fmt.Sprintf("while iptables -t %s -D %s -j %s 2>/dev/null; do :; done", c.Table, c.Hook, c.Name)
}

// replace is how a person would bring the chain from have to c. The daemon does
// it in one iptables-restore transaction.
func (c Chain) replace(from Object) []string {
	have, _ := from.(Chain)
	ipt := "iptables -t " + c.Table
	var lines []string
	if c.Rules != have.Rules {
		lines = append(lines, fmt.Sprintf("%s -F %s", ipt, c.Name))
		for _, r := range c.Lines() {
			lines = append(lines, fmt.Sprintf("%s -A %s %s", ipt, c.Name, r))
		}
	}
	if !have.Jumped {
		lines = append(lines, c.unjumpAll(), fmt.Sprintf("%s -I %s 1 -j %s", ipt, c.Hook, c.Name))
	}
	return lines
}
