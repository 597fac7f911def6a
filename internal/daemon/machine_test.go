package daemon

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"uplane/internal/config"
	"uplane/internal/state"
	"uplane/nm"
	"uplane/policy"
)

// machine is a kernel and its firewalls, as far as the loop sees them. It takes
// away what depends on a link, a namespace or a table with it, as the kernel does.
type machine struct {
	have     policy.State // no sysctl is in it
	sysctls  map[string]string
	links    map[string]policy.HostLink
	routes   []policy.HostRoute
	dirs     map[string]bool
	scaffold []string // tables that iptables made
	tracked  map[netip.Prefix]bool
	drops    map[string]bool // iptables commands whose FORWARD chain drops
	opened   []string        // firewall backends

	applied int
	ops     []policy.Op           // what was applied
	fail    func(policy.Op) error // nil: nothing fails
	fresh   map[string]bool

	// What can't be seen, and why.
	kernel, conntrack, firewall, doors, leftovers error
}

// errCrash ends the daemon in the middle of something.
var errCrash = errors.New("killed")

func newMachine() *machine {
	m := &machine{
		have: policy.State{}, sysctls: map[string]string{}, links: map[string]policy.HostLink{}, dirs: map[string]bool{},
		tracked: map[netip.Prefix]bool{}, drops: map[string]bool{},
	}
	for i, u := range []policy.Uplink{wifi(), wired()} {
		m.links[u.Interface] = policy.HostLink{Index: i + 2, MTU: 1500, Running: true, Addrs: u.Addresses}
		for _, name := range []string{"forwarding", "src_valid_mark"} {
			m.sysctls["net/ipv4/conf/"+u.Interface+"/"+name] = "0"
		}
		for _, r := range u.Routes {
			m.routes = append(m.routes, policy.HostRoute{Table: policy.MainTable, Dst: r.Dst, Via: r.Via, Dev: u.Interface, Metric: r.Metric, Protocol: policy.ProtoDHCP})
		}
	}
	return m
}

func (m *machine) Observe(keys []string) (policy.Parts, *policy.Host, error) {
	if m.kernel != nil {
		return nil, nil, m.kernel
	}
	have := policy.State{}
	for o, lane := range m.have {
		if !ofFirewall(o) {
			have[o] = lane
		}
	}
	host := &policy.Host{
		Links: maps.Clone(m.links), Routes: slices.Clone(m.routes), Netns: map[string]bool{}, Files: map[string]string{},
		Sysctls: map[string]string{}, IPv6: true,
	}
	for _, k := range keys {
		if v, ok := m.sysctl(k); ok {
			have.Add("", policy.Sysctl{Key: k, Value: v})
			host.Sysctls[k] = v
		}
	}
	for o, lane := range m.have {
		switch l := o.(type) {
		case policy.Bridge:
			m.addSwitches(have, lane, l.Name)
		case policy.Veth:
			if l.Bridge == "" {
				m.addSwitches(have, lane, l.Name)
			}
		}
	}
	return policy.NewSetup(have).Parts, host, nil
}

// addSwitches adds those of a lane's interface.
func (m *machine) addSwitches(have policy.State, lane, link string) {
	for _, key := range policy.OwnSwitches(link) {
		if v, ok := m.sysctl(key); ok {
			have.Add(lane, policy.Sysctl{Key: key, Value: v})
		}
	}
}

// ofFirewall tells whether an object is seen by the firewall.
func ofFirewall(o policy.Object) bool {
	return isFirewall(policy.Op{Object: o}) || isDoor(policy.Op{Object: o})
}

func (m *machine) Tracked(subnets []netip.Prefix) (map[netip.Prefix]bool, error) {
	return maps.Clone(m.tracked), m.conntrack
}

func (m *machine) Apply(op policy.Op) error {
	if m.fail != nil {
		if err := m.fail(op); err != nil {
			return err
		}
	}
	m.do(op)
	return nil
}

func (m *machine) Flush(flushes []policy.Conntrack) error {
	var errs []error
	for _, c := range flushes {
		errs = append(errs, m.Apply(policy.Op{Verb: policy.Flush, Object: c}))
	}
	return errors.Join(errs...)
}

func (m *machine) do(op policy.Op) {
	m.applied++
	m.ops = append(m.ops, op)
	switch o := op.Object.(type) {
	case policy.Conntrack, policy.Sockets:
		return
	case policy.Sysctl:
		m.sysctls[o.Key] = o.Value
		return
	case policy.Netns:
		m.dirs["/run/netns"] = true
	case policy.File:
		m.dirs["/etc/netns"], m.dirs[filepath.Dir(o.Path)] = true, true
	case policy.Chain:
		if op.Verb != policy.Remove && !slices.Contains(m.scaffold, o.Table) {
			m.scaffold = append(m.scaffold, o.Table)
		}
	}
	switch op.Verb {
	case policy.Remove:
		m.remove(op.Object)
		return
	case policy.Release:
		b := op.Object.(policy.Bridge)
		delete(m.have, b)
		link := policy.HostLink{MTU: b.MTU, Running: b.Up, Made: true, Bridge: true}
		for o := range m.have {
			if a, ok := o.(policy.Addr); ok && a.Netns == "" && a.Link == b.Name {
				delete(m.have, o)
				link.Addrs = append(link.Addrs, a.Prefix)
			}
		}
		m.links[b.Name] = link
		return
	}
	if op.Have != nil {
		m.remove(op.Have)
	}
	m.have[op.Object] = op.Lane
}

func (m *machine) remove(gone policy.Object) {
	delete(m.have, gone)
	var netns, link, table, chain string
	switch o := gone.(type) {
	case policy.Netns:
		netns = o.Name
	case policy.Veth:
		netns, link = o.Netns, o.Name
	case policy.Bridge:
		link = o.Name
	case policy.Table:
		table = policy.TableName
	case policy.Chain:
		chain = o.Table + " " + o.Name
	}
	for o := range m.have {
		switch x := o.(type) {
		case policy.Veth:
			if x.Netns == netns && netns != "" {
				m.remove(o)
			}
		case policy.Addr:
			if netns != "" && x.Netns == netns || link != "" && x.Netns == "" && x.Link == link {
				m.remove(o)
			}
		case policy.Route:
			if netns != "" && x.Netns == netns || link != "" && x.Netns == "" && x.Dev == link {
				m.remove(o)
			}
		case policy.Element:
			if table != "" {
				delete(m.have, o)
			}
		case policy.ChainRule:
			if x.Table+" "+x.Chain == chain {
				delete(m.have, o)
			}
		}
	}
	if link != "" {
		maps.DeleteFunc(m.sysctls, func(k, _ string) bool { return policy.Sysctl{Key: k}.Link() == link })
	}
}

func (m *machine) RemoveLinks(names []string) error {
	for _, name := range names {
		if m.links[name].Made {
			delete(m.links, name)
		}
	}
	for o := range m.have {
		switch x := o.(type) {
		case policy.Bridge:
			if !slices.Contains(names, x.Name) {
				continue
			}
		case policy.Veth:
			if !slices.Contains(names, x.Name) {
				continue
			}
		default:
			continue
		}
		if err := m.Apply(policy.Op{Verb: policy.Remove, Object: o, Lane: m.have[o]}); err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) Fresh(link string) bool { return m.fresh[link] }

// sysctl knows the switches of every link that there is.
func (m *machine) sysctl(key string) (string, bool) {
	if v, ok := m.sysctls[key]; ok {
		return v, true
	}
	link := policy.Sysctl{Key: key}.Link()
	_, there := m.links[link]
	for o := range m.have {
		switch x := o.(type) {
		case policy.Bridge:
			there = there || x.Name == link
		case policy.Veth:
			there = there || x.Name == link
		}
	}
	return "0", there
}

func (m *machine) MissingDirs(lane string) (out []string) {
	for _, d := range []string{"/run/netns", "/etc/netns", "/etc/netns/" + lane} {
		if !m.dirs[d] {
			out = append(out, d)
		}
	}
	return out
}

func (m *machine) RemoveDir(dir string) {
	for d := range m.dirs {
		if strings.HasPrefix(d, dir+"/") {
			return // not empty
		}
	}
	delete(m.dirs, dir)
}

func (m *machine) Invalidate() {}

func (m *machine) Glance([]string) ([]policy.HostRoute, bool) { return m.routes, len(m.fresh) > 0 }

// count returns how many objects there are whose lines have word.
func (m *machine) count(word string) (n int) {
	for o := range m.have {
		if strings.Contains(policy.Op{Object: o}.String(), word) {
			n++
		}
	}
	return n
}

// filter is one of the machine's firewall backends.
type filter struct {
	*machine
	name string // "nftables", or "iptables" and the variant
}

// open opens a backend as package firewall names them.
func (m *machine) open(mode string) (Firewall, error) {
	m.opened = append(m.opened, mode)
	switch mode {
	case "", "auto", "nftables":
		return filter{m, "nftables"}, nil
	case "iptables":
		return filter{m, "iptables (nf_tables)"}, nil
	}
	return nil, errors.New("no such firewall")
}

func (f filter) Name() string { return f.name }

// ours tells whether an object is this backend's.
func (f filter) ours(o policy.Object) bool {
	switch o.(type) {
	case policy.Table, policy.Element:
		return f.name == "nftables"
	case policy.Chain, policy.ChainRule:
		return f.name != "nftables"
	}
	return false
}

func (f filter) Observe() (policy.State, error) {
	if f.firewall != nil {
		return nil, f.firewall
	}
	out := policy.State{}
	for o := range f.have {
		if f.ours(o) {
			out[o] = ""
		}
	}
	return out, nil
}

// Apply is one transaction.
func (f filter) Apply(ops []policy.Op, want policy.State) error {
	for _, op := range ops {
		if !f.ours(op.Object) && !isDoor(op) {
			return errors.New("this is not for " + f.name + ": " + op.String())
		}
		if f.fail != nil {
			if err := f.fail(op); err != nil {
				return err
			}
		}
	}
	for _, op := range ops {
		f.do(op)
	}
	return nil
}

func (f filter) Doors() (map[string]bool, policy.State, error) {
	if f.doors != nil {
		return nil, nil, f.doors
	}
	doors := policy.State{}
	for o := range f.have {
		if _, ok := o.(policy.Door); ok {
			doors[o] = ""
		}
	}
	return maps.Clone(f.drops), doors, nil
}

func (f filter) Missing(ops []policy.Op) (out []string, err error) {
	for _, op := range ops {
		if c, ok := op.Object.(policy.Chain); ok && op.Verb != policy.Remove && !slices.Contains(f.scaffold, c.Table) {
			out = append(out, c.Table)
		}
	}
	return out, nil
}

func (f filter) Sweep(created []string) (left []string, err error) {
	if f.fail != nil { // a moment in which a daemon may die
		if err := f.fail(policy.Op{}); err != nil {
			return created, err
		}
	}
	used := map[string]bool{}
	for o := range f.have {
		if c, ok := o.(policy.Chain); ok {
			used[c.Table] = true
		}
	}
	f.scaffold = slices.DeleteFunc(f.scaffold, func(t string) bool { return slices.Contains(created, t) && !used[t] })
	return slices.DeleteFunc(slices.Clone(created), func(t string) bool { return !slices.Contains(f.scaffold, t) }), nil
}

func (f filter) RemoveLeftovers(context.Context) (removed []string, err error) {
	if f.leftovers != nil {
		return nil, f.leftovers
	}
	for o := range f.have {
		if _, door := o.(policy.Door); ofFirewall(o) && !door && !f.ours(o) {
			delete(f.have, o)
			removed = append(removed, policy.Op{Object: o}.String())
		}
	}
	return removed, nil
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func wifi() policy.Uplink {
	return policy.Uplink{
		Interface: "wlp6s0", Type: "wifi", Connection: "homewifi", UUID: "uuid", Phase: policy.PhaseActive,
		Addresses: []netip.Prefix{prefix("192.168.50.4/24")},
		Routes:    []policy.UplinkRoute{{Dst: prefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.50.1"), Metric: 600}},
		DNS:       []netip.Addr{netip.MustParseAddr("192.168.50.1")},
	}
}

func wired() policy.Uplink {
	return policy.Uplink{
		Interface: "enp7s0", Type: "ethernet", Connection: "wired", Phase: policy.PhaseActive,
		Addresses: []netip.Prefix{prefix("192.168.10.4/24")},
		Routes:    []policy.UplinkRoute{{Dst: prefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.10.1"), Metric: 100}},
		DNS:       []netip.Addr{netip.MustParseAddr("192.168.10.1")},
	}
}

// daemon is a loop on a machine, with its files in a folder that outlives it.
type daemon struct {
	*Loop
	t       testing.TB
	machine *machine
	top     string
	nm      nm.Snapshot
	changed int
	log     strings.Builder
}

func newDaemon(t testing.TB, m *machine, lanes ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, machine: m, top: folder(t), nm: nm.Snapshot{Uplinks: []policy.Uplink{wired(), wifi()}, Known: true, Running: true}}
	for _, dir := range []string{"lib", "run"} {
		if err := os.Mkdir(filepath.Join(d.top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range lanes {
		d.file(name, "uplink = \"wlp6s0\"\n")
	}
	d.restart()
	return d
}

// folder is one in memory, where there is such: hundreds of daemons write their files and wait for the disk.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "uplane-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// restart is a daemon's death and the next one's start, short of its first pass.
func (d *daemon) restart() {
	store := d.store()
	d.Loop = NewLoop(LoopOptions{
		Trigger: NewTrigger(), Log: slog.New(slog.NewTextHandler(&d.log, nil)),
		Dirs: config.Dirs{Etc: d.top}, Kernel: d.machine, Firewall: d.machine.open,
		NM: func() nm.Snapshot { return d.nm }, Grace: 2 * time.Second, Store: store, Changed: func([]Status) { d.changed++ },
	})
	d.readConfig()
}

// store reads what is on the disk.
func (d *daemon) store() *state.Store {
	d.t.Helper()
	store, err := state.Open(filepath.Join(d.top, "lib"), filepath.Join(d.top, "run"))
	if err != nil {
		d.t.Fatal(err)
	}
	return store
}

// file writes a lane's file; an empty text removes it.
func (d *daemon) file(lane, text string) {
	d.t.Helper()
	d.write(filepath.Join("lanes.d", lane+".toml"), text)
}

func (d *daemon) write(name, text string) {
	d.t.Helper()
	path := filepath.Join(d.top, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if text == "" {
		err = errors.Join(err, os.Remove(path))
	} else {
		err = errors.Join(err, os.WriteFile(path, []byte(text), 0o644))
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// settle makes passes until nothing is left to do.
func (d *daemon) settle() {
	d.t.Helper()
	for range 20 {
		before := d.machine.applied
		if d.pass(); d.machine.applied == before && d.failures == 0 {
			return
		}
	}
	d.t.Fatalf("the passes do not end; the last one would do %v, and it failed %d times", d.decided.Ops, d.failures)
}

func (d *daemon) requireState(lane string, want policy.LaneState, reason string) {
	d.t.Helper()
	st := d.statuses[lane]
	if st.State != want || !strings.Contains(st.Reason, reason) || (reason == "" && st.Reason != "") {
		d.t.Errorf("lane %s is %s (%s), not %s (%s)", lane, st.State, st.Reason, want, reason)
	}
}

// requireWrites has what was done since the machine had applied that many.
func (d *daemon) requireWrites(since, want int) {
	d.t.Helper()
	if n := d.machine.applied - since; n != want {
		d.t.Errorf("%d writes, not %d: %v", n, want, d.machine.ops[since:])
	}
}

// trace is all that a lane may leave on the machine and in the daemon's files.
func (d *daemon) trace() string {
	d.t.Helper()
	var out []string
	for o := range d.machine.have {
		line, _, _ := strings.Cut(policy.Op{Object: o}.String(), "\n")
		out = append(out, line)
	}
	for k, v := range d.machine.sysctls {
		out = append(out, k+"="+v)
	}
	out = append(out, slices.Collect(maps.Keys(d.machine.dirs))...)
	out = append(out, d.machine.scaffold...)
	disk := d.store()
	saved, undo := disk.Memory(), disk.Undo()
	out = append(out, slices.Concat(undo.Directories, undo.Tables, slices.Collect(maps.Keys(saved.Sysctls)), slices.Collect(maps.Keys(saved.Lanes)))...)
	for subnet := range saved.Draining {
		out = append(out, subnet.String())
	}
	for addr := range saved.Answers {
		out = append(out, addr.String())
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// ask returns every lane's status, by name, once the loop's goroutine has a moment for it.
func (d *daemon) ask(ctx context.Context) (out []Status, err error) {
	err = d.do(ctx, func() { out = d.list() })
	return out, err
}

// call makes a call while the loop runs.
func (d *daemon) call(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	for {
		select {
		case call := <-d.calls:
			call()
		case err := <-done:
			return err
		}
	}
}

// down is Down, made from outside.
func (d *daemon) down(lane string) {
	d.t.Helper()
	if err := d.call(func() error { _, err := d.Down(d.t.Context(), lane); return err }); err != nil {
		d.t.Fatal(err)
	}
}
