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
// bridge to NetworkManager.
const (
	Add Verb = iota
	Replace
	Remove
	Flush
	Release
)

func (v Verb) String() string {
	return [...]string{"add", "replace", "remove", "flush", "release"}[v]
}

// Op is one step of a plan.
type Op struct {
	Verb   Verb
	Object Object
	Have   Object // what Replace starts from
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

// Conntrack stands for the untranslated connections of a subnet: those that it
// began and whose answers are expected at the lane's own address. It is no state of a lane:
// only Flush operations hold it.
type Conntrack struct{ Subnet netip.Prefix }

func (c Conntrack) key() key { return key{prefix: c.Subnet} }
func (c Conntrack) add() []string {
	return []string{fmt.Sprintf("conntrack -D -s %s -q %s 2>/dev/null || :", c.Subnet, c.Subnet)}
}
func (c Conntrack) remove() []string { return nil }
