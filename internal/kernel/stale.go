package kernel

import (
	"maps"
	"sync"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

// parts names parts of the kernel's state.
type parts struct {
	everything bool

	links, addrs linkSet
	rules        families    // to be listed again
	ruleEvents   []ruleEvent // or changed as these say

	allRoutes families
	tables    map[tableKey]bool
	down      map[int]bool // links that were not up, and may have taken routes with them without an event
	addrGone  bool         // likewise an address

	netns     nameSet      // namespaces by name
	nsids     map[int]bool // and by identifier
	newNetns  bool         // one came that may be bound to a name
	files     nameSet      // lanes' files by path
	switches  map[int]bool // sysctls of these links
	allSwitch bool
}

// tableKey names a routing table.
type tableKey struct {
	family uint8 // AF_INET or AF_INET6
	table  uint32
}

func mainTable(af uint8) tableKey { return tableKey{af, policy.MainTable} }

// manyRuleEvents is when one list of all rules is cheaper than to follow every change.
const manyRuleEvents = 200

// rule notes that a rule came or went.
func (p *parts) rule(e ruleEvent) {
	if p.rules&e.family() != 0 {
		return
	}
	if p.ruleEvents = append(p.ruleEvents, e); len(p.ruleEvents) > manyRuleEvents {
		p.rules, p.ruleEvents = bothFamilies, nil
	}
}

// linkSet is a set of links, by index or by name.
type linkSet struct {
	all     bool
	indexes map[int]bool
	names   map[string]bool
}

// manyLinks is when one dump of all links is cheaper than a look at each.
const manyLinks = 32

func (s *linkSet) index(i int) { put(&s.indexes, i) }

func (s *linkSet) name(n string) { put(&s.names, n) }

func (s *linkSet) empty() bool { return !s.all && len(s.indexes)+len(s.names) == 0 }

func (s *linkSet) most() bool { return s.all || len(s.indexes)+len(s.names) > manyLinks }

// nameSet is a set of names.
type nameSet struct {
	all   bool
	names map[string]bool
}

func (s *nameSet) name(n string) {
	if n != "" {
		put(&s.names, n)
	}
}

func put[K comparable](set *map[K]bool, k K) {
	if *set == nil {
		*set = map[K]bool{}
	}
	(*set)[k] = true
}

func (p *parts) table(af uint8, n uint32) { put(&p.tables, tableKey{af, n}) }

func (p *parts) nsid(n int) { put(&p.nsids, n) }

// stale is the set of parts that changed since they were read.
type stale struct {
	mu sync.Mutex
	p  parts
}

func (s *stale) mark(f func(*parts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.p)
}

func (s *stale) all() {
	s.mark(func(p *parts) {
		*p = parts{
			everything: true,
			links:      linkSet{all: true}, addrs: linkSet{all: true}, rules: bothFamilies, allRoutes: bothFamilies,
			netns: nameSet{all: true}, files: nameSet{all: true}, allSwitch: true,
		}
	})
}

func (s *stale) take() parts {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.p
	s.p = parts{}
	return p
}

// mainTables returns the families whose main table changed since it was read.
func (s *stale) mainTables() (out families) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, af := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if s.p.tables[mainTable(af)] || s.p.allRoutes&familiesOf(af) != 0 {
			out |= familiesOf(af)
		}
	}
	return out
}

// isTable tells whether a table changed since it was read.
func (s *stale) isTable(k tableKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p.tables[k] || s.p.allRoutes&familiesOf(k.family) != 0 || len(s.p.down) > 0 || s.p.addrGone
}

// resolve returns the indexes of a set's links; names that no link has are left out.
func (s *linkSet) resolve(indexes map[string]int) map[int]bool {
	out := maps.Clone(s.indexes)
	for n := range s.names {
		if i, ok := indexes[n]; ok {
			put(&out, i)
		}
	}
	return out
}
