package walk

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"uplane/policy"
)

// Walk says what becomes of a packet.
func Walk(state policy.State, host *policy.Host, p Packet) Verdict { return New(state, host).Walk(p) }

// Walk says what becomes of a packet.
func (w *World) Walk(p Packet) Verdict {
	j := journey{World: w, packet: p}
	switch {
	case p.From.Lane != "":
		j.fromLane()
	case p.From.Interface != "":
		j.enters(p.From.Interface)
	default:
		j.fromHost()
	}
	return j.verdict
}

// journey is a packet on its way, and what has become of it so far.
type journey struct {
	*World
	packet  Packet // as it is now
	verdict Verdict
	in, out string // interfaces of the host
	mark    uint32
}

func (j *journey) step(stage Stage, object, result string) {
	j.verdict.Where = stage
	if !j.Quiet {
		j.verdict.Steps = append(j.verdict.Steps, Step{stage, object, result})
	}
}

func (j *journey) drop(stage Stage, object, result string) {
	j.step(stage, object, result)
	j.verdict.Dropped = true
}

// seen is the packet as a firewall sees it now.
func (j *journey) seen() seen {
	p := &j.packet
	return seen{p.Family(), j.in, j.out, p.Source, p.Destination, p.ICMP, &p.Connection, &j.mark}
}

// fromLane leads a packet out of a lane's namespace.
func (j *journey) fromLane() {
	p := &j.packet
	v, ok := j.veths[p.From.Lane]
	if !ok {
		j.drop(Namespace, "lane "+p.From.Lane, "nothing connects it to the host")
		return
	}
	inner := place{p.From.Lane, v.Inner}
	if !p.Source.IsValid() {
		if p.Source = address(j.addrs[inner], p.Family()); !p.Source.IsValid() {
			j.drop(Namespace, "ip -n "+p.From.Lane+" addr", "no address of this family")
			return
		}
	}
	if !p.From.Raw {
		r := lookup(j.inside[p.From.Lane], p.Destination)
		switch {
		case slices.ContainsFunc(j.addrs[inner], func(a netip.Prefix) bool { return a.Addr() == p.Destination }):
			j.verdict.Local = true
			j.step(Namespace, "ip -n "+p.From.Lane+" addr", "it is the lane's own")
			return
		case r == nil:
			j.drop(Namespace, "ip -n "+p.From.Lane+" route", "no route")
			return
		case r.kind != policy.Unicast || r.dev != v.Inner:
			j.drop(Namespace, "ip -n "+p.From.Lane+" route", r.text)
			return
		}
		j.step(Namespace, "ip -n "+p.From.Lane+" route", r.text)
	}
	j.crosses(v)
}

// crosses leads a packet over a veth and its bridge to the host.
func (j *journey) crosses(v policy.Veth) {
	link := outer(v)
	b, own := j.bridge[v.Bridge]
	switch {
	case !v.Up || !v.InnerUp:
		j.drop(Link, "veth "+v.Name, "is down")
	case own && !b.Up:
		j.drop(Link, "bridge "+b.Name, "is down")
	case own && b.Master != "":
		j.bridged(b.Name, b.Master)
	case v.Bridge != "" && !own && j.host.Links[v.Bridge].Master != "":
		j.bridged(v.Bridge, j.host.Links[v.Bridge].Master)
	default:
		for _, name := range slices.Sorted(maps.Keys(j.host.Links)) {
			if v.Bridge != "" && j.host.Links[name].Master == v.Bridge {
				j.bridged(v.Bridge, name)
				return
			}
		}
		j.step(Link, "veth "+v.Name, "comes in by "+link)
		j.enters(link)
	}
}

// bridged is a packet that passes at layer 2, where no firewall sees it.
func (j *journey) bridged(bridge, other string) {
	j.step(Link, "bridge "+bridge, "is connected to "+other+" as well, and no rule sees what passes")
	j.verdict.Out, j.verdict.Source = other, j.packet.Source
}

// enters is a packet that comes in by one of the host's interfaces.
func (j *journey) enters(link string) {
	p := &j.packet
	j.in = link
	if p.Family() == policy.IPv6 && j.set("net/ipv6/conf/"+link+"/disable_ipv6") == "1" {
		j.drop(Link, "sysctl net/ipv6/conf/"+link+"/disable_ipv6", "IPv6 is off")
		return
	}
	j.prerouting()
	f := flow{p.Family(), p.Source, p.Destination, j.mark, link}
	way, local, steps := j.wayTo(f)
	j.verdict.Steps = append(j.verdict.Steps, steps...)
	j.verdict.Where = Routing
	switch {
	case !local && way == nil:
		j.verdict.Dropped = true
	case p.Family() == policy.IPv4 && j.martian(f, way):
	case local:
		j.input()
	case !j.forwards(link, p.Family()):
		j.drop(Routing, p.Family().String()+" forwarding of "+link, "is off")
	default:
		j.forward(way.dev)
	}
}

// martian drops a packet whose source the kernel does not believe: its own, or, with a
// reverse-path filter, one that it would not answer by the same interface. Way is the packet's; nil: to the host.
func (j *journey) martian(f flow, way *route) bool {
	bad := func(object, why string) bool {
		j.drop(Routing, object, why)
		return true
	}
	source := "source " + f.from.String()
	if f.from.IsMulticast() || f.from.IsLoopback() || f.from.IsUnspecified() {
		return bad(source, "is nobody's")
	}
	back := flow{family: f.family, from: f.to, to: f.from, in: "lo"}
	if way != nil {
		back.in = way.dev
	}
	if j.set("net/ipv4/conf/"+f.in+"/src_valid_mark") == "1" {
		back.mark = f.mark
	}
	answer, local, _ := j.wayTo(back)
	filter := max(j.set("net/ipv4/conf/all/rp_filter"), j.set("net/ipv4/conf/"+f.in+"/rp_filter"))
	object := "sysctl net/ipv4/conf/" + f.in + "/rp_filter=" + filter
	switch {
	case local:
		return bad(source, "is the host's own")
	case filter == "" || filter == "0":
	case answer == nil:
		return bad(object, "nothing leads back to "+f.from.String())
	case filter == "1" && answer.dev != f.in:
		return bad(object, answer.dev+" leads back to "+f.from.String())
	}
	return false
}

// prerouting is what happens before the host knows where a packet goes.
func (j *journey) prerouting() {
	p := &j.packet
	note := func(o outcome, result string) {
		if o.object != "" {
			j.step(Prerouting, o.object, result)
		}
	}
	marked := func(o outcome) { note(o, fmt.Sprintf("mark %#x", j.mark)) }
	marked(j.literal("mangle", "PREROUTING", j.seen()))
	if c := &p.Connection; c.State == policy.CtNew {
		note(j.ours("prerouting", "nat", j.seen()), "nobody redirects it")
		note(j.literal("nat", "PREROUTING", j.seen()), "nobody redirects it")
	} else if c.tracked() && c.Reply && c.Translated.IsValid() && p.Destination == c.Translated {
		p.Destination = c.Origin
		j.step(Prerouting, "connection tracking", "translated back, to "+c.Origin.String())
	}
	marked(j.ours("prerouting", "filter", j.seen()))
}

// input is a packet for the host itself.
func (j *journey) input() {
	for _, o := range []outcome{j.ours("input", "filter", j.seen()), j.literal("filter", "INPUT", j.seen())} {
		if o.dropped {
			j.drop(Input, o.object, "dropped")
			return
		}
		if o.object != "" {
			j.step(Input, o.object, "let through")
		}
	}
	j.verdict.Where, j.verdict.Local = Input, true
}

// forward is a packet that the host passes on.
func (j *journey) forward(out string) {
	j.out = out
	own := j.ours("forward", "filter", j.seen())
	literal := outcome{}
	if !own.dropped {
		literal = j.literal("filter", "FORWARD", j.seen())
	}
	for _, o := range []outcome{own, literal} {
		if o.dropped {
			j.drop(Forward, o.object, "dropped")
			return
		}
		if o.object != "" {
			j.step(Forward, o.object, "let through")
		}
	}
	if j.packet.Family() == policy.IPv4 && !literal.accepted {
		for _, tool := range []string{policy.IPTables, policy.IPTablesLegacy} {
			if j.host.Drops[tool] && !(j.doors[tool] && j.mark&policy.Witness != 0) {
				j.drop(Forward, tool+" -S FORWARD", "another program's rules drop what they do not know")
				return
			}
		}
	}
	j.leaves()
}

// fromHost is a packet that the host itself sends.
func (j *journey) fromHost() {
	p := &j.packet
	way, local, steps := j.wayTo(flow{p.Family(), p.Source, p.Destination, 0, "lo"})
	j.verdict.Steps = append(j.verdict.Steps, steps...)
	j.verdict.Where = Routing
	switch {
	case local:
		j.verdict.Local = true
	case way == nil:
		j.verdict.Dropped = true
	default:
		j.out = way.dev
		if !p.Source.IsValid() {
			p.Source = address(j.addresses(way.dev), p.Family())
		}
		if o := j.ours("output", "filter", j.seen()); o.dropped {
			j.drop(Output, o.object, "dropped")
			return
		}
		j.leaves()
	}
}

// leaves is the rest of the way, once it is known by which interface.
func (j *journey) leaves() {
	p := &j.packet
	switch c := &p.Connection; {
	case c.State == policy.CtNew:
		o := j.ours("postrouting", "nat", j.seen())
		if !o.translated {
			o = j.literal("nat", "POSTROUTING", j.seen())
		}
		if o.translated && !j.masquerade(o.object) {
			return
		}
	case c.tracked() && !c.Reply && c.Translated.IsValid():
		if c.Card != j.out && !(p.ICMP && c.State == policy.CtRelated) { // an error is not of the connection
			j.drop(Postrouting, "connection tracking", "the connection was translated for "+c.Card+", and ends here")
			return
		}
		p.Source = c.Translated
		j.step(Postrouting, "connection tracking", "translated, from "+c.Translated.String())
	}
	if o := j.ours("postrouting", "filter", j.seen()); o.dropped {
		j.drop(Postrouting, o.object, "dropped")
		return
	}
	if lane := j.laneOf(j.out); lane != "" {
		j.verdict.Lane = lane
		j.step(Out, "dev "+j.out, "comes to lane "+lane)
	} else if l, ok := j.host.Links[j.out]; ok && !l.Running {
		j.drop(Out, "dev "+j.out, "has no carrier")
		return
	} else {
		j.step(Out, "dev "+j.out, "leaves")
	}
	j.verdict.Out, j.verdict.Source = j.out, p.Source
}

// masquerade gives a packet the address of the interface that it leaves by, or, as the kernel does while
// that has none, one of another.
func (j *journey) masquerade(object string) bool {
	a := address(j.addresses(j.out), j.packet.Family())
	for _, other := range slices.Sorted(maps.Keys(j.host.Links)) {
		if !a.IsValid() && other != "lo" {
			a = address(j.addresses(other), j.packet.Family())
		}
	}
	if !a.IsValid() {
		j.drop(Postrouting, object, "no interface has an address")
		return false
	}
	j.packet.Source = a
	j.step(Postrouting, object, "translated, from "+a.String())
	return true
}

// address is the first of a family.
func address(prefixes []netip.Prefix, family policy.Family) netip.Addr {
	for _, p := range prefixes {
		if policy.FamilyOf(p.Addr()) == family {
			return p.Addr()
		}
	}
	return netip.Addr{}
}
