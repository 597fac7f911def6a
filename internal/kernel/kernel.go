// Package kernel is the edge to the Linux kernel: it observes what lanes are
// made of as a [policy.State], everything else as a [policy.Host], and applies
// one [policy.Op] at a time. Firewall chains are package netfilter's.
package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
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
	links   map[int]hostLink       // by index
	indexes map[string]int         // of links, by name
	addrs   map[int][]netip.Prefix // by the link's index
	routes  map[tableKey][]route
	rules   map[uint8][]policy.HostRule // by family

	allRules []policy.HostRule // as Observe gives them; nil when they changed
	netns    map[string]*netnsState
	resolv   map[string]resolvState       // lanes' files, by path
	sysctls  map[string]map[string]string // by link, then key

	dirty dirty
	have  have

	connections *direct // to connection tracking; nil until it is asked
	switches    switches
	inner       map[string]*netlink.Handle // in lanes' namespaces, between two looks

	hostSwitch string // the host's nsswitch.conf
}

// Open prepares to work in the calling thread's network namespace. Changes are noticed
// from then on: changed is called, from another goroutine, after each batch of events.
// A nil changed means that nobody follows; then every Observe reads everything.
func Open(log *slog.Logger, changed func()) (*Kernel, error) {
	k := &Kernel{
		log: log, fresh: newFreshness(),
		links: map[int]hostLink{}, indexes: map[string]int{}, addrs: map[int][]netip.Prefix{}, routes: map[tableKey][]route{},
		rules: map[uint8][]policy.HostRule{}, netns: map[string]*netnsState{}, resolv: map[string]resolvState{},
		sysctls: map[string]map[string]string{}, switches: openSwitches(), inner: map[string]*netlink.Handle{},
	}
	k.stale.all()
	removeUnboundNetns()
	k.ipv6 = k.switches.ipv6 >= 0
	var err error
	if k.host, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	if k.direct, err = openDirect(unix.NETLINK_ROUTE); err != nil {
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
	k.leave()
	k.host.Close()
	k.direct.close()
	k.switches.close()
	if k.connections != nil {
		k.connections.close()
	}
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
// sysctls named in keys, of others' links, are among both; those that do not exist are left out.
func (k *Kernel) Observe(keys []string) (policy.Parts, *policy.Host, error) {
	k.leave()
	if k.events == nil {
		k.stale.all()
	} else {
		k.events.catchUp()
	}
	parts := k.stale.take()
	if err := k.refresh(parts); err != nil {
		k.stale.all()
		return nil, nil, err
	}
	k.update()
	k.forgetSilent(keys)
	k.updateSysctls(keys)
	return k.snapshot(), k.observeHost(), nil
}

// observeHost returns all that is not ours.
func (k *Kernel) observeHost() *policy.Host {
	host := &policy.Host{
		Links: map[string]policy.HostLink{}, Netns: map[string]bool{}, Files: map[string]string{},
		Rules: k.hostRules(), Switch: k.hostSwitch, Sysctls: maps.Clone(k.have.sysctls), IPv6: k.ipv6,
	}
	for index, l := range k.links {
		if !l.ours() {
			host.Links[l.name] = k.hostLink(index)
		}
	}
	for _, routes := range k.routes {
		for _, r := range routes {
			if dev := k.links[r.link]; r.protocol != policy.Protocol && !dev.ours() { // else the kernel's own of our links
				host.Routes = append(host.Routes, r.host(dev.name))
			}
		}
	}
	for name, ns := range k.netns {
		if !ns.ours {
			host.Netns[name] = true
		}
	}
	for path, f := range k.resolv {
		if !f.ours {
			host.Files[path] = f.content
		}
	}
	k.observeSysctls(host)
	return host
}

// refresh reads again the parts that are stale.
func (k *Kernel) refresh(p parts) error {
	k.dirty.all = k.dirty.all || p.everything
	k.forgetSysctls(p)
	if err := k.readLinks(p.links); err != nil {
		return err
	}
	k.forgetSysctls(p) // by the names that links have now
	if err := k.readAddrs(p.addrs); err != nil {
		return err
	}
	if err := k.readRoutes(p); err != nil {
		return err
	}
	if err := k.readRules(p); err != nil {
		return err
	}
	if err := k.readNetns(p); err != nil {
		return err
	}
	k.readFiles(p.files)
	return nil
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
