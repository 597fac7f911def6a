package firewall

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"

	"uplane/policy"
)

// nftablesBackend keeps the same chains in a table of our own, without a fork and without any installed program. Its chains
// hang in the kernel's hooks themselves: no jump can be lost. But an accept in one base chain does not override a drop
// in another, so hosts whose iptables FORWARD drops (Docker, ufw) need the iptables backend.
type nftablesBackend struct{}

// tableName is the table of family ip that is ours as a whole.
const tableName = "uplane"

// maxComment is the longest comment that nft takes, in bytes; the longest rule of package policy has 117.
const maxComment = 127

// place is where the kernel calls a chain: just before the iptables chain of that table and hook.
type place struct {
	table    string
	kind     nftables.ChainType
	hook     nftables.ChainHook
	priority nftables.ChainPriority
}

var places = map[string]place{
	policy.ForwardChain:     {"filter", nftables.ChainTypeFilter, *nftables.ChainHookForward, *nftables.ChainPriorityFilter - 1},
	policy.PostroutingChain: {"nat", nftables.ChainTypeNAT, *nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource - 1},
	policy.PreroutingChain:  {"mangle", nftables.ChainTypeFilter, *nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle - 1},
}

func openNFTables() (*Firewall, error) {
	if _, err := generation(); err != nil {
		return nil, fmt.Errorf("%w: install the package iptables or a kernel with nf_tables", err)
	}
	return &Firewall{backend: nftablesBackend{}}, nil
}

func (nftablesBackend) Name() string      { return "nftables" }
func (nftablesBackend) Events() bool      { return true }
func (nftablesBackend) Created() []string { return nil } // the table is ours by its name

func (nftablesBackend) Missing() ([]string, error) { return nil, nil }

func (n nftablesBackend) read() ([]observed, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	table, err := n.table(conn)
	if err != nil || table == nil {
		return nil, err
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	var all []observed
	for _, c := range chains {
		if c.Table.Name != tableName || !strings.HasPrefix(c.Name, policy.ChainPrefix) {
			continue
		}
		rules, err := conn.GetRules(table, c)
		if err != nil {
			return nil, fmt.Errorf("list rules of %s: %w", c.Name, err)
		}
		lines := make([]string, len(rules))
		for i, r := range rules {
			lines[i] = canonical(r)
		}
		at := places[c.Name]
		all = append(all, observed{Chain: policy.Chain{
			Table:  at.table,
			Name:   c.Name,
			Hook:   hookOf(c.Name),
			Jumped: table.Flags == 0 && at.holds(c), // the only flag of an old kernel is "dormant"
			Rules:  strings.Join(lines, "\n"),
		}})
	}
	slices.SortFunc(all, byPlace)
	return all, nil
}

// canonical is the rule's text, from its comment. A rule that does something else than its comment says, or has none,
// gives a text that equals no rule's.
func canonical(r *nftables.Rule) string {
	text, _ := userdata.GetString(r.UserData, userdata.TypeComment)
	parsed, err := parseRule(text)
	if err != nil || !sameExpressions(r.Exprs, parsed.expressions()) {
		return fmt.Sprintf("# not ours: handle %d %q", r.Handle, text)
	}
	return text
}

func (p place) holds(c *nftables.Chain) bool {
	return c.Hooknum != nil && *c.Hooknum == p.hook &&
		c.Priority != nil && *c.Priority == p.priority &&
		c.Type == p.kind && c.Policy != nil && *c.Policy == nftables.ChainPolicyAccept
}

func (n nftablesBackend) write(changes []change) error {
	conn, err := nftables.New(nftables.WithSockOptions(wideBuffers))
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyIPv4}
	if old, err := n.table(conn); err != nil {
		return err
	} else if old != nil && old.Flags != 0 {
		// A dormant table wakes by being added again; the kernel lets no chain in by the same transaction.
		conn.AddTable(table)
		if err := flush(conn); err != nil {
			return fmt.Errorf("wake nftables table ip %s: %w", tableName, err)
		}
	}
	conn.AddTable(table)
	for _, c := range changes {
		if c.from != nil {
			old := &nftables.Chain{Table: table, Name: c.from.Name}
			conn.FlushChain(old)
			if c.to == nil || !c.from.Jumped {
				conn.DelChain(old)
			}
		}
		if c.to == nil {
			continue
		}
		if err := addChain(conn, table, c.to); err != nil {
			return err
		}
	}
	if err := flush(conn); err != nil {
		return fmt.Errorf("write nftables table ip %s: %w", tableName, err)
	}
	return nil
}

// addChain queues the chain and its rules.
func addChain(conn *nftables.Conn, table *nftables.Table, c *policy.Chain) error {
	at, ok := places[c.Name]
	if !ok || at.table != c.Table {
		return fmt.Errorf("chain %s in table %s has no place in nftables", c.Name, c.Table)
	}
	accept := nftables.ChainPolicyAccept
	chain := conn.AddChain(&nftables.Chain{
		Table: table, Name: c.Name,
		Type: at.kind, Hooknum: &at.hook, Priority: &at.priority, Policy: &accept,
	})
	for _, line := range c.Lines() {
		r, err := parseRule(line)
		if err != nil {
			return fmt.Errorf("chain %s: %w", c.Name, err)
		}
		if len(line) > maxComment {
			return fmt.Errorf("chain %s: rule %q is longer than %d bytes", c.Name, line, maxComment)
		}
		conn.AddRule(&nftables.Rule{
			Table: table, Chain: chain, Exprs: r.expressions(),
			UserData: userdata.AppendString(nil, userdata.TypeComment, line),
		})
	}
	return nil
}

func (n nftablesBackend) sweep() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table, err := n.table(conn)
	if err != nil || table == nil || table.Use > 0 {
		return err
	}
	conn.DelTable(table)
	if err := flush(conn); err != nil {
		return fmt.Errorf("delete nftables table ip %s: %w", tableName, err)
	}
	return nil
}

// table is ours, nil if there is none.
func (nftablesBackend) table(conn *nftables.Conn) (*nftables.Table, error) {
	all, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	i := slices.IndexFunc(all, func(t *nftables.Table) bool { return t.Name == tableName })
	if i < 0 {
		return nil, nil
	}
	return all[i], nil
}

// flush sends what is queued. Of the errors, one for every message that suffers from the first, it keeps the first.
func flush(conn *nftables.Conn) error {
	err := conn.Flush()
	if err == nil {
		return nil
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return errors.New(first)
}

// wideBuffers lets one transaction and its acknowledgements, one a rule, through: at the default 208 KiB a batch fails
// with ENOBUFS from 200 rules on and with EMSGSIZE from 500.
func wideBuffers(conn *netlink.Conn) error {
	const size = 64 << 20 // bytes; a limit, not an allocation
	if err := conn.SetWriteBuffer(size); err != nil {
		return err
	}
	return conn.SetReadBuffer(size)
}
