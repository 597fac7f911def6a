package firewall

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// scaffold is what iptables-nft puts up on first use: tables, and the base chains that rules are added to. They would
// outlive our chains, and show up in "nft list ruleset" of a host that had none.
type scaffold struct {
	created []string // by us: "filter", "filter FORWARD"
}

// Created lists the tables and base chains that were not there before our first write to them.
func (s *scaffold) Created() []string { return slices.Clone(s.created) }

// builtin are the base chains that iptables makes in a table, at once or when the first rule comes.
var builtin = map[string][]string{
	"filter": {"INPUT", "FORWARD", "OUTPUT"},
	"mangle": {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
	"nat":    {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"},
}

// missing lists the tables and base chains that iptables would make.
func (s *scaffold) missing() ([]string, error) {
	there, err := listScaffold()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, table := range tables {
		if !slices.Contains(there, table) {
			out = append(out, table)
		}
		for _, chain := range builtin[table] {
			if name := (object{table, chain}).String(); !slices.Contains(there, name) {
				out = append(out, name)
			}
		}
	}
	return out, nil
}

// record runs write and notes what it put up, also when it failed: an earlier table may have been committed.
func (s *scaffold) record(write func() error) error {
	before, err := listScaffold()
	if err != nil {
		return err
	}
	failed := write()
	after, err := listScaffold()
	if err != nil {
		return errors.Join(failed, err)
	}
	var created []string
	for _, name := range after {
		if !slices.Contains(before, name) || slices.Contains(s.created, name) {
			created = append(created, name)
		}
	}
	s.created = created
	return failed
}

// sweep deletes what we put up and is empty again, unless it got rules, chains or a policy from someone else. Looking
// and deleting is one step: the kernel refuses a transaction when the rules have changed since the generation that we
// looked at.
func (s *scaffold) sweep() error {
	for range 10 { // two rounds, chains and tables, unless someone else keeps writing
		if len(s.created) == 0 {
			return nil
		}
		now, err := generation()
		if err != nil {
			return err
		}
		unused, err := s.unused()
		if err != nil {
			return err
		}
		if len(unused) == 0 {
			return s.forgetGone()
		}
		if err := deleteAt(now, unused); err != nil && !errors.Is(err, unix.ERESTART) {
			return fmt.Errorf("delete the empty %v: %w", unused, err)
		}
	}
	return fmt.Errorf("delete empty tables: the rules keep changing")
}

func (s *scaffold) forgetGone() error {
	there, err := listScaffold()
	if err == nil {
		s.created = slices.DeleteFunc(s.created, func(name string) bool { return !slices.Contains(there, name) })
	}
	return err
}

// object is a table, or a chain in one.
type object struct{ table, chain string }

func (o object) String() string {
	if o.chain == "" {
		return o.table
	}
	return o.table + " " + o.chain
}

// unused are the created chains that nobody needs; when there are none any more, the created tables that are empty.
func (s *scaffold) unused() ([]object, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	var out []object
	for _, c := range chains {
		o := object{c.Table.Name, c.Name}
		if !slices.Contains(s.created, o.String()) || c.Policy == nil || *c.Policy != nftables.ChainPolicyAccept {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return nil, fmt.Errorf("list rules of %s: %w", o, err)
		}
		if len(rules) == 0 {
			out = append(out, o)
		}
	}
	if out != nil {
		return out, nil
	}
	all, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	for _, t := range all {
		// Use counts chains, sets and whatever else is in the table. Only 0 can be told: google/nftables 0.3.0 reads
		// the number, as Flags, in the wrong byte order.
		if o := (object{table: t.Name}); t.Use == 0 && slices.Contains(s.created, o.String()) {
			out = append(out, o)
		}
	}
	return out, nil
}

// listScaffold names the iptables tables and their base chains that exist, in the form of Created.
func listScaffold() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	all, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	var names []string
	for _, t := range all {
		if slices.Contains(tables, t.Name) {
			names = append(names, t.Name)
		}
	}
	if names == nil {
		return nil, nil
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		if c.Hooknum != nil && slices.Contains(tables, c.Table.Name) {
			names = append(names, object{c.Table.Name, c.Name}.String())
		}
	}
	return names, nil
}
