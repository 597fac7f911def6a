package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// model is a kernel that holds lanes: it refuses what the real one refuses and
// takes away what the real one takes away, so a plan in a wrong order fails.
type model struct {
	objects map[key]Object
	links   map[string]bool // others': uplinks and whatever else there is
	shared  map[string]bool // of all links, those that a lane's veth does not belong into
	routes  map[key]bool    // others'
}

func newModel(h *Host) *model {
	m := &model{objects: map[key]Object{}}
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

func (m *model) clone() *model {
	return &model{maps.Clone(m.objects), m.links, m.shared, m.routes}
}

func (m *model) state() State {
	s := make(State, len(m.objects))
	for _, o := range m.objects {
		s.Add(o)
	}
	return s
}

// observe is the state, with all the switches that somebody asks for.
func (m *model) observe(want State) State {
	s := m.state()
	for o := range want {
		if y, ok := o.(Sysctl); ok && m.hasLink("", y.Link()) && m.objects[y.key()] == nil {
			s.Add(Sysctl{y.Key, "0"})
		}
	}
	return s
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
	if s, ok := op.Object.(Sysctl); ok && have == nil && m.hasLink("", s.Link()) && op.Verb == Replace {
		have = Sysctl{s.Key, "0"}
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
	case Remove:
		if have != op.Object {
			return fmt.Errorf("%s: is %v, not %v", op, have, op.Object)
		}
		if _, ok := have.(Sysctl); ok {
			return fmt.Errorf("%s: a sysctl can't be removed", op)
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
	}
	if err := m.accepts(op.Object); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	m.objects[k] = op.Object
	return nil
}

func inPlaceInKernel(have, want Object) bool {
	switch w := want.(type) {
	case Veth:
		h, ok := have.(Veth)
		return ok && h.Netns == w.Netns && h.Inner == w.Inner
	case Addr, Rule:
		return false
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
	case Sysctl:
		if !m.hasLink("", o.Link()) {
			return fmt.Errorf("no link")
		}
	case Route:
		switch {
		case m.routes[o.key()]:
			return fmt.Errorf("a foreign route is there")
		case o.Type != Unicast:
		case !m.hasLink(o.Netns, o.Dev):
			return fmt.Errorf("no link")
		case o.Via.IsValid() && !o.OnLink && !m.reaches(o):
			return fmt.Errorf("nexthop has invalid gateway")
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
		switch o := o.(type) {
		case Addr:
			return o.Netns != netns || o.Link != link
		case Sysctl:
			return netns != "" || o.Link() != link
		}
		return true
	})
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
	case Rule:
		if o.Priority < AllowPriority || o.Priority > MarkPriority {
			return bad("the rule")
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

// open says where a packet of a lane could pass another way than the lane's:
// for every veth there are the rules that drop what comes from or goes to it,
// and for every address in its namespace, of which at least one of subnets'
// has to be ready, the rule that leads to a table with a floor.
func (m *model) open(subnets map[string][]netip.Prefix) error {
	for _, o := range m.objects {
		v, ok := o.(Veth)
		if !ok {
			continue
		}
		outer := v.Bridge
		if outer == "" {
			outer = v.Name
		}
		c, _ := m.objects[Chain{Table: "filter", Name: ForwardChain}.key()].(Chain)
		for _, rule := range []string{"-i " + outer + " -j DROP", "-o " + outer + " -j DROP"} {
			if !c.Jumped || !slices.Contains(c.Lines(), rule) {
				return fmt.Errorf("veth %s without %q", v.Name, rule)
			}
		}
		if !slices.ContainsFunc(subnets[v.Lane], m.floored) {
			return fmt.Errorf("veth %s before the floor of any of %v", v.Name, subnets[v.Lane])
		}
		for _, o := range m.objects {
			if a, ok := o.(Addr); ok && a.Netns == v.Netns && !m.floored(a.Prefix.Masked()) {
				return fmt.Errorf("address %s in %s without floor", a.Prefix, a.Netns)
			}
		}
	}
	return nil
}

// floored tells whether packets from and to subnet meet a floor.
func (m *model) floored(subnet netip.Prefix) bool {
	for _, o := range m.objects {
		if r, ok := o.(Rule); ok && r.Priority == LanePriority && r.From == subnet {
			back := Rule{Priority: LanePriority, To: subnet, Table: r.Table}
			floor := Route{Table: r.Table, Dst: default4, Metric: FloorMetric, Type: Unreachable}
			if m.objects[back.key()] == Object(back) && m.objects[floor.key()] == Object(floor) {
				return true
			}
		}
	}
	return false
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
