package policy

import (
	"iter"
	"maps"
	"slices"
)

// Setup is what lanes are made of: lane by lane what is in the kernel and on disk, and as a whole
// what the packet filter has.
type Setup struct {
	Parts  Parts
	Filter State // [Table] and [Element]s, or [Chain]s and [ChainRule]s
}

// Parts is a [State] by lane: under a lane's name what is its alone, under "" what is of several,
// or nobody knows whose. A Part in it never changes, so what stays as it was is the same Part, and
// a comparison costs what has changed and not what there is.
type Parts map[string]*Part

// Part is what one lane has.
type Part struct {
	State
	kinds map[kind][]Object // made when first asked for
}

// NewSetup parts a state.
func NewSetup(s State) Setup {
	out := Setup{Parts{}, State{}}
	for o, lane := range s {
		if IsFilter(o) {
			out.Filter[o] = lane
			continue
		}
		if out.Parts[lane] == nil {
			out.Parts[lane] = &Part{State: State{}}
		}
		out.Parts[lane].State[o] = lane
	}
	return out
}

// IsFilter tells whether an object is in our part of the packet filter.
func IsFilter(o Object) bool {
	switch o.(type) {
	case Table, Element, Chain, ChainRule:
		return true
	}
	return false
}

// All is the setup as one state.
func (s Setup) All() State {
	out := maps.Clone(s.Filter)
	if out == nil {
		out = State{}
	}
	for _, p := range s.Parts {
		maps.Copy(out, p.State)
	}
	return out
}

// Has tells whether o is in s, equal in full.
func (s Setup) Has(o Object) bool {
	_, ok := s.laneOf(o)
	return ok
}

// laneOf returns the lane that an object in s is part of, and whether it is there.
func (s Setup) laneOf(o Object) (lane string, ok bool) {
	if IsFilter(o) {
		lane, ok = s.Filter[o]
		return lane, ok
	}
	for _, p := range s.Parts {
		if lane, ok = p.State[o]; ok {
			return lane, true
		}
	}
	return "", false
}

// String is the shell lines that build s from nothing, in order.
func (s Setup) String() string { return s.All().String() }

// hasOf tells whether o is in s as a lane's.
func (s Setup) hasOf(lane string, o Object) bool {
	if IsFilter(o) {
		return s.Filter.Has(o)
	}
	p := s.Parts[lane]
	return p != nil && p.Has(o)
}

// With returns parts that have a lane's objects besides.
func (p Parts) With(lane string, objects State) Parts {
	if len(objects) == 0 {
		return p
	}
	return p.edit(lane, func(s State) { maps.Copy(s, objects) })
}

// edit returns parts in which a lane's is another.
func (p Parts) edit(lane string, change func(State)) Parts {
	out := maps.Clone(p)
	if out == nil {
		out = Parts{}
	}
	s := State{}
	if old := p[lane]; old != nil {
		maps.Copy(s, old.State)
	}
	change(s)
	out[lane] = &Part{State: s}
	return out
}

// of is the part's objects of a kind, as their keys tell it.
func (p *Part) of(k kind) []Object {
	if p == nil {
		return nil
	}
	if p.kinds == nil {
		p.kinds = map[kind][]Object{}
		for o := range p.State {
			of := o.key().kind
			p.kinds[of] = append(p.kinds[of], o)
		}
	}
	return p.kinds[k]
}

// links are the lanes of the host's links, by name.
func (p Parts) links() map[string]string {
	out := map[string]string{}
	for o, lane := range p.each(kindBridge) {
		out[o.key().name] = lane
	}
	return out
}

// hasLink tells whether one of the part's links on the host has a name.
func (p *Part) hasLink(name string) bool {
	return slices.ContainsFunc(p.of(kindBridge), func(o Object) bool {
		switch o := o.(type) {
		case Bridge:
			return o.Name == name
		case Veth:
			return o.Name == name
		}
		return false
	})
}

// each goes through the objects of a kind, with their lanes.
func (p Parts) each(k kind) iter.Seq2[Object, string] {
	return func(yield func(Object, string) bool) {
		for lane, part := range p {
			for _, o := range part.of(k) {
				if !yield(o, lane) {
					return
				}
			}
		}
	}
}

// Routes goes through all routes, with their lanes.
func (p Parts) Routes() iter.Seq2[Route, string] {
	return func(yield func(Route, string) bool) {
		for o, lane := range p.each(kindRoute) {
			if !yield(o.(Route), lane) {
				return
			}
		}
	}
}

// narrow leaves out of two setups the lanes that are the same in both, and returns the rest as two
// states to be compared; nil, nil: there is none. Lanes that were found to be the same are told to equal.
func narrow(have, want Setup, equal func(lane string, have *Part)) (State, State) {
	differ := map[string]bool{}
	for lane, w := range want.Parts {
		switch h := have.Parts[lane]; {
		case h == w:
		case h != nil && len(w.State) == len(h.State) && len(minus(w.State, h.State)) == 0:
			equal(lane, h)
		default:
			differ[lane] = true
		}
	}
	for lane := range have.Parts {
		if want.Parts[lane] == nil {
			differ[lane] = true
		}
	}
	missing, extra := compare(have.Filter, want.Filter)
	everybody := false
	for _, o := range missing {
		differ[want.Filter[o]] = true
		everybody = everybody || isWhole(o)
	}
	var links map[string]string
	if len(extra) > 0 {
		links = have.Parts.links()
	}
	for _, o := range extra {
		if e, ok := o.(Element); ok {
			differ[links[e.In]], differ[links[e.Out]] = true, true
		}
		differ[have.Filter[o]] = true
		everybody = everybody || isWhole(o)
	}
	if len(differ) == 0 {
		return nil, nil
	}
	differ[""] = true
	h, w := maps.Clone(have.Filter), maps.Clone(want.Filter)
	for _, side := range []struct {
		parts Parts
		into  *State
	}{{have.Parts, &h}, {want.Parts, &w}} {
		if *side.into == nil {
			*side.into = State{}
		}
		for lane, p := range side.parts {
			if everybody || differ[lane] {
				maps.Copy(*side.into, p.State)
			}
		}
	}
	return h, w
}

// isWhole tells whether what an object does to a lane does not show by its name.
func isWhole(o Object) bool {
	switch o.(type) {
	case Table, Chain, ChainRule:
		return true
	}
	return false
}
