package firewall

import (
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// The scaffold is what iptables-nft puts up on first use: tables ("filter"), and the base chains that rules are added to
// ("filter FORWARD"). It would outlive our chains, and show up in "nft list ruleset" of a host that had none.

// builtin are the base chains that iptables makes in a table, at once or when the first rule comes.
var builtin = map[string][]string{
	"filter": {"INPUT", "FORWARD", "OUTPUT"},
	"mangle": {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
	"nat":    {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"},
}

// Missing lists what iptables would put up for these operations. The caller keeps it before it calls Apply, and hands it
// to Sweep once there is no chain of ours any more, so that even a crash leaves no trace in the end.
func (f *Firewall) Missing(ops []policy.Op) ([]string, error) {
	if x, ok := f.driver.(xtables); !ok || !x.nft { // legacy tables are modules, and stay
		return nil, nil
	}
	used := map[string]bool{}
	for _, op := range ops {
		switch o := op.Object.(type) {
		case policy.Chain:
			used[o.Table] = used[o.Table] || op.Verb != policy.Remove
		case policy.ChainRule:
			used[o.Table] = used[o.Table] || op.Verb != policy.Remove
		}
	}
	there, err := listScaffold()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, table := range tables {
		if !used[table] {
			continue
		}
		for _, name := range append([]string{""}, builtin[table]...) {
			if o := (scaffold{table: table, chain: name}); !slices.ContainsFunc(there, o.same) {
				out = append(out, o.String())
			}
		}
	}
	return out, nil
}

// Sweep deletes what of created is empty, unless it got rules, chains or a policy from someone else, and returns what
// is left of it.
func (f *Firewall) Sweep(created []string) (left []string, err error) {
	if len(created) == 0 || !f.nfTables {
		return nil, nil
	}
	f.ours.generation, f.doors.generation = 0, 0
	// Looking and deleting is one step: a rule that comes between would be deleted with its chain.
	err = atGeneration(func() (batch, error) {
		all, err := listScaffold()
		return sweep(all, created), err
	})
	if err != nil {
		return created, fmt.Errorf("delete empty tables of iptables: %w", err)
	}
	there, err := listScaffold()
	if err != nil {
		return created, err
	}
	return slices.DeleteFunc(slices.Clone(created), func(name string) bool {
		return !slices.ContainsFunc(there, func(s scaffold) bool { return s.String() == name })
	}), nil
}

func sweep(all []scaffold, created []string) batch {
	var b batch
	deleted := map[string]uint32{} // chains, by table
	ours := func(s scaffold) bool { return slices.Contains(created, s.String()) }
	for _, s := range all {
		if s.chain != "" && ours(s) && s.use == 0 && s.accepts {
			b.add(unix.NFT_MSG_DELCHAIN, 0, unix.NFPROTO_IPV4,
				payload{}.text(unix.NFTA_CHAIN_TABLE, s.table).text(unix.NFTA_CHAIN_NAME, s.chain))
			deleted[s.table]++
		}
	}
	for _, s := range all {
		if s.chain == "" && ours(s) && s.use == deleted[s.table] {
			b.add(unix.NFT_MSG_DELTABLE, 0, unix.NFPROTO_IPV4, payload{}.text(unix.NFTA_TABLE_NAME, s.table))
		}
	}
	return b
}

// scaffold is a table, or a base chain in one.
type scaffold struct {
	table, chain string
	use          uint32 // how much is in it or refers to it
	accepts      bool   // by its policy
}

func (s scaffold) same(o scaffold) bool { return s.table == o.table && s.chain == o.chain }

func (s scaffold) String() string {
	if s.chain == "" {
		return s.table
	}
	return s.table + " " + s.chain
}

// listScaffold returns the iptables tables and their base chains that exist.
func listScaffold() ([]scaffold, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	all, err := ask(conn, unix.NFT_MSG_GETTABLE, netlink.Dump, unix.NFPROTO_IPV4, nil)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	chains, err := ask(conn, unix.NFT_MSG_GETCHAIN, netlink.Dump, unix.NFPROTO_IPV4, nil)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	var out []scaffold
	for _, a := range all {
		if name := a.text(unix.NFTA_TABLE_NAME); slices.Contains(tables, name) {
			out = append(out, scaffold{table: name, use: a.number(unix.NFTA_TABLE_USE)})
		}
	}
	for _, a := range chains {
		if table := a.text(unix.NFTA_CHAIN_TABLE); a[unix.NFTA_CHAIN_HOOK] != nil && slices.Contains(tables, table) {
			out = append(out, scaffold{table, a.text(unix.NFTA_CHAIN_NAME), a.number(unix.NFTA_CHAIN_USE),
				a.number(unix.NFTA_CHAIN_POLICY) == verdictAccept})
		}
	}
	return out, nil
}
