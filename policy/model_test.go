package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// model is a kernel that holds lanes: it refuses what the real one refuses and
// takes away what the real one takes away, so a plan in a wrong order fails.
type model struct {
	objects  map[key]Object // ours
	lanes    map[key]string // whose they are
	rules    []HostRule     // everybody's, in their order
	switches map[string]string
	links    map[string]bool // others': uplinks and whatever else there is
	shared   map[string]bool // of all links, those that a lane's veth does not belong into
	routes   map[key]bool    // others'
	forwards bool            // ip_forward
}

func newModel(h *Host) *model {
	m := &model{objects: map[key]Object{}, lanes: map[key]string{}, rules: kernelRules(), switches: map[string]string{}}
	m.host(h)
	return m
}

// host makes the links and routes of others those of h.
func (m *model) host(h *Host) {
	for name := range m.links {
		if _, stays := h.Links[name]; !stays {
			m.dropLink("", name)
			m.free(name)
		}
	}
	m.links, m.shared, m.routes = map[string]bool{}, map[string]bool{}, map[key]bool{}
	for name, l := range h.Links {
		m.links[name] = true
		if !l.Bridge || l.Master != "" {
			m.shared[name] = true
		}
		if l.Master != "" {
			m.shared[l.Master] = true
		}
	}
	for _, r := range h.Routes {
		m.routes[Route{Table: r.Table, Dst: r.Dst, Metric: r.Metric}.key()] = true
	}
}

// state is what there is, but for switches.
func (m *model) state() State {
	s := make(State, len(m.objects))
	for k, o := range m.objects {
		s[o] = m.lanes[k]
	}
	return s
}

// sorted is what there is in an order that is always the same.
func (m *model) sorted() []Object {
	all := slices.Collect(maps.Values(m.objects))
	sortObjects(all)
	return all
}

// route makes the host a router, or not.
func (m *model) route(on bool) {
	if on == m.forwards {
		return
	}
	m.forwards = on // which sets all interfaces' switches
	maps.DeleteFunc(m.switches, func(key, _ string) bool { return (Sysctl{Key: key}).isForwarding() })
}

// value is a switch's, and whether there is such a one.
func (m *model) value(key string) (string, bool) {
	if !m.hasLink("", (Sysctl{Key: key}).Link()) {
		return "", false
	}
	if v, ok := m.switches[key]; ok {
		return v, true
	}
	if m.forwards && (Sysctl{Key: key}).isForwarding() {
		return "1", true
	}
	return "0", true
}

func (m *model) hasLink(netns, name string) bool {
	if netns == "" {
		return m.links[name] || m.objects[linkKey("", name)] != nil
	}
	return m.inner(netns, name) != nil
}

// inner returns the veth whose inner end has this name.
func (m *model) inner(netns, name string) Object {
	for _, o := range m.objects {
		if v, ok := o.(Veth); ok && v.Netns == netns && v.Inner == name {
			return v
		}
	}
	return nil
}

// apply carries out one operation, or says why the kernel would not.
func (m *model) apply(op Op) error {
	k := op.Object.key()
	have := m.objects[k]
	if s, ok := op.Object.(Sysctl); ok {
		return m.set(op, s)
	}
	switch op.Verb {
	case Add:
		if have != nil {
			return fmt.Errorf("%s: exists: %v", op, have)
		}
	case Replace:
		if have == nil {
			return fmt.Errorf("%s: there is none", op)
		}
		if have != op.Have {
			return fmt.Errorf("%s: is %v, not %v", op, have, op.Have)
		}
		if !inPlaceInKernel(have, op.Object) {
			return fmt.Errorf("%s: can't be in place of %v", op, have)
		}
		if _, ok := have.(Table); ok {
			m.remove(have)
		}
	case Remove:
		if have != op.Object {
			return fmt.Errorf("%s: is %v, not %v", op, have, op.Object)
		}
		m.remove(have)
		return nil
	case Release:
		if _, ok := have.(Bridge); !ok || have != op.Object {
			return fmt.Errorf("%s: is %v, not %v", op, have, op.Object)
		}
		m.drop(func(o Object) bool { a, ok := o.(Addr); return o != have && !(ok && a.Netns == "" && a.Link == k.name) })
		m.links[k.name] = true
		return nil
	case Flush:
		if c, ok := op.Object.(Conntrack); !ok || !c.Subnet.IsValid() {
			return fmt.Errorf("%s: flushes nothing", op)
		}
		return nil
	case Destroy:
		if s, ok := op.Object.(Sockets); !ok || m.objects[netnsKey(s.Netns)] == nil {
			return fmt.Errorf("%s: no such namespace", op)
		}
		return nil
	}
	if err := m.accepts(op.Object); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	m.put(op.Lane, op.Object)
	return nil
}

// set is apply for a switch, which is there as soon as its link is.
func (m *model) set(op Op, s Sysctl) error {
	v, ok := m.value(s.Key)
	have, _ := op.Have.(Sysctl)
	switch {
	case !ok:
		return fmt.Errorf("%s: no link", op)
	case op.Verb == Remove:
		return fmt.Errorf("%s: a switch can't be removed", op)
	case op.Verb == Replace && have.Value != v:
		return fmt.Errorf("%s: is %s, not %s", op, v, have.Value)
	}
	m.switches[s.Key] = s.Value
	return nil
}

// put puts an object of ours where it belongs, whatever was there.
func (m *model) put(lane string, o Object) {
	if r, ok := o.(Rule); ok && m.objects[o.key()] == nil {
		m.rules = insertRule(m.rules, HostRule{Rule: r, Protocol: Protocol})
	}
	m.objects[o.key()], m.lanes[o.key()] = o, lane
}

func inPlaceInKernel(have, want Object) bool {
	switch w := want.(type) {
	case Veth:
		h, ok := have.(Veth)
		return ok && h.Netns == w.Netns && h.Inner == w.Inner
	case Addr, Rule:
		return false
	case Element, Door: // one transaction; one command after the other
		return true
	}
	return fmt.Sprintf("%T", have) == fmt.Sprintf("%T", want)
}

// accepts tells why o can't be made.
func (m *model) accepts(o Object) error {
	switch o := o.(type) {
	case Bridge:
		if m.links[o.Name] {
			return fmt.Errorf("a foreign link of that name exists")
		}
	case Veth:
		switch other := m.inner(o.Netns, o.Inner); {
		case m.links[o.Name]:
			return fmt.Errorf("a foreign link of that name exists")
		case m.objects[netnsKey(o.Netns)] == nil:
			return fmt.Errorf("no namespace")
		case o.Bridge != "" && !m.hasLink("", o.Bridge):
			return fmt.Errorf("no bridge")
		case m.shared[o.Bridge]:
			return fmt.Errorf("%s is not the lane's alone", o.Bridge)
		case other != nil && other.key() != o.key():
			return fmt.Errorf("the namespace has an %s", o.Inner)
		}
		if o.Bridge != "" && !m.links[o.Bridge] {
			if _, ok := m.objects[linkKey("", o.Bridge)].(Bridge); !ok {
				return fmt.Errorf("%s is no bridge", o.Bridge)
			}
		}
	case Addr:
		if !m.hasLink(o.Netns, o.Link) {
			return fmt.Errorf("no link")
		}
	case Element:
		if m.objects[Table{}.key()] == nil {
			return fmt.Errorf("no table")
		}
		if other := m.overlapping(o); other != nil {
			return fmt.Errorf("conflicts with %v", other)
		}
	case ChainRule:
		switch {
		case m.objects[Chain{Table: o.Table, Name: o.Chain}.key()] == nil:
			return fmt.Errorf("no chain")
		case o.N > 1 && m.objects[ChainRule{Table: o.Table, Chain: o.Chain, N: o.N - 1}.key()] == nil:
			return fmt.Errorf("no rule before it")
		}
	case Rule:
		if o.Action == Goto && o.Goto <= o.Priority {
			return fmt.Errorf("goes back")
		}
	case Route:
		switch {
		case m.routes[o.key()]:
			return fmt.Errorf("a foreign route is there")
		case o.Netns != "" && m.objects[netnsKey(o.Netns)] == nil:
			return fmt.Errorf("no namespace")
		case o.Type != Unicast:
		case !m.hasLink(o.Netns, o.Dev):
			return fmt.Errorf("no link")
		case o.Via.IsValid() && !o.OnLink && !m.reaches(o):
			return fmt.Errorf("nexthop has invalid gateway")
		}
	}
	return nil
}

// overlapping returns the element of an interval set that a new one can't be beside.
func (m *model) overlapping(e Element) Object {
	if !Sets[e.Set].Interval {
		return nil
	}
	for k, o := range m.objects {
		if x, ok := o.(Element); ok && k != e.key() && x.Set == e.Set && x.In == e.In && x.Out == e.Out && x.Net.Overlaps(e.Net) {
			return x
		}
	}
	return nil
}

// reaches tells whether an on-link prefix leads to r's gateway. The real kernel
// would look into the main table as well, on which a lane must not depend.
func (m *model) reaches(r Route) bool {
	for _, o := range m.objects {
		switch o := o.(type) {
		case Route:
			if o.Netns == r.Netns && o.Table == r.Table && o.Dev == r.Dev && !o.Via.IsValid() && o.Type == Unicast && o.Dst.Contains(r.Via) {
				return true
			}
		case Addr:
			if r.Netns != "" && o.Netns == r.Netns && o.Link == r.Dev && o.Prefix.Contains(r.Via) {
				return true
			}
		}
	}
	return false
}

// remove takes o away, and what the kernel takes away with it.
func (m *model) remove(o Object) {
	delete(m.objects, o.key())
	switch o := o.(type) {
	case Rule:
		m.rules = slices.DeleteFunc(slices.Clone(m.rules), func(r HostRule) bool { return r.Ours() && r.Rule == o })
	case Table:
		m.drop(func(o Object) bool { _, ok := o.(Element); return !ok })
	case Chain:
		m.drop(func(x Object) bool { r, ok := x.(ChainRule); return !ok || r.Table != o.Table || r.Chain != o.Name })
	case Netns:
		m.forgetNetns(o.Name)
	case Bridge:
		m.dropLink("", o.Name)
		m.free(o.Name)
	case Veth:
		m.dropLink("", o.Name)
		if o.Netns != "" {
			m.dropLink(o.Netns, o.Inner)
		}
	case Addr:
		for _, x := range m.objects {
			if a, ok := x.(Addr); ok && a.Netns == o.Netns && a.Link == o.Link {
				return
			}
		}
		m.dropRoutes(o.Netns, o.Link)
	}
}

// free takes all ports out of a bridge.
func (m *model) free(bridge string) {
	for k, x := range m.objects {
		if v, ok := x.(Veth); ok && v.Bridge == bridge {
			v.Bridge = ""
			m.objects[k] = v
		}
	}
}

// forgetNetns is what a namespace's loss of its name does; programs may still be in it.
func (m *model) forgetNetns(name string) {
	m.drop(func(o Object) bool { return inNetns(o) != name })
	for k, x := range m.objects {
		if v, ok := x.(Veth); ok && v.Netns == name {
			v.Netns, v.Inner, v.InnerUp = "", "", false
			m.objects[k] = v
		}
	}
}

func inNetns(o Object) string {
	switch o := o.(type) {
	case Addr:
		return o.Netns
	case Route:
		return o.Netns
	}
	return ""
}

// drop keeps only what keep says.
func (m *model) drop(keep func(Object) bool) {
	maps.DeleteFunc(m.objects, func(_ key, o Object) bool { return !keep(o) })
}

func (m *model) dropRoutes(netns, link string) {
	m.drop(func(o Object) bool { r, ok := o.(Route); return !ok || r.Netns != netns || r.Dev != link })
}

func (m *model) dropLink(netns, link string) {
	m.dropRoutes(netns, link)
	m.drop(func(o Object) bool {
		a, ok := o.(Addr)
		return !ok || a.Netns != netns || a.Link != link
	})
	if netns == "" {
		maps.DeleteFunc(m.switches, func(key, _ string) bool { return (Sysctl{Key: key}).Link() == link })
	}
}

// foreign says what of others' op would touch.
func (m *model) foreign(op Op) error {
	bad := func(why string) error { return fmt.Errorf("%s: %s is not ours", op, why) }
	switch o := op.Object.(type) {
	case Bridge:
		if m.links[o.Name] {
			return bad("the link")
		}
	case Veth:
		if m.links[o.Name] {
			return bad("the link")
		}
	case Addr:
		if o.Netns == "" && m.links[o.Link] {
			return bad("the link")
		}
	case Route:
		if o.Netns == "" && o.Table == MainTable || m.routes[o.key()] {
			return bad("the route")
		}
	case Chain:
		if !strings.HasPrefix(o.Name, ChainPrefix) {
			return bad("the chain")
		}
	case File:
		if !strings.HasPrefix(o.Content, FileTag) {
			return bad("the file")
		}
	}
	return nil
}

// defaults returns the ways out of a lane's table, less the floor.
func (m *model) defaults(table uint32) (out []Route) {
	for _, o := range m.objects {
		if r, ok := o.(Route); ok && r.Netns == "" && r.Table == table && r.Dst == default4 && r.Type == Unicast {
			out = append(out, r)
		}
	}
	return out
}
