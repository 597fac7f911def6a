package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// Verb is what an operation does.
type Verb int

// The verbs. Flush forgets connections that were made while address translation
// was missing: the kernel would send them untranslated for ever. Release leaves a
// bridge to NetworkManager. Destroy ends a lane's sockets, whose way has ended:
// their programs get an error now rather than after minutes.
const (
	Add Verb = iota
	Replace
	Remove
	Flush
	Release
	Destroy
)

func (v Verb) String() string {
	return [...]string{"add", "replace", "remove", "flush", "release", "destroy"}[v]
}

// Op is one step of a plan.
type Op struct {
	Verb   Verb
	Object Object
	Have   Object // what Replace starts from
	Lane   string // the lane that Object is part of; empty: several
}

// Shell returns the lines a person would type for it.
func (o Op) Shell() []string {
	switch o.Verb {
	case Replace:
		return o.Object.(replacer).replace(o.Have)
	case Remove:
		return o.Object.remove()
	case Release:
		b, _ := o.Object.(Bridge)
		return []string{fmt.Sprintf("ip link set dev %s alias %s%s group default", b.Name, MadePrefix, b.Lane)}
	}
	return o.Object.add()
}

// String is the operation on one line, for logs and errors.
func (o Op) String() string { return strings.Join(o.Shell(), "; ") }

// Conntrack stands for connections of a subnet that the kernel tracks: those that it began
// and whose answers are expected at the lane's own address, that is, untranslated ones; with
// All set, every one. It is no state of a lane: only Flush operations hold it.
type Conntrack struct {
	Subnet netip.Prefix
	All    bool
}

func (c Conntrack) key() key { return key{prefix: c.Subnet} }
func (c Conntrack) add() []string {
	if c.All {
		return []string{fmt.Sprintf("conntrack -D -s %s 2>/dev/null || :", c.Subnet)}
	}
	return []string{fmt.Sprintf("conntrack -D -s %s -q %s 2>/dev/null || :", c.Subnet, c.Subnet)}
}
func (c Conntrack) remove() []string { return nil }

// Sockets stands for a lane's sockets that are connected to somewhere outside. Only
// Destroy operations hold it.
type Sockets struct{ Netns string }

func (s Sockets) key() key { return key{netns: s.Netns} }
func (s Sockets) add() []string {
	return []string{fmt.Sprintf("ip netns exec %s ss -Kntu state connected >/dev/null", s.Netns)}
}
func (s Sockets) remove() []string { return nil }
