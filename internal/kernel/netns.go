package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"uplane/internal/nsthread"
	"uplane/policy"
)

// netnsState is what was read of one named namespace.
type netnsState struct {
	nsid  int // as events name it; -1: none yet
	ours  bool
	up    bool             // lo is
	links map[int]hostLink // by index
	addrs []hostAddr
	route []route
}

// openedNetns is an open file of a namespace.
type openedNetns int

func openNetns(name string) (openedNetns, error) {
	path := policy.NetnsPath(name)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open namespace", Path: path, Err: err}
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		unix.Close(fd)
		return -1, &os.PathError{Op: "open namespace", Path: path, Err: errNotNetns}
	}
	return openedNetns(fd), nil
}

var errNotNetns = errors.New("it is a plain file, no namespace is bound there")

func (n openedNetns) Close() { unix.Close(int(n)) }

func (n openedNetns) do(f func(*netlink.Handle) error) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(n), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	defer h.Close()
	return f(h)
}

// in calls f with a handle in the host's namespace or in a lane's.
func (k *Kernel) in(name string, f func(*netlink.Handle) error) error {
	if name == "" {
		return f(k.host)
	}
	if h := k.inner[name]; h != nil {
		return f(h)
	}
	ns, err := openNetns(name)
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(netns.NsHandle(ns), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	if err := requireOurs(h, name); err != nil {
		h.Close()
		return err
	}
	if len(k.inner) < maxInner {
		k.inner[name] = h
	} else {
		defer h.Close()
	}
	return f(h)
}

// maxInner is how many lanes' namespaces stay open from one operation to the next: to enter one takes as long as
// three operations in it.
const maxInner = 200

// leave closes the namespaces that operations have opened, or the one of a name.
func (k *Kernel) leave(names ...string) {
	if names == nil {
		names = slices.Collect(maps.Keys(k.inner))
	}
	for _, name := range names {
		if h := k.inner[name]; h != nil {
			h.Close()
			delete(k.inner, name)
		}
	}
}

// requireOurs returns an error unless the namespace that h is in carries our tag for a lane.
func requireOurs(h *netlink.Handle, name string) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	if lo.Attrs().Alias != policy.AliasPrefix+name {
		return fmt.Errorf("namespace %s is %w", name, errNotOurs)
	}
	return nil
}

func (k *Kernel) readNetns(p parts) error {
	if k.files != nil && !k.files.watches(policy.NetnsDir) && (p.newNetns || len(p.netns.names) > 0) {
		p.netns.all = true // the folder came just now, and who knows what with it
	}
	if p.netns.all {
		if k.files != nil {
			k.files.add(policy.NetnsDir)
		}
		entries, err := os.ReadDir(policy.NetnsDir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("list namespaces: %w", err)
		}
		found := make(map[string]bool, len(entries))
		for _, e := range entries {
			found[e.Name()] = true
		}
		for name := range k.netns {
			if !found[name] {
				delete(k.netns, name)
				put(&k.dirty.netns, name)
			}
		}
		for name := range found {
			k.readOneNetns(name)
		}
		return nil
	}
	for name, ns := range k.netns {
		// What is bound to a name that had no namespace yet made no event, only the namespace did.
		if p.nsids[ns.nsid] || p.newNetns && ns.nsid < 0 {
			p.netns.name(name)
		}
	}
	for name := range p.netns.names {
		k.readOneNetns(name)
	}
	return nil
}

// readOneNetns reads a namespace again; others' only for their tag.
func (k *Kernel) readOneNetns(name string) {
	put(&k.dirty.netns, name)
	ns, err := openNetns(name)
	if errors.Is(err, os.ErrNotExist) {
		delete(k.netns, name)
		return
	}
	if err != nil {
		// A name without a namespace (a crash, a missed unmount) is as foreign as it gets.
		k.netns[name] = &netnsState{nsid: -1}
		return
	}
	defer ns.Close()
	old, state := k.netns[name], &netnsState{nsid: -1}
	k.netns[name] = state
	if id, err := k.host.GetNetNsIdByFd(int(ns)); err == nil {
		state.nsid = id
	}
	if err := ns.do(func(h *netlink.Handle) error { return state.read(h, name) }); err != nil {
		k.log.Warn("read namespace", "netns", name, "error", err)
		if old != nil { // better what was than half of what is
			k.netns[name] = old
		}
		k.stale.mark(func(p *parts) { p.netns.name(name) })
	}
}

func (s *netnsState) read(h *netlink.Handle, name string) error {
	lo, err := h.LinkByName("lo")
	if err != nil || lo.Attrs().Alias != policy.AliasPrefix+name {
		return err
	}
	s.ours, s.up = true, lo.Attrs().RawFlags&unix.IFF_UP != 0
	links, err := dump("links", h.LinkList)
	if err != nil {
		return err
	}
	s.links = make(map[int]hostLink, len(links))
	for _, l := range links {
		hl := toHostLink(l)
		s.links[hl.index] = hl
	}
	if s.addrs, err = listAddrs(h); err != nil {
		return err
	}
	s.route, err = listRoutes(h, 0)
	return err
}

// netnsObjects returns a namespace of ours and what is ours in it: the veth's inner
// end's addresses, and routes that we made. The rest is the programs' own.
func (k *Kernel) netnsObjects(name string) []object {
	ns, ok := k.netns[name]
	if !ok || !ns.ours {
		return nil
	}
	out := []object{{policy.Netns{Name: name, Up: ns.up}, name}}
	for _, a := range ns.addrs {
		l, ok := ns.links[a.link]
		if outer, paired := k.links[l.peer]; ok && l.kind == "veth" && paired && outer.peer == l.index && outer.ours() {
			out = append(out, object{policy.Addr{Netns: name, Link: l.name, Prefix: a.prefix}, name})
		}
	}
	for _, r := range ns.route {
		if r.protocol == policy.Protocol {
			out = append(out, object{r.object(name, ns.links[r.link].name), name})
		}
	}
	return out
}

func (k *Kernel) applyNetns(op policy.Op, n policy.Netns) error {
	k.stale.mark(func(p *parts) { p.netns.name(n.Name) })
	k.leave(n.Name)
	switch op.Verb {
	case policy.Add:
		return k.addNetns(n.Name)
	case policy.Remove:
		if veth := k.outerEnd(n.Name); veth != "" {
			k.touch(veth) // goes with it
		}
		return k.deleteNetns(n.Name)
	}
	return k.in(n.Name, setLoUp)
}

func setLoUp(h *netlink.Handle) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	return h.LinkSetUp(lo)
}

// addNetns makes a namespace and binds it to name. It carries its tag before it has
// the name, and so does the file below it: what a crash leaves is known as ours.
func (k *Kernel) addNetns(name string) error {
	if err := prepareNetnsDir(); err != nil {
		return err
	}
	values := slices.Clone(policy.NetnsSysctls)
	for _, key := range policy.NetnsInherited {
		v, err := k.switches.read(key)
		if err != nil {
			continue // a kernel older than the switch
		}
		values = append(values, policy.Sysctl{Key: key, Value: v})
	}
	path := policy.NetnsPath(name)
	if err := createFile(path, policy.FileTag+name+"\n", 0o444); err != nil {
		return err
	}
	err := nsthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		own := openSwitches()
		defer own.close()
		for _, s := range values {
			if err := own.write(s.Key, s.Value); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := h.LinkSetAlias(lo, policy.AliasPrefix+name); err != nil {
			return fmt.Errorf("tag lo: %w", err)
		}
		if err := h.LinkSetUp(lo); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, "")
	})
	if err != nil {
		os.Remove(path)
	}
	return err
}

// prepareNetnsDir makes /run/netns a shared mount, as "ip netns add" does:
// without that, mount namespaces made before would keep deleted lanes alive.
func prepareNetnsDir() error {
	if err := os.MkdirAll(policy.NetnsDir, 0o755); err != nil {
		return err
	}
	err := unix.Mount("", policy.NetnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if err == unix.EINVAL { // not a mount point yet
		if err := unix.Mount(policy.NetnsDir, policy.NetnsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s: %w", policy.NetnsDir, err)
		}
		err = unix.Mount("", policy.NetnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	}
	if err != nil {
		return fmt.Errorf("share %s: %w", policy.NetnsDir, err)
	}
	return nil
}

// outerEnd returns the host's end of the veth into a namespace of ours; empty when there is none.
func (k *Kernel) outerEnd(netns string) string {
	for _, l := range k.innerLinks(netns) {
		return k.links[l.peer].name
	}
	return ""
}

// deleteNetns takes the name from a namespace of ours, which ends when no program is in it any more.
func (k *Kernel) deleteNetns(name string) error {
	path := policy.NetnsPath(name)
	err := k.in(name, func(*netlink.Handle) error { return nil })
	k.leave(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case errors.Is(err, errNotNetns) && isOurPlaceholder(name):
		// Made by us, and nothing bound to it.
	case err != nil:
		return err
	}
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// removeUnboundNetns takes away the files that a crash left before a namespace
// was bound to them, or after it was unbound.
func removeUnboundNetns() {
	entries, _ := os.ReadDir(policy.NetnsDir)
	for _, e := range entries {
		path := policy.NetnsPath(e.Name())
		if info, err := e.Info(); err != nil || !info.Mode().IsRegular() || info.Size() == 0 || info.Size() > maxResolvConf {
			continue
		}
		ns, err := openNetns(e.Name())
		if err == nil {
			ns.Close()
			continue
		}
		if isOurPlaceholder(e.Name()) {
			os.Remove(path)
		}
	}
}

// isOurPlaceholder tells whether a plain file is one that addNetns made to bind a namespace to.
func isOurPlaceholder(name string) bool {
	data, err := os.ReadFile(policy.NetnsPath(name))
	return err == nil && string(data) == policy.FileTag+name+"\n"
}

// removeNetnsDir takes away what prepareNetnsDir made, when nothing is left in it.
func removeNetnsDir() {
	if entries, err := os.ReadDir(policy.NetnsDir); err != nil || len(entries) > 0 {
		return
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err == nil && strings.Contains(string(data), " "+policy.NetnsDir+" ") {
		unix.Unmount(policy.NetnsDir, unix.MNT_DETACH)
	}
	os.Remove(policy.NetnsDir)
}
