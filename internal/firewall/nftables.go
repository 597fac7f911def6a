package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// nftables keeps table inet uplane, without a fork and without any installed program. Its chains hang in the kernel's
// hooks themselves, so nobody can lose a jump to them.
type nftables struct{}

func openNFTables() (*Firewall, error) {
	if _, err := generation(); err != nil {
		return nil, err
	}
	return &Firewall{driver: nftables{}, nfTables: true}, nil
}

func (nftables) Name() string { return "nftables" }
func (nftables) Events() bool { return true }

// read returns the table, if there is one, and what is in its sets.
func (nftables) read() (policy.State, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	state, err := readTable(conn)
	if err != nil {
		return nil, fmt.Errorf("read nftables table inet %s: %w", policy.TableName, err)
	}
	return state, nil
}

func readTable(conn *netlink.Conn) (policy.State, error) {
	inTable := payload{}.text(unix.NFTA_TABLE_NAME, policy.TableName) // the first attribute of sets, rules and elements, too
	tables, err := ask(conn, unix.NFT_MSG_GETTABLE, 0, unix.NFPROTO_INET, inTable)
	if err != nil || len(tables) == 0 {
		return nil, err
	}
	chains, err := ask(conn, unix.NFT_MSG_GETCHAIN, netlink.Dump, unix.NFPROTO_INET, nil)
	if err != nil {
		return nil, fmt.Errorf("chains: %w", err)
	}
	rules, err := readRules(conn, unix.NFPROTO_INET, inTable)
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	sets, err := ask(conn, unix.NFT_MSG_GETSET, netlink.Dump, unix.NFPROTO_INET, inTable)
	if err != nil {
		return nil, fmt.Errorf("sets: %w", err)
	}
	sound := isTable(tables[0]) && haveChains(chains) && haveRules(rules)
	state := policy.State{}
	for _, name := range policy.SetOrder {
		i := slices.IndexFunc(sets, func(a attributes) bool { return a.text(unix.NFTA_SET_NAME) == string(name) })
		if i < 0 || !isSet(sets[i], name) {
			sound = false
			continue
		}
		elements, pure, err := readElements(conn, name)
		if err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
		sound = sound && pure
		for _, e := range elements {
			state[e] = ""
		}
	}
	state[policy.Table{Sound: sound}] = ""
	return state, nil
}

// isTable: it is awake, nobody owns it, and it holds as many chains and sets as we make, and nothing else.
func isTable(a attributes) bool {
	return a.number(unix.NFTA_TABLE_FLAGS) == 0 &&
		a.number(unix.NFTA_TABLE_USE) == uint32(len(policy.Chains)+len(policy.Sets))
}

func haveChains(all []attributes) bool {
	for _, c := range policy.Chains {
		want, err := parseAttributes(chainPayload(c))
		if err != nil {
			return false
		}
		if !slices.ContainsFunc(all, func(have attributes) bool {
			return same(want, have, unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_TYPE, unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY)
		}) {
			return false
		}
	}
	return true
}

func haveRules(all []chainRule) bool {
	for _, c := range policy.Chains {
		have := slices.DeleteFunc(slices.Clone(all), func(r chainRule) bool { return r.chain != c.Name })
		if !slices.EqualFunc(have, c.Rules, func(r chainRule, want policy.FilterRule) bool { return r.is(expressions(want)) }) {
			return false
		}
	}
	return true
}

// same compares attributes of the given types; what neither has is the same.
func same(a, b attributes, kinds ...uint16) bool {
	return !slices.ContainsFunc(kinds, func(k uint16) bool { return !bytes.Equal(a[k], b[k]) })
}

// write does all operations in one transaction: first what has to go, so that a key is free before it is taken again.
func (nftables) write(ops []policy.Op, _ policy.State) error {
	var b batch
	anew, gone := false, false
	for _, op := range ops {
		if _, ok := op.Object.(policy.Table); ok {
			if op.Verb != policy.Add {
				b.add(unix.NFT_MSG_DELTABLE, 0, unix.NFPROTO_INET, payload{}.text(unix.NFTA_TABLE_NAME, policy.TableName))
			}
			anew, gone = op.Verb != policy.Remove, op.Verb == policy.Remove
		}
	}
	if anew {
		if err := addTable(&b); err != nil {
			return err
		}
	}
	remove, add := map[policy.SetName][]policy.Element{}, map[policy.SetName][]policy.Element{}
	for _, op := range ops {
		switch o := op.Object.(type) {
		case policy.Table:
		case policy.Element:
			switch op.Verb {
			case policy.Remove:
				remove[o.Set] = append(remove[o.Set], o)
			case policy.Replace:
				remove[o.Set] = append(remove[o.Set], op.Have.(policy.Element))
				fallthrough
			default:
				add[o.Set] = append(add[o.Set], o)
			}
		default:
			return fmt.Errorf("nftables does not keep %s", op)
		}
	}
	for _, name := range policy.SetOrder {
		if gone {
			break // they go with the table
		}
		if !anew {
			if err := addElements(&b, unix.NFT_MSG_DELSETELEM, 0, name, remove[name]); err != nil {
				return err
			}
		}
		if err := addElements(&b, unix.NFT_MSG_NEWSETELEM, netlink.Create, name, add[name]); err != nil {
			return err
		}
	}
	if err := b.commit(0); err != nil {
		return fmt.Errorf("write nftables table inet %s: %w%s", policy.TableName, err, hint(err))
	}
	return nil
}

// hint says who is in the way.
func hint(err error) string {
	if errors.Is(err, unix.EPERM) {
		return " (another program owns a table of that name: nft list table inet " + policy.TableName + ")"
	}
	return ""
}

// addTable makes the table with its sets, chains and rules.
func addTable(b *batch) error {
	// Exclusive: into a table that somebody has made meanwhile our rules would go a second time.
	b.add(unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Excl, unix.NFPROTO_INET,
		payload{}.text(unix.NFTA_TABLE_NAME, policy.TableName).number(unix.NFTA_TABLE_FLAGS, 0))
	for i, name := range policy.SetOrder {
		p := setPayload(name).number(unix.NFTA_SET_ID, uint32(i+1))
		b.add(unix.NFT_MSG_NEWSET, netlink.Create, unix.NFPROTO_INET, p)
	}
	for _, c := range policy.Chains {
		b.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, unix.NFPROTO_INET, chainPayload(c))
	}
	for _, c := range policy.Chains {
		for _, r := range c.Rules {
			list, err := expressionList(unix.NFPROTO_INET, expressions(r))
			if err != nil {
				return fmt.Errorf("rule %q: %w", r, err)
			}
			b.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, unix.NFPROTO_INET, payload{}.
				text(unix.NFTA_RULE_TABLE, policy.TableName).
				text(unix.NFTA_RULE_CHAIN, c.Name).
				nest(unix.NFTA_RULE_EXPRESSIONS, list))
		}
	}
	return nil
}

var hooks = map[string]uint32{
	"prerouting":  unix.NF_INET_PRE_ROUTING,
	"input":       unix.NF_INET_LOCAL_IN,
	"forward":     unix.NF_INET_FORWARD,
	"output":      unix.NF_INET_LOCAL_OUT,
	"postrouting": unix.NF_INET_POST_ROUTING,
}

func chainPayload(c policy.TableChain) payload {
	p := payload{}.text(unix.NFTA_CHAIN_TABLE, policy.TableName).text(unix.NFTA_CHAIN_NAME, c.Name)
	if c.Hook == "" {
		return p
	}
	return p.
		text(unix.NFTA_CHAIN_TYPE, c.Type).
		number(unix.NFTA_CHAIN_POLICY, verdictAccept).
		nest(unix.NFTA_CHAIN_HOOK, payload{}.
			number(unix.NFTA_HOOK_HOOKNUM, hooks[c.Hook]).
			number(unix.NFTA_HOOK_PRIORITY, uint32(int32(c.Priority))))
}

// Verdicts of a packet, from linux/netfilter.h.
const (
	verdictDrop   = 0
	verdictAccept = 1
)

func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
