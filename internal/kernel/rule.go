package kernel

import (
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

// sizeofRuleHdr is the size of struct fib_rule_hdr of linux/fib_rules.h:
// family, destination's and source's length, type of service, table, two reserved, action, and 4 bytes of flags.
const sizeofRuleHdr = 12

// Of linux/fib_rules.h, which package unix has not.
const (
	ruleInvert = 2 // FIB_RULE_INVERT

	actTable       = 1
	actGoto        = 2
	actUnreachable = 7
)

// ruleActions are the names of the actions that we don't make.
var ruleActions = map[uint8]string{3: "nop", 6: "blackhole", 8: "prohibit"}

// ruleEvent says that a rule came or went.
type ruleEvent struct {
	policy.HostRule
	gone bool
}

func (e ruleEvent) family() families { return familiesOf(familyNumber(e.Family)) }

// readRules brings what is known of the rules up to date. A list of thousands of rules takes milliseconds, and
// the events have all that changed; what can't be is reason for a list: events may be older than the last one.
func (k *Kernel) readRules(p parts) error {
	stale := p.rules
	for _, e := range p.ruleEvents {
		if stale&e.family() == 0 && !k.followRule(e) {
			stale |= e.family()
		}
	}
	return stale.each(func(af uint8) error {
		rules, err := k.direct.rules(af)
		if err == nil {
			k.rules[af], k.allRules = rules, nil
			k.dirty.rules |= familiesOf(af)
		}
		return err
	})
}

// followRule changes what is known as an event says; false when that can't be.
func (k *Kernel) followRule(e ruleEvent) bool {
	af := familyNumber(e.Family)
	rules := k.rules[af]
	at := slices.Index(rules, e.HostRule)
	if e.gone != (at >= 0) {
		return false
	}
	if e.gone {
		rules = slices.Delete(rules, at, at+1)
		if slices.Contains(rules[at:], e.HostRule) {
			return false // which one of two went?
		}
	} else {
		// The kernel puts it behind all that have its priority.
		after, _ := slices.BinarySearchFunc(rules, e.Priority, func(r policy.HostRule, priority uint32) int {
			if r.Priority <= priority {
				return -1
			}
			return 1
		})
		rules = slices.Insert(rules, after, e.HostRule)
	}
	k.rules[af], k.allRules = rules, nil
	if e.Ours() {
		k.dirty.rule(e)
	}
	return true
}

// rules lists a family's rules in the order in which the kernel goes through them;
// none when the kernel has no such family.
func (d *direct) rules(af uint8) ([]policy.HostRule, error) {
	return dump("rules", func() ([]policy.HostRule, error) {
		var out []policy.HostRule
		header := [sizeofRuleHdr]byte{af}
		err := d.do(unix.RTM_GETRULE, unix.NLM_F_DUMP, header[:], func(body []byte) {
			if r, ok := parseRule(body); ok && familyNumber(r.Family) == af {
				out = append(out, r)
			}
		})
		if err == unix.EAFNOSUPPORT || err == unix.EOPNOTSUPP {
			return nil, nil
		}
		return out, err
	})
}

// parseRule reads a rule message; false for what is no rule of a family of ours.
func parseRule(b []byte) (policy.HostRule, bool) {
	var r policy.HostRule
	if len(b) < sizeofRuleHdr || familiesOf(b[0]) == 0 {
		return r, false
	}
	toBits, fromBits, service, action, flags := b[1], b[2], b[3], b[7], number(b[8:])
	r.Family, r.Table = familyOf(b[0]), uint32(b[4])
	r.Invert = flags&ruleInvert != 0
	r.Partial = service != 0
	table3 := false // the table is the device's own, a VRF's
	var to, from netip.Addr
	for kind, v := range attrs(b[sizeofRuleHdr:]) {
		switch kind {
		case unix.FRA_DST:
			to = address(v)
		case unix.FRA_SRC:
			from = address(v)
		case unix.FRA_IIFNAME:
			r.In = text(v)
		case unix.FRA_OIFNAME:
			r.Out = text(v)
		case unix.FRA_GOTO:
			r.Goto = number(v)
		case unix.FRA_PRIORITY:
			r.Priority = number(v)
		case unix.FRA_FWMARK:
			r.Mark = number(v)
		case unix.FRA_FWMASK:
			r.Mask = number(v)
		case unix.FRA_TABLE:
			r.Table = number(v)
		case unix.FRA_SUPPRESS_PREFIXLEN:
			if n := number(v); n < 128 {
				r.AtLeast = uint8(n + 1)
			}
		case unix.FRA_PROTOCOL:
			if len(v) > 0 {
				r.Protocol = int(v[0])
			}
		case unix.FRA_L3MDEV:
			table3 = len(v) > 0 && v[0] != 0
		case unix.FRA_UID_RANGE, unix.FRA_IP_PROTO, unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE, unix.FRA_TUN_ID, fraDSCP, fraFlowLabel:
			r.Partial = r.Partial || slices.ContainsFunc(v, func(b byte) bool { return b != 0 })
		}
	}
	switch action {
	case actTable:
		if table3 {
			r.Action, r.Table = "l3mdev", 0
		}
	case actGoto:
		r.Action, r.Table = policy.Goto, 0
	case actUnreachable:
		r.Action, r.Table = policy.UnreachableRule, 0
	default:
		r.Table = 0
		if r.Action = policy.RuleAction(ruleActions[action]); r.Action == "" {
			r.Action = policy.RuleAction("action " + strconv.Itoa(int(action)))
		}
	}
	if r.Action != policy.Lookup {
		r.AtLeast = 0
	}
	var ok bool
	if r.From, ok = rulePrefix(r.Family, from, fromBits); !ok {
		return r, false
	}
	r.To, ok = rulePrefix(r.Family, to, toBits)
	return r, ok
}

// Newer than package unix: FRA_DSCP (6.11) and FRA_FLOWLABEL (6.14).
const fraDSCP, fraFlowLabel = 25, 27

// rulePrefix is a prefix that a rule matches; the zero one when it has no length. False when it is none of the family.
func rulePrefix(f policy.Family, a netip.Addr, bits uint8) (netip.Prefix, bool) {
	if bits == 0 {
		return netip.Prefix{}, true
	}
	p := netip.PrefixFrom(a, int(bits))
	return p, p.IsValid() && policy.FamilyOf(a) == f
}

// ruleObjects returns the rules of a family that are ours.
func (k *Kernel) ruleObjects(af uint8, who owners) (out []object) {
	for _, r := range k.rules[af] {
		if r.Ours() {
			out = append(out, object{r.Rule, who.rule(r.Rule)})
		}
	}
	return out
}

// hostRules returns all rules of both families, for others to keep.
func (k *Kernel) hostRules() []policy.HostRule {
	if k.allRules == nil {
		k.allRules = slices.Concat(k.rules[unix.AF_INET], k.rules[unix.AF_INET6])
	}
	return k.allRules
}

func (k *Kernel) applyRule(op policy.Op, r policy.Rule) error {
	af := familyNumber(r.Family)
	body := ruleBody(af, r)
	if op.Verb == policy.Remove {
		// With the protocol in it, it is one of ours that goes.
		err := k.direct.do(unix.RTM_DELRULE, unix.NLM_F_ACK, body, nil)
		return ignoreIf(err == unix.ENOENT || err == unix.EAFNOSUPPORT, err)
	}
	err := k.direct.do(unix.RTM_NEWRULE, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, body, nil)
	if err != unix.EEXIST {
		return err
	}
	// The kernel compares neither goto's targets nor what the new rule does not name.
	rules, err := k.direct.rules(af)
	if err != nil || slices.ContainsFunc(rules, func(h policy.HostRule) bool { return h.Ours() && h.Rule == r }) {
		return err
	}
	return k.direct.do(unix.RTM_NEWRULE, unix.NLM_F_ACK|unix.NLM_F_CREATE, body, nil)
}

func ruleBody(af uint8, r policy.Rule) []byte {
	body := make([]byte, sizeofRuleHdr, 128)
	body[0] = af
	switch r.Action {
	case policy.Goto:
		body[7] = actGoto
	case policy.UnreachableRule:
		body[7] = actUnreachable
	default:
		body[7] = actTable
		body = appendNumber(body, unix.FRA_TABLE, r.Table)
	}
	if r.To.IsValid() {
		body[1] = uint8(r.To.Bits())
		body = appendAttr(body, unix.FRA_DST, r.To.Addr().AsSlice())
	}
	if r.From.IsValid() {
		body[2] = uint8(r.From.Bits())
		body = appendAttr(body, unix.FRA_SRC, r.From.Addr().AsSlice())
	}
	body = appendNumber(body, unix.FRA_PRIORITY, r.Priority) // 0 too: without one the kernel takes the first below the others
	body = appendAttr(body, unix.FRA_PROTOCOL, []byte{policy.Protocol})
	if r.Mask != 0 {
		body = appendNumber(body, unix.FRA_FWMARK, r.Mark)
		body = appendNumber(body, unix.FRA_FWMASK, r.Mask)
	}
	if r.Action == policy.Goto {
		body = appendNumber(body, unix.FRA_GOTO, r.Goto)
	}
	if r.AtLeast > 0 {
		body = appendNumber(body, unix.FRA_SUPPRESS_PREFIXLEN, uint32(r.AtLeast-1))
	}
	return body
}
