package firewall

import (
	"bytes"
	"reflect"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// expressions is a rule for the kernel, as nft itself compiles it.
func expressions(r policy.FilterRule) []expr.Any {
	var out []expr.Any
	add := func(e ...expr.Any) { out = append(out, e...) }
	known := false // that it is IPv4
	for _, m := range r.Matches {
		if !known && hasAddress(m.Fields) {
			add(ofFamily(policy.IPv4)...)
			known = true
		}
		switch {
		case m.Set != "":
			add(load(m.Fields)...)
			add(&expr.Lookup{SourceRegister: 1, SetName: string(m.Set), Invert: m.Not})
		case m.Family != 0:
			add(ofFamily(m.Family)...)
			known = true
		case m.Reply:
			add(&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, equal([]byte{1})) // IP_CT_DIR_REPLY
		case m.ICMP:
			add(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{unix.IPPROTO_ICMP}))
		default:
			add(&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
				masked(stateBits(m.State), 0),
				&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native(0)})
		}
	}
	return append(out, action(r.Action)...)
}

func action(a policy.Action) []expr.Any {
	switch a.Kind {
	case policy.ActDrop:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	case policy.ActAccept:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	case policy.ActGoto:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: a.Chain}}
	case policy.ActVerdictMap:
		return append(load(a.Fields), &expr.Lookup{SourceRegister: 1, SetName: string(a.Set), IsDestRegSet: true})
	case policy.ActSetMark:
		return append(load(a.Fields),
			&expr.Lookup{SourceRegister: 1, SetName: string(a.Set), IsDestRegSet: true, DestRegister: 1},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1})
	case policy.ActOrWitness:
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			masked(^uint32(policy.Witness), policy.Witness),
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
		}
	case policy.ActDNATToItself:
		return append(load([]policy.Field{policy.FieldDest4}),
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegAddrMax: 1})
	}
	return []expr.Any{&expr.Masq{}}
}

// load puts fields side by side into registers, from the first on.
func load(fields []policy.Field) []expr.Any {
	var out []expr.Any
	word := 0
	for _, f := range fields {
		register := uint32(unix.NFT_REG_1 + word/4)
		if word%4 != 0 { // within one of 16 bytes
			register = uint32(unix.NFT_REG32_00 + word)
		}
		switch f {
		case policy.FieldFamily:
			out = append(out, &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register})
		case policy.FieldIn:
			out = append(out, &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register})
		case policy.FieldOut:
			out = append(out, &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register})
		case policy.FieldSource4:
			out = append(out, &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4})
		case policy.FieldDest4:
			out = append(out, &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4})
		case policy.FieldOrigin4:
			out = append(out, &expr.Ct{Key: unix.NFT_CT_SRC_IP, Register: register})
		}
		word += fieldSize(f) / 4
	}
	return out
}

func hasAddress(fields []policy.Field) bool {
	for _, f := range fields {
		if f == policy.FieldSource4 || f == policy.FieldDest4 {
			return true
		}
	}
	return false
}

func ofFamily(f policy.Family) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{protocolFamily(f)})}
}

func protocolFamily(f policy.Family) byte {
	if f == policy.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func equal(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

// masked makes the first register (old & mask) ^ xor.
func masked(mask, xor uint32) expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(mask), Xor: native(xor)}
}

func stateBits(s policy.CtState) uint32 {
	bits := uint32(0)
	for state, bit := range map[policy.CtState]uint32{
		policy.CtInvalid:     expr.CtStateBitINVALID,
		policy.CtEstablished: expr.CtStateBitESTABLISHED,
		policy.CtRelated:     expr.CtStateBitRELATED,
		policy.CtNew:         expr.CtStateBitNEW,
		policy.CtUntracked:   expr.CtStateBitUNTRACKED,
	} {
		if s&state != 0 {
			bits |= bit
		}
	}
	return bits
}

// expressionList is what a new rule carries.
func expressionList(family byte, list []expr.Any) (payload, error) {
	var p payload
	for _, e := range list {
		if isOrigin(e) {
			p = p.nest(unix.NFTA_LIST_ELEM, payload{}.text(unix.NFTA_EXPR_NAME, "ct").nest(unix.NFTA_EXPR_DATA, origin(e.(*expr.Ct))))
			continue
		}
		data, err := expr.Marshal(family, e)
		if err != nil {
			return nil, err
		}
		p = p.nest(unix.NFTA_LIST_ELEM, data)
	}
	return p, nil
}

// isOrigin tells whether e looks at who began a connection. google/nftables v0.3.0 neither sends the direction of this key
// nor can it read that of any.
func isOrigin(e expr.Any) bool {
	ct, ok := e.(*expr.Ct)
	return ok && ct.Key == unix.NFT_CT_SRC_IP
}

// origin is e as the kernel reads and shows it.
func origin(e *expr.Ct) payload {
	return payload{}.number(unix.NFTA_CT_DREG, e.Register).number(unix.NFTA_CT_KEY, uint32(e.Key)).
		bytes(unix.NFTA_CT_DIRECTION, []byte{0}) // IP_CT_DIR_ORIGINAL
}

// chainRule is a rule as the kernel has it.
type chainRule struct {
	table, chain string
	handle       uint64
	userData     []byte // its comment is in there
	expressions  []expression
}

// expression is one step of a rule: what it is called, and its attributes.
type expression struct {
	name string
	data []byte
}

// readRules lists the rules that selection names, in their order.
func readRules(conn *netlink.Conn, family uint8, selection payload) ([]chainRule, error) {
	answers, err := ask(conn, unix.NFT_MSG_GETRULE, netlink.Dump, family, selection)
	if err != nil {
		return nil, err
	}
	out := make([]chainRule, len(answers))
	for i, a := range answers {
		if out[i], err = parseChainRule(a); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func parseChainRule(a attributes) (chainRule, error) {
	r := chainRule{
		table:    a.text(unix.NFTA_RULE_TABLE),
		chain:    a.text(unix.NFTA_RULE_CHAIN),
		userData: a[unix.NFTA_RULE_USERDATA],
	}
	for _, b := range a[unix.NFTA_RULE_HANDLE] { // 8 bytes, big-endian
		r.handle = r.handle<<8 | uint64(b)
	}
	list, err := parseList(a[unix.NFTA_RULE_EXPRESSIONS])
	if err != nil {
		return chainRule{}, err
	}
	for _, e := range list {
		r.expressions = append(r.expressions, expression{text(find(e, unix.NFTA_EXPR_NAME)), find(e, unix.NFTA_EXPR_DATA)})
	}
	return r, nil
}

// comment is what nft keeps beside a rule. google/nftables v0.3.0 panics when another program keeps something else there.
func (r chainRule) comment() string {
	for rest := r.userData; len(rest) >= 2; {
		tag, size := rest[0], 2+int(rest[1])
		if size > len(rest) {
			break
		}
		if tag == commentTag {
			return text(rest[2:size])
		}
		rest = rest[size:]
	}
	return ""
}

const commentTag = 0 // NFTNL_UDATA_RULE_COMMENT

// is tells whether a packet meets exactly these expressions in r.
func (r chainRule) is(want []expr.Any) bool {
	if len(r.expressions) != len(want) {
		return false
	}
	for i, e := range r.expressions {
		if !e.is(want[i]) {
			return false
		}
	}
	return true
}

var names = map[reflect.Type]string{
	reflect.TypeFor[*expr.Bitwise](): "bitwise",
	reflect.TypeFor[*expr.Cmp]():     "cmp",
	reflect.TypeFor[*expr.Ct]():      "ct",
	reflect.TypeFor[*expr.Lookup]():  "lookup",
	reflect.TypeFor[*expr.Masq]():    "masq",
	reflect.TypeFor[*expr.Meta]():    "meta",
	reflect.TypeFor[*expr.NAT]():     "nat",
	reflect.TypeFor[*expr.Payload](): "payload",
	reflect.TypeFor[*expr.Verdict](): "immediate",
}

func (e expression) is(want expr.Any) (same bool) {
	// google/nftables v0.3.0 panics on attributes that are too short. The kernel sends none; what
	// can't be read is none of ours.
	defer func() {
		if recover() != nil {
			same = false
		}
	}()
	kind := reflect.TypeOf(want)
	if e.name != names[kind] {
		return false
	}
	if isOrigin(want) {
		return bytes.Equal(e.data, origin(want.(*expr.Ct)))
	}
	have := reflect.New(kind.Elem()).Interface().(expr.Any)
	return expr.Unmarshal(unix.NFPROTO_INET, e.data, have) == nil && reflect.DeepEqual(have, want)
}
