package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// Leftover is something of ours that another driver, or an earlier release, has made. It goes once its successor is in
// place.
type Leftover struct {
	Name   string // "nftables table ip uplane"
	remove func(context.Context) error
}

// Remove takes it away as a whole.
func (l Leftover) Remove(ctx context.Context) error {
	if err := l.remove(ctx); err != nil {
		return fmt.Errorf("remove %s: %w", l.Name, err)
	}
	return nil
}

// Leftovers looks for them in both variants of iptables, whichever the alternatives choose now. What could be read is
// returned also with an error.
func (f *Firewall) Leftovers(ctx context.Context) ([]Leftover, error) {
	var out []Leftover
	var errs []error
	if f.nfTables {
		found, err := f.nftLeftovers()
		out, errs = append(out, found...), append(errs, err)
	}
	if x, ok := f.driver.(xtables); !ok || x.nft {
		found, err := legacyLeftovers(ctx)
		out, errs = append(out, found...), append(errs, err)
	}
	return out, errors.Join(errs...)
}

func (f *Firewall) nftLeftovers() ([]Leftover, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var out []Leftover
	table := func(family uint8, label string) error {
		name := payload{}.text(unix.NFTA_TABLE_NAME, policy.TableName)
		found, err := ask(conn, unix.NFT_MSG_GETTABLE, 0, family, name)
		if err == nil && len(found) > 0 {
			out = append(out, Leftover{label + policy.TableName, func(context.Context) error {
				var b batch
				b.add(unix.NFT_MSG_DELTABLE, 0, family, name)
				return b.commit(0)
			}})
		}
		return err
	}
	errs := []error{table(unix.NFPROTO_IPV4, "nftables table ip ")} // of the first release
	if _, ok := f.driver.(nftables); !ok {
		errs = append(errs, table(unix.NFPROTO_INET, "nftables table inet "))
	}
	if x, ok := f.driver.(xtables); !ok || !x.nft {
		chains, err := ownChains(conn)
		if len(chains) > 0 {
			out = append(out, Leftover{"chains " + policy.ChainPrefix + "* of iptables (nf_tables)", func(context.Context) error {
				return atGeneration(deleteOwnChains)
			}})
		}
		errs = append(errs, err)
	}
	return out, errors.Join(errs...)
}

// ownChains are ours in iptables' tables that nf_tables keeps.
func ownChains(conn *netlink.Conn) ([]scaffold, error) {
	all, err := ask(conn, unix.NFT_MSG_GETCHAIN, netlink.Dump, unix.NFPROTO_IPV4, nil)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	var out []scaffold
	for _, a := range all {
		table, name := a.text(unix.NFTA_CHAIN_TABLE), a.text(unix.NFTA_CHAIN_NAME)
		if slices.Contains(tables, table) && strings.HasPrefix(name, policy.ChainPrefix) {
			out = append(out, scaffold{table: table, chain: name})
		}
	}
	return out, nil
}

// deleteOwnChains does without iptables, which may not be there any more, or not be able to read the table. Rules that
// lead to our chains go with them.
func deleteOwnChains() (batch, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	chains, err := ownChains(conn)
	if err != nil {
		return nil, err
	}
	rules, err := readRules(conn, unix.NFPROTO_IPV4, nil)
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	var b batch
	for _, r := range rules {
		leads := slices.ContainsFunc(r.expressions, func(e expression) bool {
			return slices.ContainsFunc(chains, scaffold{table: r.table, chain: e.leadsTo()}.same)
		})
		if leads || slices.ContainsFunc(chains, scaffold{table: r.table, chain: r.chain}.same) {
			b.add(unix.NFT_MSG_DELRULE, 0, unix.NFPROTO_IPV4, payload{}.
				text(unix.NFTA_RULE_TABLE, r.table).
				text(unix.NFTA_RULE_CHAIN, r.chain).
				bytes(unix.NFTA_RULE_HANDLE, binary.BigEndian.AppendUint64(nil, r.handle)))
		}
	}
	for _, c := range chains {
		b.add(unix.NFT_MSG_DELCHAIN, 0, unix.NFPROTO_IPV4,
			payload{}.text(unix.NFTA_CHAIN_TABLE, c.table).text(unix.NFTA_CHAIN_NAME, c.chain))
	}
	return b, nil
}

func legacyLeftovers(ctx context.Context) ([]Leftover, error) {
	if !slices.ContainsFunc(legacyTables(), func(t string) bool { return slices.Contains(tables, t) }) {
		return nil, nil
	}
	command, ok := legacyCommand()
	if !ok {
		return nil, nil // whoever deinstalls it leaves its rules to the next boot
	}
	find := func(ctx context.Context) ([]change, error) {
		text, err := run(ctx, command+"-save", "")
		if err != nil {
			return nil, err
		}
		chains, err := parseSave(text)
		if err != nil {
			return nil, err
		}
		var out []change
		for i := range chains {
			out = append(out, change{from: &chains[i]})
		}
		return out, nil
	}
	found, err := find(ctx)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return []Leftover{{"chains " + policy.ChainPrefix + "* of iptables (legacy)", func(ctx context.Context) error {
		found, err := find(ctx)
		if err != nil || len(found) == 0 {
			return err
		}
		_, err = run(ctx, command+"-restore", restoreInput(found), "--noflush", waitForLock)
		return err
	}}}, nil
}
