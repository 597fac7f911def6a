package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"uplane/internal/nsthread"
	"uplane/policy"
)

// netnsState is what was read of one named namespace.
type netnsState struct {
	inode uint64
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

// in calls f with a handle in the host's namespace or in a named one.
func (k *Kernel) in(name string, f func(*netlink.Handle) error) error {
	if name == "" {
		return f(k.host)
	}
	ns, err := openNetns(name)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.do(f)
}

func (k *Kernel) readNetns(p parts) error {
	if p.netnsList || p.allNetns {
		entries, err := os.ReadDir(policy.NetnsDir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("list namespaces: %w", err)
		}
		if err == nil && k.files != nil {
			k.files.add(policy.NetnsDir)
		}
		found := make(map[string]bool, len(entries))
		for _, e := range entries {
			found[e.Name()] = true
		}
		for name := range k.netns {
			if !found[name] {
				delete(k.netns, name)
			}
		}
		for name := range found {
			k.readOneNetns(name, p.allNetns)
		}
		return nil
	}
	for name, ns := range k.netns {
		if p.nsids[ns.nsid] {
			k.readOneNetns(name, true)
		}
	}
	return nil
}

// readOneNetns reads a namespace again when reread is set or it is another one
// than before. Others' namespaces are only looked into once, for their tag.
func (k *Kernel) readOneNetns(name string, reread bool) {
	ns, err := openNetns(name)
	if err != nil {
		// A name without a namespace (a crash, a missed unmount) is as foreign as it gets.
		k.netns[name] = &netnsState{nsid: -1}
		return
	}
	defer ns.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(ns), &st); err != nil {
		k.netns[name] = &netnsState{nsid: -1}
		return
	}
	if old, ok := k.netns[name]; ok && old.inode == st.Ino && (!reread || !old.ours) && old.nsid >= 0 {
		return
	}
	state := &netnsState{inode: st.Ino, nsid: -1}
	k.netns[name] = state
	if id, err := k.host.GetNetNsIdByFd(int(ns)); err == nil {
		state.nsid = id
	}
	if err := ns.do(func(h *netlink.Handle) error { return state.read(h, name) }); err != nil {
		k.log.Warn("read namespace", "netns", name, "error", err)
	}
}

func (s *netnsState) read(h *netlink.Handle, name string) error {
	links, err := dump("links", h.LinkList)
	if err != nil {
		return err
	}
	s.links = make(map[int]hostLink, len(links))
	for _, l := range links {
		hl := toHostLink(l)
		s.links[hl.index] = hl
		if hl.name == "lo" {
			s.ours, s.up = hl.alias == policy.AliasPrefix+name, hl.up
		}
	}
	if !s.ours {
		s.links = nil
		return nil
	}
	if s.addrs, err = listAddrs(h); err != nil {
		return err
	}
	s.route, err = listRoutes(h, 0)
	return err
}

// observeNetns adds our namespaces and what is ours in them: the veth's inner
// end, its addresses, and routes that we made. The rest is the programs' own.
func (k *Kernel) observeNetns(state policy.State, host *policy.Host) {
	for name, ns := range k.netns {
		if !ns.ours {
			host.Netns[name] = true
			continue
		}
		state.Add(policy.Netns{Name: name, Up: ns.up})
		inner := func(index int) (hostLink, bool) {
			l, ok := ns.links[index]
			outer, paired := k.links[l.peer]
			return l, ok && l.kind == "veth" && paired && outer.peer == l.index && outer.ours()
		}
		for _, a := range ns.addrs {
			if l, ok := inner(a.link); ok {
				state.Add(policy.Addr{Netns: name, Link: l.name, Prefix: a.prefix})
			}
		}
		for _, r := range ns.route {
			if r.protocol == policy.Protocol {
				state.Add(r.object(name, ns.links[r.link].name))
			}
		}
	}
}

func (k *Kernel) applyNetns(op policy.Op, n policy.Netns) error {
	k.stale.mark(func(p *parts) { p.netnsList, p.allNetns, p.links = true, true, true })
	switch op.Verb {
	case policy.Add:
		return addNetns(n.Name)
	case policy.Remove:
		return deleteNetns(n.Name)
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
func addNetns(name string) error {
	if err := prepareNetnsDir(); err != nil {
		return err
	}
	path := policy.NetnsPath(name)
	if err := createFile(path, policy.FileTag+name+"\n", 0o444); err != nil {
		return err
	}
	err := nsthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		for _, s := range policy.NetnsSysctls {
			// The kernel shows the switches of the thread's namespace.
			if err := os.WriteFile(procSys+s.Key, []byte(s.Value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
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

func deleteNetns(name string) error {
	path := policy.NetnsPath(name)
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
		if data, err := os.ReadFile(path); err == nil && string(data) == policy.FileTag+e.Name()+"\n" {
			os.Remove(path)
		}
	}
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
