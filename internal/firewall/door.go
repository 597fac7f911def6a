package firewall

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// A FORWARD chain of iptables drops when its policy is DROP, or when one of its rules drops or rejects whatever comes, or
// hands it to a chain that is there for that. A door stands before the first such rule, else at the end: behind all
// that may veto, DOCKER-USER and ufw's user chains included.
const (
	forwardTable = "filter"
	forwardChain = "FORWARD"
)

// rejecters are chains that do nothing but end a packet.
var rejecters = []string{"ufw-reject-forward"}

// Doors returns the iptables commands whose FORWARD chain drops what it does not know, and the doors that there are. What
// could be read is returned also with an error.
func (f *Firewall) Doors() (drops map[string]bool, have policy.State, err error) {
	drops, have = map[string]bool{}, policy.State{}
	note := func(tool string, d doorway) {
		if d.drops() {
			drops[tool] = true
		}
		if len(d.doors) > 0 {
			have[policy.Door{Tool: tool, Sound: d.sound()}] = ""
		}
	}
	if f.nfTables {
		d, failed := f.doors.look(&f.follower, readForward)
		note(policy.IPTables, d.doorway)
		err = failed
	}
	legacy, failed := readLegacyForward()
	note(policy.IPTablesLegacy, legacy)
	return drops, have, errors.Join(err, failed)
}

// doorway is what matters of a FORWARD chain.
type doorway struct {
	policyDrops bool
	rules       int   // how many there are, ours included
	doors       []int // places of ours, from 0
	stop        int   // place of the first rule that drops, else behind the last
}

func (d doorway) drops() bool { return d.policyDrops || d.stop < d.rules }

// sound: there is one door, and the first that drops, or nothing, follows it.
func (d doorway) sound() bool { return len(d.doors) == 1 && d.doors[0] == d.stop-1 }

// add notes the chain's next rule.
func (d *doorway) add(ours, stops bool) {
	stopped := d.stop < d.rules
	if ours {
		d.doors = append(d.doors, d.rules)
	}
	if !stopped && !stops {
		d.stop++
	}
	d.rules++
}

// applyDoors opens and shuts doors, one transaction each.
func (f *Firewall) applyDoors(ops []policy.Op) error {
	var errs []error
	for _, op := range ops {
		tool, open := op.Object.(policy.Door).Tool, op.Verb != policy.Remove
		var err error
		if tool == policy.IPTables {
			err = f.setDoor(open)
		} else {
			err = setLegacyDoor(open)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", op, err))
		}
	}
	return errors.Join(errs...)
}

// nftForward is the chain that iptables has in nf_tables. It is read and written without iptables, which reads no table in
// which another program has put a rule of nft's, and cannot delete by handle.
type nftForward struct {
	doorway
	handles []uint64 // of all rules
}

// readForward finds nothing where there is no such chain.
func readForward() (nftForward, error) {
	var n nftForward
	conn, err := dial()
	if err != nil {
		return n, err
	}
	defer conn.Close()
	chains, err := ask(conn, unix.NFT_MSG_GETCHAIN, 0, unix.NFPROTO_IPV4, inForward())
	if err != nil {
		return n, fmt.Errorf("read FORWARD of iptables: %w", err)
	}
	if len(chains) == 0 || chains[0][unix.NFTA_CHAIN_HOOK] == nil {
		return n, nil
	}
	rules, err := readRules(conn, unix.NFPROTO_IPV4, payload{}.text(unix.NFTA_RULE_TABLE, forwardTable).text(unix.NFTA_RULE_CHAIN, forwardChain))
	if err != nil {
		return n, fmt.Errorf("read FORWARD of iptables: %w", err)
	}
	n.policyDrops = chains[0].number(unix.NFTA_CHAIN_POLICY) == verdictDrop
	for _, r := range rules {
		n.add(r.isDoor(), r.stops())
		n.handles = append(n.handles, r.handle)
	}
	return n, nil
}

func inForward() payload {
	return payload{}.text(unix.NFTA_CHAIN_TABLE, forwardTable).text(unix.NFTA_CHAIN_NAME, forwardChain)
}

// doorExpressions is [policy.DoorRule] as iptables 1.8.9 and 1.8.11 write it, but for the comment.
func doorExpressions() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		masked(policy.Witness, 0),
		equal(native(policy.Witness)),
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}

// isDoor: who wrote the comment does not matter, iptables or we.
func (r chainRule) isDoor() bool {
	plain, comment := r.plain()
	return comment == policy.DoorComment && plain.is(doorExpressions())
}

// plain is the rule without what changes nothing, counters and comments, and its comment. Iptables has it in a match, nft
// beside the rule; both read both.
func (r chainRule) plain() (chainRule, string) {
	comment, plain := r.comment(), r
	plain.expressions = nil
	for _, e := range r.expressions {
		a, err := parseAttributes(e.data)
		switch {
		case e.name == "counter" && err == nil:
		case e.name == "match" && err == nil && a.text(unix.NFTA_MATCH_NAME) == "comment":
			text, _, _ := bytes.Cut(a[unix.NFTA_MATCH_INFO], []byte{0})
			comment = string(text)
		default:
			plain.expressions = append(plain.expressions, e)
		}
	}
	return plain, comment
}

// stops tells whether no packet gets beyond the rule.
func (r chainRule) stops() bool {
	plain, _ := r.plain()
	if len(plain.expressions) != 1 {
		return false
	}
	e := plain.expressions[0]
	switch e.name {
	case "reject":
		return true
	case "target":
		a, err := parseAttributes(e.data)
		return err == nil && a.text(unix.NFTA_TARGET_NAME) == "REJECT"
	case "immediate":
		if e.is(&expr.Verdict{Kind: expr.VerdictDrop}) {
			return true
		}
		return slices.Contains(rejecters, e.leadsTo())
	}
	return false
}

// leadsTo is the chain that an expression jumps or goes to, if any.
func (e expression) leadsTo() string {
	var v expr.Verdict
	if e.name != "immediate" || expr.Unmarshal(unix.NFPROTO_IPV4, e.data, &v) != nil {
		return ""
	}
	return v.Chain
}

// setDoor makes our rule the only one and puts it into its place, or takes it away.
func (f *Firewall) setDoor(open bool) error {
	f.doors.generation = 0
	own, after, err := f.commit(func() error {
		return atGeneration(func() (batch, error) {
			n, err := readForward()
			if err != nil {
				return nil, err
			}
			return n.change(open)
		})
	})
	if own {
		f.ours.generation = after // ours are elsewhere
	}
	return err
}

func (n nftForward) change(open bool) (batch, error) {
	var b batch
	inChain := payload{}.text(unix.NFTA_RULE_TABLE, forwardTable).text(unix.NFTA_RULE_CHAIN, forwardChain)
	for _, place := range n.doors {
		handle := binary.BigEndian.AppendUint64(nil, n.handles[place])
		b.add(unix.NFT_MSG_DELRULE, 0, unix.NFPROTO_IPV4, slices.Clone(inChain).bytes(unix.NFTA_RULE_HANDLE, handle))
	}
	if !open {
		return b, nil
	}
	list, err := expressionList(unix.NFPROTO_IPV4, slices.Insert(doorExpressions(), 3, expr.Any(&expr.Counter{})))
	if err != nil {
		return nil, err
	}
	p := slices.Clone(inChain).
		nest(unix.NFTA_RULE_EXPRESSIONS, list).
		bytes(unix.NFTA_RULE_USERDATA, appendUserData(nil, commentTag, append([]byte(policy.DoorComment), 0)))
	flags := netlink.HeaderFlags(netlink.Create | netlink.Append)
	if n.stop < len(n.handles) {
		p = p.bytes(unix.NFTA_RULE_POSITION, binary.BigEndian.AppendUint64(nil, n.handles[n.stop]))
		flags = netlink.Create
	}
	b.add(unix.NFT_MSG_NEWRULE, flags, unix.NFPROTO_IPV4, p)
	return b, nil
}

// legacyTables are the tables of legacy iptables that this namespace has. Reading one that it has not would make it.
func legacyTables() []string {
	// Of the thread: /proc/net is the process's.
	names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	if err != nil { // no such module
		return nil
	}
	return strings.Fields(string(names))
}

// legacyCommand is the iptables whose tables are legacy's, if it is installed.
func legacyCommand() (string, bool) {
	if _, err := exec.LookPath(policy.IPTablesLegacy); err == nil {
		return policy.IPTablesLegacy, true
	}
	version, err := run(context.Background(), "iptables", "", "-V")
	return "iptables", err == nil && strings.Contains(version, "(legacy)")
}

func readLegacyForward() (doorway, error) {
	if !slices.Contains(legacyTables(), forwardTable) {
		return doorway{}, nil
	}
	command, ok := legacyCommand()
	if !ok {
		return doorway{}, errors.New("read FORWARD of legacy iptables: no command iptables-legacy")
	}
	text, err := run(context.Background(), command+"-save", "", "-t", forwardTable)
	if err != nil {
		return doorway{}, err
	}
	return parseForward(text), nil
}

// parseForward reads the chain in what iptables-save prints of the table.
func parseForward(text string) doorway {
	var d doorway
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, ":"+forwardChain+" DROP ") {
			d.policyDrops = true
		}
		if rule, ok := strings.CutPrefix(line, "-A "+forwardChain+" "); ok {
			d.add(rule == doorText(), stopsText(rule))
		}
	}
	return d
}

// doorText is the rule as iptables-save prints it.
func doorText() string {
	words := policy.DoorRule()
	for i, w := range words {
		if strings.Contains(w, " ") {
			words[i] = `"` + w + `"`
		}
	}
	return strings.Join(words, " ")
}

// stopsText tells whether no packet gets beyond the rule. Conditions stand before the target; a comment is none.
func stopsText(rule string) bool {
	if rest, ok := strings.CutPrefix(rule, "-m comment --comment "); ok {
		if end := strings.LastIndex(rest, " -j "); end >= 0 {
			if comment := rest[:end]; !strings.Contains(comment, " ") || strings.Count(comment, `"`) == 2 && strings.HasSuffix(comment, `"`) {
				rule = rest[end+1:]
			}
		}
	}
	target, options, _ := strings.Cut(strings.TrimPrefix(rule, "-j "), " ")
	return strings.HasPrefix(rule, "-j ") && (rule == "-j DROP" || target == "REJECT" && strings.HasPrefix(options, "--reject-with ") ||
		slices.Contains(rejecters, target) && options == "")
}

func setLegacyDoor(open bool) error {
	d, err := readLegacyForward()
	if err != nil {
		return err
	}
	command, ok := legacyCommand()
	if !ok {
		return errors.New("no command iptables-legacy")
	}
	_, err = run(context.Background(), command+"-restore", d.restore(open), "--noflush", waitForLock)
	return err
}

// restore is what iptables-restore reads: one transaction.
func (d doorway) restore(open bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", forwardTable)
	place := d.stop + 1 // they count from 1
	for _, door := range d.doors {
		fmt.Fprintf(&b, "-D %s %s\n", forwardChain, doorText())
		if door < d.stop {
			place--
		}
	}
	if open {
		fmt.Fprintf(&b, "-I %s %d %s\n", forwardChain, place, doorText())
	}
	b.WriteString("COMMIT\n")
	return b.String()
}
