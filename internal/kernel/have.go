package kernel

import (
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

// have is the state that was observed last, and where each of its objects comes from, so that a look
// costs what has changed since and not what there is: to put a thousand lanes' objects into a map takes tens of
// milliseconds.
type have struct {
	parts policy.Parts
	fresh map[string]bool // lanes whose part nobody has got yet, so that it may change
	from  map[source][]*object
	// ours without a lane: perhaps it shows when the rest of the lane is there
	nobodys map[policy.Object]*object
	silent  map[int]bool     // links whose own switches may change without an event
	inner   map[int]innerEnd // as it was
	owners  owners
	sysctls map[string]string // that somebody asked for
}

// source is one of the things that are read at once.
type source struct {
	part sourcePart
	n    int
	name string
}

type sourcePart uint8

const (
	fromLink sourcePart = iota
	fromSwitches
	fromAddrs
	fromTable4
	fromTable6
	fromRules
	fromNetns
	fromFile
)

func fromTable(t tableKey) source {
	if t.family == unix.AF_INET6 {
		return source{part: fromTable6, n: int(t.table)}
	}
	return source{part: fromTable4, n: int(t.table)}
}

// dirty is what was read since have was brought up to date.
type dirty struct {
	all   bool
	links map[int]bool
	// switches are links whose own ones may have changed.
	switches map[int]bool
	addrs    map[int]bool
	tables   map[tableKey]bool
	rules    families
	netns    map[string]bool
	files    map[string]bool

	ruleEvents []ruleEvent
}

func (d *dirty) rule(e ruleEvent) { d.ruleEvents = append(d.ruleEvents, e) }

// object is one of ours with its lane.
type object struct {
	policy.Object
	lane string
}

// update brings the state up to date with what was read.
func (k *Kernel) update() {
	d := k.dirty
	k.dirty = dirty{}
	if d.all {
		k.have = have{
			parts: policy.Parts{}, fresh: map[string]bool{}, from: map[source][]*object{},
			nobodys: map[policy.Object]*object{}, silent: map[int]bool{}, sysctls: map[string]string{},
		}
	}
	k.spread(&d)
	who, other := k.ownersNow(&d)
	now := map[source][]object{}
	for i := range d.links {
		now[source{part: fromLink, n: i}] = k.linkObjects(i)
		put(&d.switches, i)
	}
	for i := range k.have.silent {
		put(&d.switches, i)
	}
	for i := range d.switches {
		now[source{part: fromSwitches, n: i}] = k.ownSwitches(i)
	}
	for i := range d.addrs {
		now[source{part: fromAddrs, n: i}] = k.addrObjects(i)
	}
	for t := range d.tables {
		now[fromTable(t)] = k.routeObjects(t, who)
	}
	for name := range d.netns {
		now[source{part: fromNetns, name: name}] = k.netnsObjects(name)
	}
	for path := range d.files {
		now[source{part: fromFile, name: path}] = k.fileObjects(path)
	}
	_ = d.rules.each(func(af uint8) error {
		now[source{part: fromRules, n: int(af)}] = k.ruleObjects(af, who)
		return nil
	})
	// What is gone first: a link that was made anew is the same object from another source.
	for s := range now {
		for _, o := range k.have.from[s] {
			k.remove(o)
		}
		delete(k.have.from, s)
	}
	for s, objects := range now {
		for i := range objects {
			k.have.from[s] = append(k.have.from[s], &objects[i])
			k.insert(&objects[i])
		}
	}
	for _, e := range d.ruleEvents {
		if e.family()&d.rules != 0 {
			continue // listed since
		}
		s := source{part: fromRules, n: int(familyNumber(e.Family))}
		if e.gone {
			k.have.from[s] = slices.DeleteFunc(k.have.from[s], func(o *object) bool {
				if o.Object != policy.Object(e.Rule) {
					return false
				}
				k.remove(o)
				return true
			})
			continue
		}
		o := &object{e.Rule, who.rule(e.Rule)}
		k.have.from[s] = append(k.have.from[s], o)
		k.insert(o)
	}
	if other {
		for _, o := range k.have.nobodys {
			if lane := who.object(o.Object); lane != "" {
				k.remove(o)
				o.lane = lane
				k.insert(o)
			}
		}
	}
}

func (k *Kernel) insert(o *object) {
	k.part(o.lane)[o.Object] = o.lane
	if o.lane == "" {
		k.have.nobodys[o.Object] = o
	}
}

func (k *Kernel) remove(o *object) {
	delete(k.part(o.lane), o.Object)
	delete(k.have.nobodys, o.Object)
}

// part is what a lane has, to be changed: a copy of what others have got.
func (k *Kernel) part(lane string) policy.State {
	h := &k.have
	if !h.fresh[lane] {
		now := policy.State{}
		if old := h.parts[lane]; old != nil {
			maps.Copy(now, old.State)
		}
		h.parts[lane], h.fresh[lane] = &policy.Part{State: now}, true
	}
	return h.parts[lane].State
}

// spread adds to d what is made of what is in it.
func (k *Kernel) spread(d *dirty) {
	if d.all {
		for i := range k.links {
			put(&d.links, i)
		}
		for i := range k.addrs {
			put(&d.addrs, i)
		}
		for t := range k.routes {
			put(&d.tables, t)
		}
		for name := range k.netns {
			put(&d.netns, name)
		}
		for path := range k.resolv {
			put(&d.files, path)
		}
		d.rules = bothFamilies
		k.have.inner = k.innerEnds()
		return
	}
	if len(d.links)+len(d.netns) == 0 {
		return
	}
	// A veth is made of both its ends.
	inner := k.have.inner
	if len(d.netns) > 0 || k.anyOurs(d.links) {
		inner = k.innerEnds()
	}
	for outer, end := range inner {
		if k.have.inner[outer] != end {
			put(&d.links, outer)
		}
	}
	for outer := range k.have.inner {
		if _, ok := inner[outer]; !ok {
			put(&d.links, outer)
		}
	}
	// A port's object has its bridge's name, addresses and routes that of their link.
	for i, l := range k.links {
		if d.links[l.master] {
			put(&d.links, i)
		}
	}
	for i := range d.links {
		put(&d.addrs, i)
		for _, ends := range []map[int]innerEnd{inner, k.have.inner} {
			if end, ok := ends[i]; ok {
				put(&d.netns, end.netns)
			}
		}
	}
	for t, routes := range k.routes {
		for _, r := range routes {
			if d.links[r.link] {
				put(&d.tables, t)
				break
			}
		}
	}
	k.have.inner = inner
}

// anyOurs tells whether one of some links is ours, or was.
func (k *Kernel) anyOurs(links map[int]bool) bool {
	for i := range links {
		if k.links[i].ours() || len(k.have.from[source{part: fromLink, n: i}]) > 0 {
			return true
		}
	}
	return false
}

// ownersNow returns whose what is, and whether that may be other than it was.
func (k *Kernel) ownersNow(d *dirty) (owners, bool) {
	if d.all || len(d.netns) > 0 || k.anyOurs(d.links) || k.anyOurs(d.addrs) {
		k.have.owners = k.findOwners()
		return k.have.owners, true
	}
	for t := range d.tables {
		k.have.owners.table(t, k.routes[t])
	}
	return k.have.owners, len(d.tables) > 0
}

// updateSysctls puts the switches of others' links that somebody asks for into the state, and takes others out.
func (k *Kernel) updateSysctls(keys []string) {
	asked := make(map[string]string, len(keys))
	for _, key := range keys {
		if link := k.links[k.indexes[policy.Sysctl{Key: key}.Link()]]; link.ours() {
			continue
		}
		if v, ok := k.Sysctl(key); ok {
			asked[key] = v
		}
	}
	if maps.Equal(asked, k.have.sysctls) {
		return
	}
	part := k.part("")
	for key, v := range k.have.sysctls {
		delete(part, policy.Sysctl{Key: key, Value: v})
	}
	for key, v := range asked {
		part[policy.Sysctl{Key: key, Value: v}] = ""
	}
	k.have.sysctls = asked
}

// ownSwitches are the switches of a link of ours, but of a port, by which no packets come in.
func (k *Kernel) ownSwitches(index int) (out []object) {
	delete(k.have.silent, index)
	l, ok := k.links[index]
	if !ok || !l.ours() || l.master != 0 {
		return nil
	}
	if !l.up || !l.running {
		k.have.silent[index] = true // see Sysctl
	}
	for _, key := range policy.OwnSwitches(l.name) {
		if v, ok := k.Sysctl(key); ok {
			out = append(out, object{policy.Sysctl{Key: key, Value: v}, l.lane()})
		}
	}
	return out
}

// snapshot is the state for others to keep.
func (k *Kernel) snapshot() policy.Parts {
	for lane := range k.have.fresh {
		if len(k.have.parts[lane].State) == 0 {
			delete(k.have.parts, lane)
		}
	}
	clear(k.have.fresh)
	return maps.Clone(k.have.parts)
}
