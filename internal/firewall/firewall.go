// Package firewall reads and writes Uplane's own firewall chains, with iptables or with nftables alone.
//
// Everything here acts in the network namespace of the calling thread: netlink sockets are opened in it and
// forked commands inherit it. The daemon runs in the host's, so it need not care; whoever switches namespaces
// locks the goroutine to its thread and uses one Firewall per namespace. A Firewall is not safe for concurrent use.
package firewall

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"

	"uplane/policy"
)

// Firewall is the part of the host's packet filter that belongs to Uplane.
type Firewall struct {
	backend
	generation uint32 // the kernel's, when have was read; 0: never
	have       []observed
	following
}

// backend is one way to the kernel. The two differ in where the chains live and in what they fork.
type backend interface {
	// Name says which backend it is, for logs: "iptables (nf_tables)", "iptables (legacy)" or "nftables".
	Name() string
	// Events tells whether changes show up in Watch. Legacy iptables sends none: it has to be polled.
	Events() bool
	// Created lists what iptables-nft made on our behalf and nobody else had: tables ("filter") and base chains
	// ("filter FORWARD"). Kept across restarts and handed to Open, it lets the last deletion leave no trace.
	Created() []string
	// Missing lists what a write would make of these now. The caller keeps it together with Created before it writes,
	// so that even a crash in between leaves no trace in the end.
	Missing() ([]string, error)

	read() ([]observed, error)
	write([]change) error
	sweep() error // after deletions: removes what is left empty of what we made
}

// observed is a chain as found, and the rules of other chains that lead to it.
type observed struct {
	policy.Chain
	jumps []string // as iptables-save prints them without "-A ": "FORWARD -j UPLANE-FORWARD"
}

// change is one chain to write: from nil is a new one, to nil is one to delete.
type change struct {
	from *observed
	to   *policy.Chain
}

// Open chooses a backend: "iptables", "nftables", or "auto" (also "") for iptables where it is installed.
// created is what Created returned before a restart.
func Open(mode string, created []string) (*Firewall, error) {
	switch mode {
	case "", "auto":
		f, err := openIPTables("iptables", created)
		if errors.Is(err, exec.ErrNotFound) {
			return openNFTables()
		}
		return f, err
	case "iptables":
		f, err := openIPTables("iptables", created)
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf(`%w: install the package iptables or set firewall = "nftables"`, err)
		}
		return f, err
	case "nftables":
		return openNFTables()
	}
	return nil, fmt.Errorf("firewall %q: must be auto, iptables or nftables", mode)
}

// Observe returns every chain of ours in filter, mangle and nat, sorted by table and name. While nothing changes it
// costs one netlink round trip (0.1 ms; legacy iptables: a fork, 1.3 ms), and nothing while Follow runs. It never
// creates a table.
func (f *Firewall) Observe() ([]policy.Chain, error) {
	have, err := f.followed(f.observe)
	if err != nil {
		return nil, err
	}
	chains := make([]policy.Chain, len(have))
	for i, o := range have {
		chains[i] = o.Chain
	}
	return chains, nil
}

// observe reads the chains unless the generation says that they are as last time. The generation is taken first: a
// change during the reading makes the next call read again.
func (f *Firewall) observe() ([]observed, error) {
	if !f.Events() { // legacy tables have no generation
		return f.read()
	}
	now, err := generation()
	if err != nil {
		return nil, err
	}
	if now == f.generation {
		return f.have, nil
	}
	have, err := f.read()
	if err != nil {
		return nil, err
	}
	f.generation, f.have = now, have
	return have, nil
}

// Apply creates or replaces the chains in want, with the jump to each as the only one and the first of its hook, and
// deletes those in gone; what is so already is not touched. Without any in want it also takes away what Created names
// and nobody uses. A table changes in one step or not at all. Rules and chains of others keep place and counters; only
// rules that jump to our chains go with them.
func (f *Firewall) Apply(want, gone []policy.Chain) error {
	have, err := f.observe()
	if err != nil {
		return err
	}
	defer f.moved.Store(true) // the event comes later
	if changes := changes(have, want, gone); len(changes) > 0 {
		if err := f.write(changes); err != nil {
			return err
		}
	}
	if len(gone) > 0 || len(want) == 0 {
		return f.sweep()
	}
	return nil
}

// changes compares chains by table and name. They come out by table, filter first: what drops is there before what
// lets through.
func changes(have []observed, want, gone []policy.Chain) []change {
	find := func(c policy.Chain) *observed {
		i := slices.IndexFunc(have, func(o observed) bool { return o.Table == c.Table && o.Name == c.Name })
		if i < 0 {
			return nil
		}
		return &have[i]
	}
	var out []change
	for _, c := range want {
		c.Jumped = true
		if from := find(c); from == nil || from.Chain != c {
			out = append(out, change{from, &c})
		}
	}
	for _, c := range gone {
		if from := find(c); from != nil {
			out = append(out, change{from, nil})
		}
	}
	slices.SortStableFunc(out, func(a, b change) int { return slices.Index(tables, a.table()) - slices.Index(tables, b.table()) })
	return out
}

// tables are those that can hold chains of ours, in the order in which they are written.
var tables = []string{"filter", "mangle", "nat"}

func (c change) table() string {
	if c.to != nil {
		return c.to.Table
	}
	return c.from.Table
}
