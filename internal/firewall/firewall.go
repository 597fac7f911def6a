// Package firewall reads and writes what Uplane has in the host's packet filter: its own nftables table, or its own
// chains in iptables' tables, and its doors in the chains of others.
//
// Everything here acts in the network namespace of the calling thread: netlink sockets are opened in it and forked
// commands inherit it. The daemon runs in the host's, so it need not care; whoever switches namespaces locks the
// goroutine to its thread and uses one Firewall per namespace. But for Follow, a Firewall is not safe for concurrent use.
package firewall

import (
	"errors"
	"fmt"

	"uplane/policy"
)

// Firewall is the part of the host's packet filter that belongs to Uplane.
type Firewall struct {
	driver
	follower
	nfTables bool // the kernel has it
	ours     seen[policy.State]
	doors    seen[nftForward]
}

// driver is one way to keep lanes apart.
type driver interface {
	// Name says which driver it is, for logs: "nftables", "iptables (nf_tables)" or "iptables (legacy)".
	Name() string
	// Events tells whether changes show up in Follow. Legacy iptables sends none: it has to be polled.
	Events() bool

	read() (policy.State, error)
	write(ops []policy.Op, want policy.State) error
}

// Open chooses a driver: "nftables", "iptables", or "auto" (also "") for nftables wherever the kernel has it.
func Open(mode string) (*Firewall, error) {
	switch mode {
	case "", "auto":
		f, err := openNFTables()
		if !lacksNFTables(err) {
			return f, err // also what fails for a moment, and will not later
		}
		f, other := openIPTables("iptables")
		if other != nil {
			return nil, fmt.Errorf("no firewall: %w; %w: use a kernel with nf_tables, or install the package iptables", err, other)
		}
		return f, nil
	case "iptables":
		f, err := openIPTables("iptables")
		if err != nil {
			return nil, fmt.Errorf(`%w: install the package iptables or set firewall = "nftables"`, err)
		}
		return f, nil
	case "nftables":
		f, err := openNFTables()
		if err != nil {
			return nil, fmt.Errorf(`%w: use a kernel with nf_tables or set firewall = "iptables"`, err)
		}
		return f, nil
	}
	return nil, fmt.Errorf("firewall %q: must be auto, nftables or iptables", mode)
}

// Observe returns all that is ours: a [policy.Table] and its [policy.Element]s, or [policy.Chain]s and [policy.ChainRule]s.
// It never creates anything. While nothing changes it costs a look at the generation (0.06 ms; legacy iptables: a fork,
// 1.3 ms), and nothing while Follow runs. The caller must not change the State, and Apply does.
func (f *Firewall) Observe() (policy.State, error) {
	if !f.Events() { // legacy tables have no generation
		return f.read()
	}
	return f.ours.look(&f.follower, f.read)
}

// Apply does the operations on objects of ours, whose end is want. The nftables driver does them in one transaction, the
// iptables driver in one for each table. Doors are other people's chains, and a transaction of their own: none of them
// keeps the rest from being done.
func (f *Firewall) Apply(ops []policy.Op, want policy.State) error {
	var ours, open, shut []policy.Op
	for _, op := range ops {
		switch _, door := op.Object.(policy.Door); {
		case !door:
			ours = append(ours, op)
		case op.Verb == policy.Remove:
			shut = append(shut, op)
		default:
			open = append(open, op)
		}
	}
	return errors.Join(f.applyDoors(shut), f.applyOurs(ours, want), f.applyDoors(open))
}

func (f *Firewall) applyOurs(ops []policy.Op, want policy.State) error {
	if len(ops) == 0 {
		return nil
	}
	if _, ok := f.driver.(nftables); !ok {
		f.ours.generation = 0
		return f.write(ops, want)
	}
	own, after, err := f.commit(func() error { return f.write(ops, want) })
	if err != nil || !own {
		f.ours.generation = 0
		return err
	}
	f.ours.value = applied(f.ours.value, ops)
	f.ours.generation = after
	return nil
}

// commit runs what commits one transaction. own tells that nobody else committed one since we read what is ours, so that
// what we have read plus what we have written is what there is. Reading it back would take 20 ms with a thousand lanes.
func (f *Firewall) commit(write func() error) (own bool, after uint32, err error) {
	before, err := generation()
	if err != nil {
		return false, 0, err
	}
	if err := write(); err != nil {
		return false, 0, err
	}
	after, err = generation()
	own = err == nil && before == f.ours.generation && after == before+1
	if f.doors.generation == before && after == before+1 {
		f.doors.generation = after // ours are not in there
	}
	return own, after, nil
}

// applied is what there is after the operations.
func applied(have policy.State, ops []policy.Op) policy.State {
	if have == nil {
		have = policy.State{}
	}
	for _, op := range ops {
		if _, ok := op.Object.(policy.Table); ok { // takes all elements with it
			clear(have)
		}
	}
	for _, op := range ops {
		switch op.Verb {
		case policy.Remove:
			delete(have, op.Object)
		case policy.Replace:
			delete(have, op.Have)
		}
	}
	for _, op := range ops { // last, as the kernel does it
		if op.Verb != policy.Remove {
			have[op.Object] = ""
		}
	}
	return have
}
