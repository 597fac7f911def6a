package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// Chain is one of our own chains in iptables' tables, still without rules, and its
// place: jumped to first from one of the kernel's chains. Chains are only used
// with firewall = "iptables"; otherwise there is [Table].
type Chain struct {
	Table  string // filter, nat or mangle
	Name   string // UPLANE-…
	Hook   string // the built-in chain that jumps to it: FORWARD, POSTROUTING, …
	Jumped bool   // exactly one jump from Hook, and it is Hook's first rule
}

// ChainPrefix starts the names of own chains: nothing else is ever touched.
const ChainPrefix = "UPLANE-"

// chainOf is the chain of ours for a built-in one.
func chainOf(table, hook string) Chain {
	return Chain{Table: table, Name: ChainPrefix + hook, Hook: hook, Jumped: true}
}

func (c Chain) key() key { return key{kind: kindChain, name: c.Table + " " + c.Name} }

func (c Chain) ipt() string { return "iptables -t " + c.Table }

func (c Chain) add() []string {
	return []string{
		fmt.Sprintf("%s -N %s", c.ipt(), c.Name),
		fmt.Sprintf("%s -I %s 1 -j %s", c.ipt(), c.Hook, c.Name),
	}
}

func (c Chain) remove() []string {
	unjump := fmt.Sprintf("%s -D %s -j %s", c.ipt(), c.Hook, c.Name)
	if !c.Jumped {
		unjump = c.unjumpAll()
	}
	return []string{unjump, fmt.Sprintf("%s -F %s", c.ipt(), c.Name), fmt.Sprintf("%s -X %s", c.ipt(), c.Name)}
}

// unjumpAll takes away any number of jumps, none included.
func (c Chain) unjumpAll() string {
	return fmt.Sprintf("while %s -D %s -j %s 2>/dev/null; do :; done", c.ipt(), c.Hook, c.Name)
}

func (c Chain) replace(Object) []string {
	return []string{c.unjumpAll(), fmt.Sprintf("%s -I %s 1 -j %s", c.ipt(), c.Hook, c.Name)}
}

// ChainRule is one rule of a [Chain]. The daemon swaps a whole chain in one
// iptables-restore transaction, whichever of its rules change.
type ChainRule struct {
	Table, Chain string
	N            int // place in the chain, from 1
	XTRule
}

// XTRule is what a rule of iptables matches and does.
type XTRule struct {
	Source, Dest netip.Prefix // zero: any
	In, Out      string       // empty: any
	ICMP         bool
	Invalid      bool   // connection tracking can't make sense of it, or is kept from it
	Established  bool   // belongs to a connection that is known already
	Reply        bool   // goes in the reply direction of its connection
	Target       string // ACCEPT, DROP, MASQUERADE or MARK
	Mark, Mask   uint32 // of MARK: the mark becomes (old &^ mask) ^ mark
	// Other is the text of a rule that somebody else put into our chain.
	Other string
}

// Targets of XTRule.
const (
	TargetAccept     = "ACCEPT"
	TargetDrop       = "DROP"
	TargetMasquerade = "MASQUERADE"
	TargetMark       = "MARK"
)

func (r ChainRule) key() key {
	return key{kind: kindChainRule, name: r.Table + " " + r.Chain, number: [5]uint32{uint32(r.N)}}
}

func (r ChainRule) dependsOn() []key { return []key{Chain{Table: r.Table, Name: r.Chain}.key()} }

// String is the rule as "iptables -S" prints it, without "-A CHAIN ".
func (r XTRule) String() string {
	if r.Other != "" {
		return r.Other
	}
	var words []string
	option := func(name string, set bool, value any) {
		if set {
			words = append(words, name, fmt.Sprint(value))
		}
	}
	option("-s", r.Source.IsValid(), r.Source)
	option("-d", r.Dest.IsValid(), r.Dest)
	option("-i", r.In != "", r.In)
	option("-o", r.Out != "", r.Out)
	option("-p", r.ICMP, "icmp")
	option("-m", r.Invalid, "conntrack --ctstate INVALID,UNTRACKED")
	option("-m", r.Established, "conntrack --ctstate RELATED,ESTABLISHED")
	option("-m", r.Reply, "conntrack --ctdir REPLY")
	words = append(words, "-j", r.Target)
	option("--set-xmark", r.Target == TargetMark, fmt.Sprintf("%#x/%#x", r.Mark, r.Mask))
	return strings.Join(words, " ")
}

func (r ChainRule) add() []string {
	return []string{fmt.Sprintf("iptables -t %s -A %s %s", r.Table, r.Chain, r.XTRule)}
}

func (r ChainRule) replace(Object) []string {
	return []string{fmt.Sprintf("iptables -t %s -R %s %d %s", r.Table, r.Chain, r.N, r.XTRule)}
}

func (r ChainRule) remove() []string {
	return []string{fmt.Sprintf("iptables -t %s -D %s %d", r.Table, r.Chain, r.N)}
}
