package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"
)

// Input is everything that decides how lanes look in the kernel, all of one moment.
// Deciding changes nothing of it.
type Input struct {
	Now    time.Time
	Files  Files
	NM     Snapshot
	Fresh  map[string]bool // interfaces that the kernel knows better at this moment than NetworkManager has said
	Have   Setup
	Host   *Host
	Asked  map[string]bool // sysctls that were looked for, whether they exist or not
	Memory Memory
	// Firewall is what the firewall is made with.
	Firewall Backend
	// Problems are the edges that could see nothing, and why: what they see stays as it is.
	Problems map[Edge]string
	// Extra are lanes to build as if they were wanted, for a plan.
	Extra []string
}

// Edge is a part of the world that is looked at by itself.
type Edge string

// The edges.
const (
	EdgeFirewall  Edge = "firewall"
	EdgeConntrack Edge = "conntrack"
	EdgeDoors     Edge = "doors" // other programs' chains
)

func (in *Input) problem(e Edge) string { return in.Problems[e] }

// blind says why nobody knows what the firewall does; empty: it can be seen.
func (in *Input) blind() string {
	if in.Firewall == FirewallUnusable {
		return cmp.Or(in.problem(EdgeFirewall), "there is none")
	}
	return in.problem(EdgeFirewall)
}

// Decision is what follows from an [Input].
type Decision struct {
	Want   Setup
	Ops    []Op
	Lanes  []LaneStatus // of every lane that there is, by name
	Memory Memory       // to be kept before Ops are carried out
	Again  time.Duration
	// Switches are the sysctls of others' links that lanes need, by key.
	Switches map[string]bool
	Unknown  []string // sysctls to look at: the decision is to be made again with them
	Sources  Sources
	Uplinks  []*Uplink // as the kernel has them
	// Clean: nothing is left to do.
	Clean bool

	host *Host
}

// Leaves tells whether the kernel had an IPv4 default route of NetworkManager's by an interface.
func (d *Decision) Leaves(iface string) bool { return d.host.leaves(iface) }

// Decide makes the decision.
func Decide(in Input) Decision {
	d := Decision{Sources: Survey(in.Files, in.NM, in.Memory)}
	lanes := d.Sources.wanted()
	for _, name := range in.Extra {
		if l, ok := d.Sources.Known[name]; ok && !d.Sources.Wanted[name] {
			lanes = append(lanes, l)
		}
	}
	lanes = byName(lanes)
	have, host := in.Have, in.Host
	if in.NM.Known && in.NM.Running {
		have, host = takeBack(have, host, in.NM.Profiles)
	}
	have, host, released := takeOver(have, host, lanes, d.Sources.Held)
	have = in.lostFiles(have, lanes)
	in.Have, in.Host = have, host

	up, reserved := d.Sources.reserved(lanes, in.Memory)
	allocs, clashes := Allocate(up, reserved, in.Memory.allocations(), host)
	last := in.Memory.built
	if last == nil {
		last = &built{}
	}
	d.Uplinks = in.uplinks()
	b := builder{
		in: &in, sources: &d.Sources, uplinks: d.Uplinks, allocs: allocs, clashes: clashes,
		want:   Setup{make(Parts, len(lanes)+1), make(State, len(have.Filter))},
		common: State{}, last: last, switches: map[string]string{},
		now:   &built{lanes: make(map[string]*laneParts, len(lanes)), exits: map[string]*exit{}},
		ports: host.ports(), answers: map[netip.Addr]answer{}, released: map[string]bool{},
	}
	for _, op := range released {
		b.released[op.Object.(Bridge).Name] = true
	}
	b.fw = firewall{want: b.want.Filter, common: b.common, backend: in.Firewall, chains: map[Chain][]ownedRule{}, doors: host.Drops, marked: map[string]bool{}}
	d.Lanes = make([]LaneStatus, len(lanes))
	bare := make([]bool, len(lanes))
	for i, l := range lanes {
		d.Lanes[i] = LaneStatus{Lane: l, Alloc: allocs[l.Name]}
		bare[i] = b.decideLane(&d.Lanes[i])
	}
	draining, forget := b.drain()
	places := b.places(newTaken(host, lanes).clean)
	for i := range d.Lanes {
		if !bare[i] {
			b.build(&d.Lanes[i], places[d.Lanes[i].Lane.Name])
		}
	}
	b.usedCards()
	answers, answered, answersAgain := b.answerRules(b.waiting(d.Lanes), len(draining) > 0)
	b.sysctls()
	b.fw.router(b.closedCards())
	b.fw.finish()
	b.want.Parts[""] = &Part{State: b.common}
	d.Want, d.Unknown, d.host = b.want, b.unknown, host
	d.Switches = make(map[string]bool, len(b.switches))
	for key := range b.switches {
		d.Switches[key] = true
	}

	d.Memory = in.remember(&d, clashes, b.saved, draining, answers)
	d.Memory.Answered, d.Memory.built = answered, b.now
	was, is := narrow(b.seen(have), b.seen(d.Want), b.now.adopt)
	ops := slices.Concat(b.partings(lanes), released, forget, Diff(was, is), b.reconnections(d.Lanes))
	d.Clean = len(ops) == 0
	d.Memory.Fights, d.Ops, d.Again = fights(in.Memory.Fights, ops, in.Memory.Converged, in.Now)
	if d.Clean {
		d.Memory.Converged = d.Want
	}
	d.Again = sooner(sooner(d.Again, drainPause(draining, in.Now)), answersAgain)
	b.judge(&d)
	return d
}

// sooner is the earlier of two times to look again; 0 is never.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// seen leaves out what could not be looked at: it stays as it is.
func (b *builder) seen(s Setup) Setup {
	if b.in.blind() != "" {
		s.Filter = State{}
	}
	if b.in.problem(EdgeDoors) != "" {
		s.Parts = s.Parts.edit("", func(s State) {
			maps.DeleteFunc(s, func(o Object, _ string) bool { _, door := o.(Door); return door })
		})
	}
	return s
}

// uplinks returns the uplinks as the kernel has them now. As long as NetworkManager has not been seen, what
// lanes left by last is still theirs, if the kernel has it.
func (in *Input) uplinks() []*Uplink {
	all := in.NM.Uplinks
	if !in.NM.Known {
		all = in.Memory.uplinks()
	}
	out := make([]*Uplink, 0, len(all))
	for _, u := range all {
		if !in.NM.Running && u.Phase == PhaseActive {
			u.Phase = PhaseChanging
		}
		u = u.Effective(in.Host, in.Fresh[u.Interface])
		out = append(out, &u)
	}
	return out
}

// uplinks returns what lanes left by last, one an interface.
func (m *Memory) uplinks() []Uplink {
	seen := map[string]bool{}
	var out []Uplink
	for _, name := range slices.Sorted(maps.Keys(m.Lanes)) {
		if u := m.Lanes[name].Uplink; u != nil && !seen[u.Interface] {
			seen[u.Interface] = true
			last := *u
			last.Phase = PhaseChanging
			out = append(out, last)
		}
	}
	return out
}

func (m *Memory) allocations() map[string]Allocation {
	out := make(map[string]Allocation, len(m.Lanes))
	for name, l := range m.Lanes {
		if (l.Allocation != Allocation{}) {
			out[name] = l.Allocation
		}
	}
	return out
}

// waiting returns the cards that lanes left by last that wait now.
func (b *builder) waiting(lanes []LaneStatus) map[string]bool {
	out := map[string]bool{}
	for i := range lanes {
		st := &lanes[i]
		if iface := b.current(st.Lane.Name); st.Uplink == nil && iface != "" && worst(st.Conditions) == Waiting {
			out[iface] = true
		}
	}
	return out
}

// partings ends the sockets of lanes that are about to go, while their peers can still be told.
func (b *builder) partings(lanes []Lane) []Op {
	wanted := make(map[string]bool, len(lanes))
	for i := range lanes {
		wanted[lanes[i].Name] = true
	}
	var ops []Op
	for o := range b.in.Have.Parts.each(kindBridge) {
		if v, ok := o.(Veth); ok && v.Netns != "" && !wanted[v.Netns] {
			ops = append(ops, Op{Verb: Destroy, Object: Sockets{v.Netns}, Lane: v.Netns})
		}
	}
	slices.SortFunc(ops, func(a, b Op) int { return compareKeys(a.Object.key(), b.Object.key()) })
	return ops
}

// reconnections ends the sockets of lanes whose way is another now, or whose own address: their connections are
// translated to an address that is not theirs any more, or come from one, and would hang.
func (b *builder) reconnections(lanes []LaneStatus) []Op {
	var ops []Op
	for i := range lanes {
		st := &lanes[i]
		old := b.in.Memory.Lanes[st.Lane.Name]
		renumbered := old.Subnet.IsValid() && old.Subnet != st.Alloc.Subnet
		moved := old.Uplink != nil && st.Uplink != nil && old.Uplink != st.Uplink &&
			(old.Uplink.Interface != st.Uplink.Interface || !sharesAddress(old.Uplink, st.Uplink))
		if (renumbered || moved) && b.in.Have.Parts[st.Lane.Name].hasLink(st.Alloc.Veth) {
			ops = append(ops, Op{Verb: Destroy, Object: Sockets{st.Lane.Name}, Lane: st.Lane.Name})
		}
	}
	return ops
}

// sharesAddress tells whether two uplinks have an IPv4 address in common.
func sharesAddress(a, b *Uplink) bool {
	return slices.ContainsFunc(a.Addresses, func(p netip.Prefix) bool {
		return p.Addr().Is4() && slices.ContainsFunc(b.Addresses, func(q netip.Prefix) bool { return p.Addr() == q.Addr() })
	})
}

// remember returns what to know the next time. Lanes that have neither a file nor a profile are
// forgotten when nothing is left of them, if NetworkManager runs and so its profiles are known.
func (in *Input) remember(d *Decision, clashes, saved map[string]string, draining map[netip.Prefix]Drain, answers map[netip.Addr]string) Memory {
	m := Memory{
		Lanes: make(map[string]LaneMemory, len(in.Memory.Lanes)), Sysctls: saved, Forwarded: in.Host.Forwards,
		Draining: draining, Answers: answers, Converged: in.Memory.Converged,
	}
	s := &d.Sources
	left := map[string]bool{} // lanes that there still is something of
	for o := range in.Have.Parts.each(kindNetns) {
		left[o.(Netns).Name] = true
	}
	for name, l := range in.Memory.Lanes {
		_, known := s.Known[name]
		if !known && s.Broken[name] == "" && in.NM.Known && in.NM.Running && !left[name] {
			continue
		}
		if !known {
			l.Profile = false
		}
		m.Lanes[name] = l
	}
	for name, lane := range s.Known {
		l, had := m.Lanes[name]
		l.Profile = lane.External && s.Wanted[name]
		l.Files = in.hasFiles(name) || l.Files && left[name]
		if l.Profile && s.Held[name] == "" && l.Want == WantDown {
			l.Want = "" // it is up, which is the last word: a file that it goes on from was not meant by the one before
		}
		if had || l != (LaneMemory{}) {
			m.Lanes[name] = l
		}
	}
	equal := map[[2]*Uplink]bool{}
	same := func(a, b *Uplink) bool {
		pair := [2]*Uplink{a, b}
		is, known := equal[pair]
		if !known {
			is = a != nil && reflect.DeepEqual(*a, *b)
			equal[pair] = is
		}
		return is
	}
	for i := range d.Lanes {
		st := &d.Lanes[i]
		if !s.Wanted[st.Lane.Name] {
			continue // planned only
		}
		l := m.Lanes[st.Lane.Name]
		if clashes[st.Lane.Name] == "" { // else it does not have what it asks for, and must not hold it against who does
			l.Allocation = st.Alloc
		}
		if l.Definition == nil || !l.Definition.equal(&st.Lane) {
			lane := st.Lane
			l.Definition = &lane
		}
		if st.Uplink != nil && !same(l.Uplink, st.Uplink) {
			l.Uplink = st.Uplink
		}
		m.Lanes[st.Lane.Name] = l
	}
	return m
}

// hasFiles tells whether all of a lane's files are ours.
func (in *Input) hasFiles(lane string) bool {
	has := 0
	for _, o := range in.Have.Parts[lane].of(kindFile) {
		if path := o.(File).Path; path == ResolvConfPath(lane) || path == SwitchPath(lane) {
			has++
		}
	}
	return has == 2
}

// lostFiles returns a setup that has the files of lanes from which somebody took our tag: they were
// ours a moment ago, and are put right.
func (in *Input) lostFiles(have Setup, lanes []Lane) Setup {
	if len(in.Host.Files) == 0 {
		return have
	}
	for _, l := range lanes {
		if !in.Memory.Lanes[l.Name].Files {
			continue
		}
		for _, path := range []string{ResolvConfPath(l.Name), SwitchPath(l.Name)} {
			if content, lost := in.Host.Files[path]; lost {
				have.Parts = have.Parts.With(l.Name, State{File{Path: path, Content: content}: l.Name})
			}
		}
	}
	return have
}

// judge completes how lanes are: conditions that are everybody's, and the lanes that are not wanted.
func (b *builder) judge(d *Decision) {
	s, in := &d.Sources, b.in
	fights := undoneOf(d.Memory.Fights, d.Want)
	for i := range d.Lanes {
		st := &d.Lanes[i]
		name := st.Lane.Name
		if why := in.blind(); why != "" && worst(st.Conditions) != Error {
			st.add(Condition{
				Type: AboutFirewall, Reason: "Unreadable", Effect: Degraded,
				Message: "the firewall can't be read, so nobody knows whether the lane's packets pass: " + why,
			})
		}
		if why := in.problem(EdgeConntrack); why != "" {
			st.add(Condition{
				Type: AboutKernel, Reason: "NoConntrack", Effect: Up,
				Message: "connections can't be listed, so what is left of a lane that has gone stays for two minutes: " + why,
			})
		}
		if why := in.problem(EdgeDoors); why != "" {
			st.add(Condition{Type: AboutFirewall, Reason: "ForeignUnreadable", Effect: Up, Message: "other programs' firewall rules can't be read: " + why})
		}
		for j := range fights {
			if c, concerned := fights[j].about(&st.Lane); concerned {
				st.add(c)
			}
		}
		if !in.NM.Running && st.Uplink != nil {
			st.add(Condition{
				Type: AboutNetworkManager, Reason: "NotRunning", Effect: Degraded,
				Message: "NetworkManager is not running, so the lane keeps its last uplink and can't follow changes",
			})
		}
		if why := s.Broken[name]; why != "" {
			st.add(Condition{Type: AboutConfig, Reason: "Broken", Effect: Degraded, Message: why + "; the lane stays as it was"})
		}
		for _, note := range s.Notes[name] {
			st.add(Condition{Type: AboutConfig, Reason: "Ambiguous", Effect: Degraded, Message: note})
		}
	}
	seen := map[string]bool{}
	for i := range d.Lanes {
		seen[d.Lanes[i].Lane.Name] = true
	}
	for name, lane := range s.Known {
		if seen[name] {
			continue
		}
		st := LaneStatus{Lane: lane, State: Down}
		if owner, ok := s.Owner[name]; ok {
			st.Reason = "its profile " + owner + " is down in NetworkManager: nmcli connection up " + Quote(owner)
		}
		d.Lanes = append(d.Lanes, st)
		seen[name] = true
	}
	for name, why := range s.Broken {
		if !seen[name] {
			d.Lanes = append(d.Lanes, LaneStatus{Lane: Lane{Name: name}, Conditions: []Condition{{Type: AboutConfig, Reason: "Broken", Effect: Error, Message: why}}})
		}
	}
	slices.SortFunc(d.Lanes, func(x, y LaneStatus) int { return cmp.Compare(x.Lane.Name, y.Lane.Name) })
	d.conclude(in.Now)
}

// conclude computes each lane's state from its conditions.
func (d *Decision) conclude(now time.Time) {
	for i := range d.Lanes {
		st := &d.Lanes[i]
		st.Profile = d.Sources.Owner[st.Lane.Name]
		if st.State != Down {
			st.State, st.Reason = worst(st.Conditions), reason(st.Conditions)
		}
		l, ok := d.Memory.Lanes[st.Lane.Name]
		if ok && (l.State != st.State || l.Since.IsZero()) {
			l.State, l.Since = st.State, now
			d.Memory.Lanes[st.Lane.Name] = l
		}
	}
}

// Add tells lanes of what came of carrying out the decision; with an empty name all lanes
// that are wanted.
func (d *Decision) Add(lane string, c Condition, now time.Time) {
	for i := range d.Lanes {
		st := &d.Lanes[i]
		if st.State != Down && (lane == "" || st.Lane.Name == lane) {
			st.add(c)
		}
	}
	d.conclude(now)
}
