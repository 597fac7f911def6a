package walk

import (
	"cmp"
	"net/netip"
	"slices"

	"uplane/policy"
)

// seen is a packet as a rule of a firewall sees it at one hook.
type seen struct {
	family       policy.Family
	in, out      string
	source, dest netip.Addr
	icmp         bool
	connection   *Connection
	mark         *uint32
}

// outcome is what a firewall does with a packet at one hook.
type outcome struct {
	dropped    bool
	accepted   bool   // by one of iptables' chains, whose other rules do not see it then
	translated bool   // its source becomes the outgoing interface's address
	object     string // the rule that decided; empty: none did
}

// ours goes through the chains of one type that our nftables table has at a hook.
func (w *World) ours(at, kind string, p seen) outcome {
	if !w.table {
		return outcome{}
	}
	chains := slices.Clone(policy.Chains)
	slices.SortStableFunc(chains, func(a, b policy.TableChain) int { return cmp.Compare(a.Priority, b.Priority) })
	var all outcome
	for _, c := range chains {
		if c.Hook != at || c.Type != kind {
			continue
		}
		if o := w.chain(c.Name, p); o.object != "" {
			all = o
			if o.dropped {
				return o
			}
		}
	}
	return all
}

// chain goes through one chain and those that it leads to.
func (w *World) chain(name string, p seen) outcome {
	var all outcome
	i := slices.IndexFunc(policy.Chains, func(c policy.TableChain) bool { return c.Name == name })
	if i < 0 {
		return all
	}
	for _, r := range policy.Chains[i].Rules {
		if slices.ContainsFunc(r.Matches, func(m policy.Match) bool { return !w.matches(m, p) }) {
			continue
		}
		text := w.text(func() string { return "nft inet " + policy.TableName + " " + name + ": " + r.String() })
		switch a := r.Action; a.Kind {
		case policy.ActDrop:
			return outcome{dropped: true, object: text}
		case policy.ActAccept:
			return outcome{object: text}
		case policy.ActGoto:
			return w.chain(a.Chain, p)
		case policy.ActVerdictMap:
			if e := w.find(a.Set, a.Fields, p); e != nil {
				return w.chain(e.Chain, p)
			}
		case policy.ActSetMark:
			if e := w.find(a.Set, a.Fields, p); e != nil {
				*p.mark = e.Mark
				all.object = text
			}
		case policy.ActOrWitness:
			*p.mark |= policy.Witness
			all.object = text
		case policy.ActDNATToItself:
			return outcome{object: text}
		case policy.ActMasquerade:
			return outcome{translated: true, object: text}
		}
	}
	return all
}

// text is what decides, for people; nobody reads it in a quiet world.
func (w *World) text(of func() string) string {
	if w.Quiet {
		return "a rule"
	}
	return of()
}

// matches tells whether a packet meets one condition of a rule.
func (w *World) matches(m policy.Match, p seen) bool {
	switch {
	case m.Set != "":
		if p.family == policy.IPv6 && slices.ContainsFunc(m.Fields, ofIPv4) {
			return false
		}
		return (w.find(m.Set, m.Fields, p) != nil) != m.Not
	case m.Family != 0:
		return p.family == m.Family
	case m.State != 0:
		return p.connection.State&m.State != 0
	case m.Reply:
		return p.connection.tracked() && p.connection.Reply
	case m.ICMP:
		return p.icmp && p.family == policy.IPv4
	}
	return true
}

func ofIPv4(f policy.Field) bool {
	return f == policy.FieldSource4 || f == policy.FieldDest4 || f == policy.FieldOrigin4
}

// find returns the element of a set that has a packet's fields; nil: none has.
func (w *World) find(set policy.SetName, fields []policy.Field, p seen) *policy.Element {
	for i := range w.sets[set] {
		if e := &w.sets[set][i]; holds(e, policy.Sets[set].Fields, fields, p) {
			return e
		}
	}
	return nil
}

// holds tells whether an element, whose key is of one kind of fields, has those of a packet.
func holds(e *policy.Element, key, fields []policy.Field, p seen) bool {
	link := func(f policy.Field) string {
		if f == policy.FieldOut {
			return p.out
		}
		return p.in
	}
	address := func(f policy.Field) netip.Addr {
		switch f {
		case policy.FieldDest4:
			return p.dest
		case policy.FieldOrigin4:
			return p.connection.Origin
		}
		return p.source
	}
	for i, k := range key {
		ok := false
		switch k {
		case policy.FieldFamily:
			ok = e.Family == p.family
		case policy.FieldIn:
			ok = e.In == link(fields[i])
		case policy.FieldOut:
			ok = e.Out == link(fields[i])
		default:
			ok = e.Net.Contains(address(fields[i]))
		}
		if !ok {
			return false
		}
	}
	return true
}
