// Package kernel is the edge to the Linux kernel: it observes what lanes are
// made of as a [policy.State], everything else as a [policy.Host], and applies
// one [policy.Op] at a time. Firewall chains are package netfilter's.
package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// Kernel observes and changes the network namespace it was opened in. One
// goroutine at a time may call Observe and Apply.
//
// What it observed it keeps until an event says that this part changed, so
// that a pass costs one dump for every part that did, whatever the number of lanes.
type Kernel struct {
	log    *slog.Logger
	host   *netlink.Handle
	direct *direct

	stale  stale
	events *events // nil: not watched, so every part is always stale
	files  *notify // inotify on /run/netns, the lanes' files and the host's nsswitch.conf
	fresh  *freshness

	ipv6    bool
	links   map[int]hostLink // by index
	indexes map[string]int   // of links, by name
	addrs   []hostAddr
	routes  map[uint32][]route // by table
	rules   []rule
	netns   map[string]*netnsState
	resolv  map[string]resolvState // lanes' files, by path
	sysctls map[string]string

	hostSwitch string // the host's nsswitch.conf
}

// Open prepares to work in the calling thread's network namespace. Changes are noticed
// from then on: changed is called, from another goroutine, after each batch of events.
// A nil changed means that nobody follows; then every Observe reads everything.
func Open(log *slog.Logger, changed func()) (*Kernel, error) {
	k := &Kernel{log: log, fresh: newFreshness(), netns: map[string]*netnsState{}, sysctls: map[string]string{}}
	k.stale.all()
	removeUnboundNetns()
	_, err := os.Stat(procSys + "net/ipv6")
	k.ipv6 = err == nil
	if k.host, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER); err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	if k.direct, err = openDirect(); err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	if changed == nil {
		return k, nil
	}
	if k.events, err = watchEvents(&k.stale, k.fresh, changed); err != nil {
		return nil, err
	}
	if k.files, err = watchFiles(&k.stale, changed); err != nil {
		k.events.Close()
		return nil, err
	}
	return k, nil
}

// Close ends the watching and closes every socket. What was applied stays.
func (k *Kernel) Close() {
	if k.events != nil {
		k.events.Close()
		k.files.Close()
	}
	k.host.Close()
	k.direct.close()
}

// Invalidate makes the next Observe read everything again.
func (k *Kernel) Invalidate() { k.stale.all() }

// Fresh tells whether the kernel changed an address, a route or the link of
// interface name in the last moments, so that it may know more than NetworkManager has said.
func (k *Kernel) Fresh(name string) bool {
	index, ok := k.indexes[name]
	return ok && k.fresh.has(index)
}

// Observe returns what is ours and what else there is. The values of the
// sysctls named in keys are among the first; those that do not exist are left out.
func (k *Kernel) Observe(keys []string) (policy.State, *policy.Host, error) {
	if k.events == nil {
		k.stale.all()
	}
	parts := k.stale.take()
	if err := k.refresh(parts); err != nil {
		k.stale.put(parts)
		return nil, nil, err
	}
	state := make(policy.State)
	host := &policy.Host{Links: map[string]policy.HostLink{}, Netns: map[string]bool{}, Files: map[string]bool{}, IPv6: k.ipv6}
	k.observeLinks(state, host)
	k.observeAddrs(state, host)
	k.observeRoutes(state, host)
	k.observeRules(state, host)
	k.observeNetns(state, host)
	k.observeFiles(state, host)
	k.observeSysctls(state, keys)
	return state, host, nil
}

// refresh reads again the parts that are stale.
func (k *Kernel) refresh(p parts) error {
	if p.links {
		if err := k.readLinks(); err != nil {
			return err
		}
	}
	if p.addrs {
		if err := k.readAddrs(); err != nil {
			return err
		}
	}
	if err := k.readRoutes(p); err != nil {
		return err
	}
	if p.rules {
		if err := k.readRules(); err != nil {
			return err
		}
	}
	if err := k.readNetns(p); err != nil {
		return err
	}
	if p.files {
		k.readFiles()
	}
	if p.sysctls {
		clear(k.sysctls)
	}
	return nil
}

// parts names parts of the kernel's state.
type parts struct {
	links, addrs, allRoutes, rules, netnsList, allNetns, files, sysctls bool

	tables map[uint32]bool // routes of these tables
	nsids  map[int]bool    // namespaces with these identifiers
}

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
		*p = parts{links: true, addrs: true, allRoutes: true, rules: true, netnsList: true, allNetns: true, files: true, sysctls: true}
	})
}

func (s *stale) take() parts {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.p
	s.p = parts{}
	return p
}

// mainOnly tells whether the main table is to be read and links are not; then it counts as read.
func (s *stale) mainOnly() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.p.links || !s.p.allRoutes && !s.p.tables[policy.MainTable] {
		return false
	}
	delete(s.p.tables, policy.MainTable)
	return true
}

// put returns parts that could not be read.
func (s *stale) put(parts) { s.all() }

func (p *parts) table(n uint32) {
	if p.tables == nil {
		p.tables = map[uint32]bool{}
	}
	p.tables[n] = true
}

func (p *parts) nsid(n int) {
	if p.nsids == nil {
		p.nsids = map[int]bool{}
	}
	p.nsids[n] = true
}

var dumps atomic.Int64

// Dumps counts the lists that this process has asked the kernel for, which is what a look costs.
func Dumps() int64 { return dumps.Load() }

// dump calls list until the kernel's answer was not interrupted by a change:
// half of a table is not a state.
func dump[T any](what string, list func() ([]T, error)) ([]T, error) {
	const tries = 8
	var err error
	for range tries {
		dumps.Add(1)
		var out []T
		if out, err = list(); err == nil {
			return out, nil
		}
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return nil, fmt.Errorf("list %s: %w", what, err)
}
