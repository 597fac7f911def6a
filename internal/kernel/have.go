package kernel

import (
	"maps"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

// have is the state that was observed last, and where each of its objects comes from, so that a look
// costs what has changed since and not what there is: to put a thousand lanes' objects into a map takes tens of
// milliseconds.
type have struct {
	state policy.State
	from  map[source][]policy.Object
	// ours without a lane: perhaps it shows when the rest of the lane is there
	nobodys map[policy.Object]bool
	inner   map[int]innerEnd // as it was
	sysctls map[string]string
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
	all    bool
	links  map[int]bool
	addrs  map[int]bool
	tables map[tableKey]bool
	rules  families
	netns  map[string]bool
	files  map[string]bool

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
		k.have = have{state: policy.State{}, from: map[source][]policy.Object{}, nobodys: map[policy.Object]bool{}, sysctls: map[string]string{}}
	}
	k.spread(&d)
	var who owners
	if d.all || len(d.addrs)+len(d.tables)+len(d.netns)+len(d.ruleEvents) > 0 || d.rules != 0 {
		who = k.owners()
	}
	now := map[source][]object{}
	for i := range d.links {
		now[source{part: fromLink, n: i}] = k.linkObjects(i)
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
		for _, o := range objects {
			k.have.from[s] = append(k.have.from[s], o.Object)
			k.insert(o)
		}
	}
	for _, e := range d.ruleEvents {
		if e.family()&d.rules != 0 {
			continue // listed since
		}
		s := source{part: fromRules, n: int(familyNumber(e.Family))}
		if e.gone {
			k.remove(e.Rule)
			continue
		}
		k.have.from[s] = append(k.have.from[s], e.Rule)
		k.insert(object{e.Rule, who.rule(e.Rule)})
	}
	if who.subnets != nil {
		for o := range k.have.nobodys {
			if lane := who.object(o); lane != "" {
				k.insert(object{o, lane})
			}
		}
	}
}

func (k *Kernel) insert(o object) {
	k.have.state[o.Object] = o.lane
	if o.lane == "" {
		k.have.nobodys[o.Object] = true
	} else {
		delete(k.have.nobodys, o.Object)
	}
}

func (k *Kernel) remove(o policy.Object) {
	delete(k.have.state, o)
	delete(k.have.nobodys, o)
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
	inner := k.innerEnds()
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

// updateSysctls puts the switches that somebody asks for into the state, and takes others out.
func (k *Kernel) updateSysctls(keys []string) {
	asked := make(map[string]string, len(keys))
	for _, key := range keys {
		if v, ok := k.Sysctl(key); ok {
			asked[key] = v
		}
	}
	for key, v := range k.have.sysctls {
		if asked[key] != v {
			k.remove(policy.Sysctl{Key: key, Value: v})
		}
	}
	for key, v := range asked {
		s := policy.Sysctl{Key: key, Value: v}
		lane := ""
		if l := k.links[k.indexes[s.Link()]]; l.ours() {
			lane = l.lane()
		}
		if old, ok := k.have.sysctls[key]; !ok || old != v {
			k.have.state[s] = lane
		}
	}
	k.have.sysctls = asked
}

// snapshot is the state for others to keep and change.
func (k *Kernel) snapshot() policy.State { return maps.Clone(k.have.state) }
