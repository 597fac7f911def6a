package policy

import (
	"fmt"
	"strings"
)

// TableName is the nftables table of family inet that is ours as a whole.
const TableName = "uplane"

// Witness is the mark bit that our table sets on what lanes send and on what
// comes back for them. A lane's rule wants it, and "unreachable" follows that
// rule: so when somebody flushes the table, the lane's packets are unreachable
// at once instead of leaving untranslated. No other program that we know of
// uses bit 28 (Tailscale: 16-23, Kubernetes: 14 and 15, wg-quick: 0xca6c,
// Mullvad: 0x6d6f6c65).
const Witness = 0x10000000

// Table is inet uplane: the chains that [Chains] describes and the sets of
// [Sets], still without elements. A table that is there but is not what we
// would make (somebody changed a rule, or put it to sleep) is not Sound, and is
// made anew together with its elements in one transaction.
type Table struct{ Sound bool }

func (t Table) key() key { return key{kind: kindTable} }

func (t Table) add() []string {
	return []string{"nft -f - <<'EOF'\n" + TableText() + "EOF"}
}

func (t Table) replace(Object) []string { return append(t.remove(), t.add()...) }
func (t Table) remove() []string        { return []string{"nft delete table inet " + TableName} }

// SetName names a set or map of our table.
type SetName string

// The sets. A set's size costs a packet nothing: all but Nets, Allowed, OwnAddresses and Answering
// are hashes, and these three are trees.
const (
	LaneLinks    SetName = "lanes"     // the host's interfaces of lanes
	Nets         SetName = "nets"      // lanes' IPv4 subnets
	Uplinks      SetName = "uplinks"   // cards by which lanes leave
	Closed       SetName = "closed"    // cards whose forwarding only we switched on
	OpenInput    SetName = "to_host"   // lanes that may reach the host itself
	Forward      SetName = "forward"   // which pairs of interfaces may pass, and where that is checked
	Allowed      SetName = "allowed"   // networks that a lane may reach beside its uplink
	Masquerade   SetName = "translate" // pairs between which the source is translated
	OwnAddresses SetName = "addresses" // of the cards by which lanes leave
	Answering    SetName = "answering" // such cards, and the addresses that lanes leave or left by there
	Marks        SetName = "marks"     // what lanes' packets are marked with
)

// Set is what a set's keys and values are.
type Set struct {
	Fields   []Field
	Value    ValueKind
	Interval bool // keys are prefixes
	Counted  bool // every element counts its packets and bytes
}

// ValueKind is what a map leads to.
type ValueKind uint8

// The kinds of value.
const (
	NoValue ValueKind = iota
	ValueVerdict
	ValueMark
)

// Field is a property of a packet that a rule can look at.
type Field uint8

// The fields.
const (
	FieldFamily  Field = iota + 1 // meta nfproto
	FieldIn                       // meta iifname
	FieldOut                      // meta oifname
	FieldSource4                  // ip saddr
	FieldDest4                    // ip daddr
	FieldOrigin4                  // ct original ip saddr: who began the connection
)

func (f Field) String() string {
	return [...]string{"", "meta nfproto", "iifname", "oifname", "ip saddr", "ip daddr", "ct original ip saddr"}[f]
}

// keyType is the type of a field in a set's declaration.
func (f Field) keyType() string {
	return [...]string{"", "nf_proto", "ifname", "ifname", "ipv4_addr", "ipv4_addr", "ipv4_addr"}[f]
}

// Sets describes every set, by name.
var Sets = map[SetName]Set{
	LaneLinks:    {Fields: []Field{FieldIn}},
	Nets:         {Fields: []Field{FieldSource4}, Interval: true},
	Uplinks:      {Fields: []Field{FieldIn}},
	Closed:       {Fields: []Field{FieldIn}},
	OpenInput:    {Fields: []Field{FieldIn}},
	Forward:      {Fields: []Field{FieldFamily, FieldIn, FieldOut}, Value: ValueVerdict, Counted: true},
	Allowed:      {Fields: []Field{FieldIn, FieldDest4}, Interval: true},
	Masquerade:   {Fields: []Field{FieldFamily, FieldIn, FieldOut}},
	OwnAddresses: {Fields: []Field{FieldOut, FieldSource4}, Interval: true},
	Answering:    {Fields: []Field{FieldIn, FieldDest4}, Interval: true},
	Marks:        {Fields: []Field{FieldIn}, Value: ValueMark},
}

// SetOrder is the order in which sets are declared.
var SetOrder = []SetName{LaneLinks, Nets, Uplinks, Closed, OpenInput, Forward, Allowed, Masquerade, OwnAddresses, Answering, Marks}

// TableChain is a chain of our table.
type TableChain struct {
	Name     string
	Type     string // filter or nat; empty: no hook, other chains go to it
	Hook     string
	Priority int
	Rules    []FilterRule
}

// Chains that other chains or elements lead to.
const (
	OutboundChain = "outbound"  // from a lane
	InboundChain  = "inbound"   // to a lane
	HostChain     = "from_lane" // from a lane to the host itself
)

// FilterRule is one rule of [TableChain]: when all of Matches hold, Action is done.
type FilterRule struct {
	Matches []Match
	Action  Action
}

// Match is a condition on a packet: its Fields are in Set (or not), or, without
// fields, one of the others.
type Match struct {
	Fields []Field
	Set    SetName
	Not    bool

	Family Family  // of this family
	State  CtState // in any of these states
	Reply  bool    // in the reply direction of its connection
	ICMP   bool    // ICMP, of IPv4
}

// CtState is a set of connection tracking states.
type CtState uint8

// The states.
const (
	CtInvalid CtState = 1 << iota
	CtEstablished
	CtRelated
	CtNew
	CtUntracked
)

var ctNames = []string{"invalid", "established", "related", "new", "untracked"}

// Action is what a rule does.
type Action struct {
	Kind  ActionKind
	Chain string  // of ActGoto
	Set   SetName // of ActVerdictMap and ActSetMark; its key is Fields
	// Fields is the key of Set.
	Fields []Field
}

// ActionKind is the kind of an action.
type ActionKind uint8

// The kinds of action.
const (
	ActDrop         ActionKind = iota + 1
	ActAccept                  // ends this chain's hook of ours only: other tables may still drop
	ActGoto                    //
	ActVerdictMap              // goes where the map says; when it says nothing, on
	ActSetMark                 // sets the mark that the map says
	ActOrWitness               // sets the witness bit
	ActDNATToItself            // leaves the destination as it is, which ends destination NAT for the connection
	ActMasquerade              //
)

// Chains is our table's content: (1) nobody redirects what lanes send, (2) lanes reach
// nothing of the host, nor does it speak for them, (3) what is forwarded, (4) translation, (5) nothing leaves
// untranslated, (6) marks.
var Chains = []TableChain{
	// An identity DNAT before everybody's ends NAT for the connection, so no
	// transparent proxy of the host captures it.
	{Name: "prerouting", Type: "nat", Hook: "prerouting", Priority: -190, Rules: []FilterRule{
		{[]Match{{Family: IPv4}, in(LaneLinks)}, Action{Kind: ActDNATToItself}},
	}},
	// As late as possible: programs that restore marks of connections do so at -150.
	{Name: "marking", Type: "filter", Hook: "prerouting", Priority: 300, Rules: []FilterRule{
		{nil, Action{Kind: ActSetMark, Set: Marks, Fields: []Field{FieldIn}}},
		{[]Match{in(Uplinks), {Fields: []Field{FieldDest4}, Set: Nets}}, Action{Kind: ActOrWitness}},
	}},
	{Name: "input", Type: "filter", Hook: "input", Priority: -1, Rules: []FilterRule{
		{[]Match{in(LaneLinks)}, Action{Kind: ActGoto, Chain: HostChain}},
	}},
	{Name: HostChain, Rules: []FilterRule{
		{[]Match{{Family: IPv6}}, drop},
		{[]Match{{State: CtInvalid | CtUntracked}}, drop},
		{[]Match{{ICMP: true}}, accept},
		{[]Match{{State: CtEstablished | CtRelated}, {Reply: true}}, accept}, // of what the host began
		{[]Match{in(OpenInput)}, accept},
		{nil, drop},
	}},
	// What the host itself says to a peer of a lane that it can't reach is an ICMP error, which leaves by main.
	{Name: "output", Type: "filter", Hook: "output", Priority: -1, Rules: []FilterRule{
		{[]Match{{ICMP: true}, {Fields: []Field{FieldOrigin4}, Set: Nets}, notOut(LaneLinks)}, drop},
	}},
	{Name: "forward", Type: "filter", Hook: "forward", Priority: -1, Rules: []FilterRule{
		{nil, Action{Kind: ActVerdictMap, Set: Forward, Fields: []Field{FieldFamily, FieldIn, FieldOut}}},
		{[]Match{{Fields: []Field{FieldIn, FieldDest4}, Set: Allowed}}, Action{Kind: ActGoto, Chain: OutboundChain}},
		{[]Match{{Fields: []Field{FieldOut, FieldSource4}, Set: Allowed}}, Action{Kind: ActGoto, Chain: InboundChain}},
		{[]Match{in(LaneLinks)}, drop},
		{[]Match{out(LaneLinks)}, drop},
		{[]Match{{Fields: []Field{FieldSource4}, Set: Nets}}, drop},             // a neighbour who says that he is a lane
		{[]Match{{Fields: []Field{FieldDest4}, Set: Nets}}, drop},               // what still comes for a lane that has gone
		{[]Match{{Fields: []Field{FieldIn, FieldDest4}, Set: Answering}}, drop}, // what still comes for a card's former address: a host that routes would say by its default that nobody has it
		{[]Match{in(Closed)}, drop},                                             // the host is no router because of us
	}},
	{Name: OutboundChain, Rules: []FilterRule{
		{[]Match{{State: CtInvalid | CtUntracked}}, drop}, // what is not tracked is not translated
		{nil, accept},
	}},
	{Name: InboundChain, Rules: []FilterRule{
		{[]Match{{State: CtEstablished | CtRelated}}, accept},
		{nil, drop},
	}},
	{Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: 99, Rules: []FilterRule{
		{[]Match{{Fields: []Field{FieldFamily, FieldIn, FieldOut}, Set: Masquerade}}, Action{Kind: ActMasquerade}},
		{[]Match{{Fields: []Field{FieldIn, FieldDest4}, Set: Allowed}}, Action{Kind: ActMasquerade}},
	}},
	{Name: "guard", Type: "filter", Hook: "postrouting", Priority: 101, Rules: []FilterRule{
		{[]Match{{Fields: []Field{FieldSource4}, Set: Nets}, notOut(LaneLinks)}, drop},
		// While a card has no address, the kernel translates to one of another.
		{[]Match{in(LaneLinks), {Fields: []Field{FieldOut, FieldSource4}, Set: OwnAddresses, Not: true}}, drop},
	}},
}

var (
	drop   = Action{Kind: ActDrop}
	accept = Action{Kind: ActAccept}
)

func in(set SetName) Match     { return Match{Fields: []Field{FieldIn}, Set: set} }
func out(set SetName) Match    { return Match{Fields: []Field{FieldOut}, Set: set} }
func notOut(set SetName) Match { return Match{Fields: []Field{FieldOut}, Set: set, Not: true} }

// TableText is the table as "nft -f" reads it, without elements.
func TableText() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", TableName)
	for _, name := range SetOrder {
		b.WriteString("\t" + setText(name) + "\n")
	}
	for _, c := range Chains {
		fmt.Fprintf(&b, "\tchain %s {\n", c.Name)
		if c.Hook != "" {
			fmt.Fprintf(&b, "\t\ttype %s hook %s priority %d; policy accept;\n", c.Type, c.Hook, c.Priority)
		}
		for _, r := range c.Rules {
			b.WriteString("\t\t" + r.String() + "\n")
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

func setText(name SetName) string {
	s := Sets[name]
	var types []string
	for _, f := range s.Fields {
		types = append(types, f.keyType())
	}
	kind, text := "set", "type "+strings.Join(types, " . ")
	switch s.Value {
	case ValueVerdict:
		kind, text = "map", text+" : verdict"
	case ValueMark:
		kind, text = "map", text+" : mark"
	}
	if s.Interval {
		text += "; flags interval"
	}
	if s.Counted {
		text += "; counter"
	}
	return fmt.Sprintf("%s %s { %s; }", kind, name, text)
}

// String is the rule as nft writes it.
func (r FilterRule) String() string {
	var words []string
	for _, m := range r.Matches {
		words = append(words, m.String())
	}
	return strings.Join(append(words, r.Action.String()), " ")
}

func fieldsText(fields []Field) string {
	var words []string
	for _, f := range fields {
		words = append(words, f.String())
	}
	return strings.Join(words, " . ")
}

func (m Match) String() string {
	switch {
	case m.Set != "" && m.Not:
		return fmt.Sprintf("%s != @%s", fieldsText(m.Fields), m.Set)
	case m.Set != "":
		return fmt.Sprintf("%s @%s", fieldsText(m.Fields), m.Set)
	case m.Family != 0:
		return "meta nfproto " + m.Family.String()
	case m.Reply:
		return "ct direction reply"
	case m.ICMP:
		return "meta l4proto icmp"
	}
	var names []string
	for i, name := range ctNames {
		if m.State&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return "ct state " + strings.Join(names, ",")
}

func (a Action) String() string {
	switch a.Kind {
	case ActDrop:
		return "drop"
	case ActAccept:
		return "accept"
	case ActGoto:
		return "goto " + a.Chain
	case ActVerdictMap:
		return fmt.Sprintf("%s vmap @%s", fieldsText(a.Fields), a.Set)
	case ActSetMark:
		return fmt.Sprintf("meta mark set %s map @%s", fieldsText(a.Fields), a.Set)
	case ActOrWitness:
		return fmt.Sprintf("meta mark set meta mark | %#x", Witness)
	case ActDNATToItself:
		return "dnat ip to ip daddr"
	}
	return "masquerade"
}
