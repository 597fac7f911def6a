package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"uplane/internal/config"
	"uplane/internal/state"
	"uplane/policy"
)

// machine is a kernel and its firewall, as far as the loop sees them. It takes
// away what depends on a link or a namespace with it, as the kernel does.
type machine struct {
	have     policy.State // no sysctl is in it
	sysctls  map[string]string
	links    map[string]policy.HostLink
	routes   []policy.HostRoute
	dirs     map[string]bool
	scaffold []string // tables that iptables made
	created  []string // and those of which that is known

	applied int
	fail    func(policy.Op) error // nil: nothing fails
	observe error
	fresh   map[string]bool
}

// errCrash ends the daemon in the middle of something.
var errCrash = errors.New("killed")

func newMachine() *machine {
	m := &machine{
		have:    policy.State{},
		sysctls: map[string]string{},
		links:   map[string]policy.HostLink{},
		dirs:    map[string]bool{},
	}
	for i, u := range []policy.Uplink{wifi(), wired()} {
		m.links[u.Interface] = policy.HostLink{Index: i + 2, MTU: 1500, Running: true, Addrs: u.Addresses}
		m.sysctls["net/ipv4/conf/"+u.Interface+"/forwarding"] = "0"
		for _, r := range u.Routes {
			m.routes = append(m.routes, policy.HostRoute{Table: policy.MainTable, Dst: r.Dst, Via: r.Via, Dev: u.Interface, Metric: r.Metric, Protocol: policy.ProtoDHCP})
		}
	}
	return m
}

func (m *machine) Observe(keys []string) (policy.State, *policy.Host, error) {
	if m.observe != nil {
		return nil, nil, m.observe
	}
	have := policy.State{}
	for o := range m.have {
		if _, ok := o.(policy.Chain); !ok {
			have.Add(o)
		}
	}
	for _, k := range keys {
		if v, ok := m.Sysctl(k); ok {
			have.Add(policy.Sysctl{Key: k, Value: v})
		}
	}
	return have, &policy.Host{Links: maps.Clone(m.links), Routes: m.routes}, nil
}

func (m *machine) Apply(op policy.Op) error {
	if m.fail != nil {
		if err := m.fail(op); err != nil {
			return err
		}
	}
	m.applied++
	switch o := op.Object.(type) {
	case policy.Conntrack:
		return nil
	case policy.Sysctl:
		m.sysctls[o.Key] = o.Value
		return nil
	case policy.Netns:
		m.dirs["/run/netns"] = true
	case policy.File:
		m.dirs["/etc/netns"], m.dirs[filepath.Dir(o.Path)] = true, true
	}
	switch op.Verb {
	case policy.Remove:
		m.remove(op.Object)
		return nil
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
		return nil
	}
	if op.Have != nil {
		delete(m.have, op.Have)
	}
	m.have.Add(op.Object)
	return nil
}

func (m *machine) remove(gone policy.Object) {
	delete(m.have, gone)
	var netns, link string
	switch o := gone.(type) {
	case policy.Netns:
		netns = o.Name
	case policy.Veth:
		netns, link = o.Netns, o.Name
	case policy.Bridge:
		link = o.Name
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
		}
	}
	if link != "" {
		maps.DeleteFunc(m.sysctls, func(k, _ string) bool { return policy.Sysctl{Key: k}.Link() == link })
	}
}

func (m *machine) RemoveLinks(names []string) error {
	for o := range m.have {
		switch x := o.(type) {
		case policy.Bridge:
			if slices.Contains(names, x.Name) {
				if err := m.Apply(policy.Op{Verb: policy.Remove, Object: o}); err != nil {
					return err
				}
			}
		case policy.Veth:
			if slices.Contains(names, x.Name) {
				if err := m.Apply(policy.Op{Verb: policy.Remove, Object: o}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (m *machine) Fresh(link string) bool { return m.fresh[link] }

// Sysctl knows the switches of every link that there is.
func (m *machine) Sysctl(key string) (string, bool) {
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

func (m *machine) Glance() ([]policy.HostRoute, bool) { return m.routes, len(m.fresh) > 0 }

// firewall is the machine's other half.
type firewall struct{ *machine }

func (f firewall) Observe() ([]policy.Chain, error) {
	var out []policy.Chain
	for o := range f.have {
		if c, ok := o.(policy.Chain); ok {
			out = append(out, c)
		}
	}
	return out, nil
}

func (f firewall) Apply(want, gone []policy.Chain) error {
	change := func(op policy.Op) error {
		for o := range f.have {
			if c, ok := o.(policy.Chain); ok && c.Table == op.Object.(policy.Chain).Table && c.Name == op.Object.(policy.Chain).Name {
				op.Have = o
			}
		}
		return f.machine.Apply(op)
	}
	for _, c := range want {
		if !slices.Contains(f.scaffold, c.Table) {
			f.scaffold = append(f.scaffold, c.Table)
		}
		if err := change(policy.Op{Verb: policy.Add, Object: c}); err != nil {
			return err // and what was made is not known
		}
		if !slices.Contains(f.created, c.Table) {
			f.created = append(f.created, c.Table)
		}
	}
	for _, c := range gone {
		if err := change(policy.Op{Verb: policy.Remove, Object: c}); err != nil {
			return err
		}
	}
	used := func(table string) bool {
		for o := range f.have {
			if c, ok := o.(policy.Chain); ok && c.Table == table {
				return true
			}
		}
		return false
	}
	if len(gone) > 0 || len(want) == 0 {
		if f.fail != nil { // a moment in which a daemon may die
			if err := f.fail(policy.Op{}); err != nil {
				return err
			}
		}
		f.scaffold = slices.DeleteFunc(f.scaffold, func(t string) bool { return slices.Contains(f.created, t) && !used(t) })
		f.created = slices.DeleteFunc(f.created, func(t string) bool { return !slices.Contains(f.scaffold, t) })
	}
	return nil
}

func (f firewall) Created() []string { return slices.Clone(f.created) }

func (f firewall) Missing() (out []string, err error) {
	for _, t := range []string{"filter", "mangle", "nat"} {
		if !slices.Contains(f.scaffold, t) {
			out = append(out, t)
		}
	}
	return out, nil
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
	uplinks Uplinks
	changed int
}

func newDaemon(t testing.TB, m *machine, lanes ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, machine: m, top: t.TempDir(), uplinks: Uplinks{All: []policy.Uplink{wired(), wifi()}, Known: true, Running: true}}
	for _, name := range lanes {
		d.file(name, "uplink = \"wlp6s0\"\n")
	}
	d.restart()
	return d
}

// restart is a daemon's death and the next one's start, short of its first pass.
func (d *daemon) restart() {
	d.t.Helper()
	states, err := state.OpenState(filepath.Join(d.top, "lib"))
	if err != nil {
		d.t.Fatal(err)
	}
	runs, err := state.OpenRun(filepath.Join(d.top, "run"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.machine.created = slices.Clone(runs.Get().Tables)
	d.Loop = New(Options{
		Trigger: NewTrigger(), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Dirs: config.Dirs{Etc: d.top}, Kernel: d.machine, Firewall: firewall{d.machine},
		Uplinks: func() Uplinks { return d.uplinks }, States: states, Runs: runs, Changed: func([]Status) { d.changed++ },
	})
	d.readConfig()
}

// file writes a lane's file; an empty text removes it.
func (d *daemon) file(lane, text string) {
	d.t.Helper()
	path := filepath.Join(d.top, "lanes.d", lane+".toml")
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
	d.t.Fatal("the passes do not end")
}

func (d *daemon) requireState(lane string, want policy.LaneState, reason string) {
	d.t.Helper()
	st := d.statuses[lane]
	if st.State != want || !strings.Contains(st.Reason, reason) || (reason == "" && st.Reason != "") {
		d.t.Errorf("lane %s is %s (%s), not %s (%s)", lane, st.State, st.Reason, want, reason)
	}
}

// trace is all that a lane may leave on the machine and in the daemon's files.
func (d *daemon) trace() string {
	var out []string
	for o := range d.machine.have {
		out = append(out, policy.Op{Object: o}.String())
	}
	for k, v := range d.machine.sysctls {
		out = append(out, k+"="+v)
	}
	out = append(out, slices.Collect(maps.Keys(d.machine.dirs))...)
	out = append(out, d.machine.scaffold...)
	run, kept := d.Runs.Get(), d.States.Get()
	out = append(out, slices.Concat(run.Directories, run.Tables, slices.Collect(maps.Keys(run.Sysctl)), slices.Collect(maps.Keys(run.Lanes)), slices.Collect(maps.Keys(kept.Lanes)))...)
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// ask returns every lane's status, by name, once the loop's goroutine has a moment for it.
func (d *daemon) ask(ctx context.Context) (out []Status, err error) {
	err = d.do(ctx, func() { out = d.list() })
	return out, err
}
