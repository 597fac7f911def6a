package walk

import (
	"net/netip"

	"uplane/policy"
)

// literal goes through our chain in one of iptables' built-in ones.
func (w *World) literal(table, chain string, p seen) outcome {
	at := hook{table, chain}
	if !w.jumped[at] || p.family != policy.IPv4 {
		return outcome{}
	}
	var all outcome
	for _, r := range w.chains[at] {
		if !meets(&r.XTRule, p) {
			continue
		}
		text := w.text(func() string { return "iptables -t " + table + " -A " + r.Chain + " " + r.XTRule.String() })
		switch {
		case r.Other != "": // nobody understands it: the worst is taken
			return outcome{accepted: true, object: text}
		case r.Target == policy.TargetDrop:
			return outcome{dropped: true, object: text}
		case r.Target == policy.TargetAccept:
			return outcome{accepted: true, object: text}
		case r.Target == policy.TargetMasquerade:
			return outcome{translated: true, object: text}
		case r.Target == policy.TargetMark:
			*p.mark = *p.mark&^r.Mask ^ r.Mark
			all.object = text
		}
	}
	return all
}

// meets tells whether a packet meets all conditions of a rule.
func meets(r *policy.XTRule, p seen) bool {
	in := func(prefix netip.Prefix, a netip.Addr) bool { return !prefix.IsValid() || prefix.Contains(a) }
	state := p.connection.State
	return in(r.Source, p.source) && in(r.Dest, p.dest) &&
		(r.In == "" || r.In == p.in) && (r.Out == "" || r.Out == p.out) &&
		(!r.ICMP || p.icmp) &&
		(!r.Invalid || state&(policy.CtInvalid|policy.CtUntracked) != 0) &&
		(!r.Established || state&(policy.CtEstablished|policy.CtRelated) != 0) &&
		(!r.Reply || p.connection.tracked() && p.connection.Reply)
}
