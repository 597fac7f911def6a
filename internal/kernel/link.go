package kernel

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// hostLink is a link of the host's namespace.
type hostLink struct {
	index, peer, master, mtu int
	name, kind, alias        string
	group                    uint32
	up, running              bool
}

// ours tells whether the link carries our tag: the alias, or one of our groups
// when a crash came before the alias.
func (l hostLink) ours() bool {
	return strings.HasPrefix(l.alias, policy.AliasPrefix) ||
		l.alias == "" && (l.group == policy.LinkGroup || l.group == doomedGroup) && (l.kind == "bridge" || l.kind == "veth")
}

// made tells whether the link is a bridge of ours that NetworkManager has taken over.
func (l hostLink) made() bool {
	return l.kind == "bridge" && strings.HasPrefix(l.alias, policy.MadePrefix)
}

func (l hostLink) lane() string { return strings.TrimPrefix(l.alias, policy.AliasPrefix) }

// readLinks reads links again, all in one dump or each that changed.
func (k *Kernel) readLinks(stale linkSet) error {
	if stale.most() {
		links, err := dump("links", k.host.LinkList)
		if err != nil {
			return err
		}
		k.links = make(map[int]hostLink, len(links))
		k.indexes = make(map[string]int, len(links))
		for _, l := range links {
			k.setLink(toHostLink(l))
		}
		k.dirty.all = true
		return nil
	}
	for index := range stale.indexes {
		l, err := k.host.LinkByIndex(index)
		if err := k.noteLink(index, l, err); err != nil {
			return err
		}
	}
	for name := range stale.names {
		l, err := k.host.LinkByName(name)
		if err := k.noteLink(k.indexes[name], l, err); err != nil {
			return err
		}
	}
	return nil
}

// hasLink tells whether the link with an index has a name.
func (d *direct) hasLink(index int, name string) bool {
	now, err := d.indexOf(name)
	return err == nil && now == index
}

// indexOf returns a link's index. It takes no lock, as a request to rtnetlink does, that whoever changes links holds.
func (d *direct) indexOf(name string) (int, error) {
	r, err := d.ifreq(name, unix.SIOCGIFINDEX)
	if err != nil {
		return 0, err
	}
	return int(r.Uint32()), nil
}

// runs tells whether a link is up and carries packets; true as well when it is gone.
func (d *direct) runs(name string) bool {
	r, err := d.ifreq(name, unix.SIOCGIFFLAGS)
	return err != nil || r.Uint16()&unix.IFF_RUNNING != 0
}

func (d *direct) ifreq(name string, request uint) (*unix.Ifreq, error) {
	r, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(d.fd, request, r)
	}
	return r, err
}

// noteLink notes what a look at a link with this index, 0 when it has none, has found.
func (k *Kernel) noteLink(index int, l netlink.Link, err error) error {
	var none netlink.LinkNotFoundError
	gone := errors.As(err, &none) || errors.Is(err, unix.ENODEV)
	if err != nil && !gone {
		return fmt.Errorf("read link %d: %w", index, err)
	}
	if old, ok := k.links[index]; ok {
		put(&k.dirty.links, index)
		delete(k.links, index)
		if k.indexes[old.name] == index {
			delete(k.indexes, old.name)
		}
	}
	if gone {
		delete(k.addrs, index)
		return nil
	}
	k.setLink(toHostLink(l))
	return nil
}

func (k *Kernel) setLink(l hostLink) {
	k.links[l.index], k.indexes[l.name] = l, l.index
	put(&k.dirty.links, l.index)
}

// touch marks a link of the host as changed by us.
func (k *Kernel) touch(names ...string) {
	k.stale.mark(func(p *parts) {
		for _, name := range names {
			p.links.name(name)
			p.addrs.name(name)
			if index, ok := k.indexes[name]; ok {
				delete(k.indexes, name)
				p.links.index(index)
				put(&p.down, index)
			}
		}
	})
}

func toHostLink(l netlink.Link) hostLink {
	a := l.Attrs()
	return hostLink{
		index: a.Index, peer: a.ParentIndex, master: a.MasterIndex, mtu: a.MTU,
		name: a.Name, kind: l.Type(), alias: a.Alias, group: a.Group,
		up: a.RawFlags&unix.IFF_UP != 0, running: a.RawFlags&unix.IFF_RUNNING != 0,
	}
}

// linkObjects returns the link with this index as one of ours, if it is.
func (k *Kernel) linkObjects(index int) []object {
	l, ok := k.links[index]
	switch {
	case !ok || !l.ours():
		return nil
	case l.kind == "bridge":
		return []object{{policy.Bridge{Name: l.name, Lane: l.lane(), MTU: l.mtu, Up: l.up, Master: k.links[l.master].name}, l.lane()}}
	}
	return []object{{k.veth(l, k.have.inner[index]), l.lane()}}
}

// hostLink returns a link as one of others'.
func (k *Kernel) hostLink(index int) policy.HostLink {
	l := k.links[index]
	return policy.HostLink{
		Index: l.index, MTU: l.mtu, Running: l.up && l.running, Made: l.made(),
		Bridge: l.kind == "bridge", Master: k.links[l.master].name, Addrs: k.addrs[index],
	}
}

// innerEnd is a veth's end in one of our namespaces.
type innerEnd struct {
	netns string
	hostLink
}

// innerEnds returns the inner ends of all veths by the index of the host's end.
func (k *Kernel) innerEnds() map[int]innerEnd {
	out := make(map[int]innerEnd, len(k.netns))
	for name := range k.netns {
		for _, l := range k.innerLinks(name) {
			out[l.peer] = innerEnd{name, l}
		}
	}
	return out
}

// innerLinks are the inner ends of veths in a namespace of ours.
func (k *Kernel) innerLinks(netns string) (out []hostLink) {
	ns := k.netns[netns]
	if ns == nil || !ns.ours {
		return nil
	}
	for _, l := range ns.links {
		if l.kind == "veth" && k.links[l.peer].peer == l.index {
			out = append(out, l)
		}
	}
	return out
}

// veth joins the host's end with the inner one, which is zero when that is in
// none of our namespaces.
func (k *Kernel) veth(l hostLink, inner innerEnd) policy.Veth {
	v := policy.Veth{
		Name: l.name, Lane: l.lane(), MTU: l.mtu, Up: l.up, Bridge: k.links[l.master].name,
		Netns: inner.netns, Inner: inner.name, InnerUp: inner.up,
	}
	if inner.mtu != l.mtu {
		v.MTU = 0
	}
	return v
}

func (k *Kernel) applyBridge(op policy.Op, b policy.Bridge) error {
	k.touch(b.Name)
	switch op.Verb {
	case policy.Release:
		return k.release(b)
	case policy.Remove:
		return k.deleteLink(b.Name)
	case policy.Add:
		return k.direct.addLink(newLink{name: b.Name, kind: "bridge", mtu: b.MTU, lane: b.Lane})
	}
	return k.setOurLink(b.Name, linkChange{alias: policy.AliasPrefix + b.Lane, mtu: b.MTU, setMaster: true})
}

func (k *Kernel) applyVeth(op policy.Op, v policy.Veth) error {
	k.touch(v.Name)
	k.stale.mark(func(p *parts) {
		p.netns.name(v.Netns)
		if have, ok := op.Have.(policy.Veth); ok {
			p.netns.name(have.Netns)
		}
	})
	if op.Verb == policy.Remove {
		return k.deleteLink(v.Name)
	}
	master := -1
	if v.Bridge != "" {
		var err error
		if master, err = k.direct.indexOf(v.Bridge); err != nil {
			return fmt.Errorf("bridge %s: %w", v.Bridge, err)
		}
	} else if have, ok := op.Have.(policy.Veth); ok && have.Bridge != "" {
		master = 0
	}
	return k.in(v.Netns, func(h *netlink.Handle) error {
		if op.Verb == policy.Add {
			ns, err := openNetns(v.Netns)
			if err != nil {
				return err
			}
			defer ns.Close()
			l := newLink{name: v.Name, kind: "veth", mtu: v.MTU, master: max(master, 0), up: true, peer: v.Inner, netns: ns, lane: v.Lane}
			if err := k.direct.addLink(l); err != nil {
				return err
			}
		} else if err := k.setOurLink(v.Name, linkChange{alias: policy.AliasPrefix + v.Lane, mtu: v.MTU, master: master, setMaster: master >= 0}); err != nil {
			return err
		}
		inner, err := h.LinkByName(v.Inner)
		if err != nil {
			return fmt.Errorf("link %s: %w", v.Inner, err)
		}
		if err := setLink(h, inner, linkChange{mtu: v.MTU}); err != nil || v.Bridge == "" || op.Verb != policy.Add {
			return err
		}
		return k.raise(v.Bridge, v.Name)
	})
}

// newLink is a link to be made.
type newLink struct {
	name, kind string
	mtu        int    // bytes
	master     int    // index; 0: none
	up         bool   // from its birth
	lane       string // for its alias
	// Of a veth: the other end's name and namespace.
	peer  string
	netns openedNetns
}

// addLink makes a link with all that it is in one request, and its alias, which a new link can't have, in a second one.
// The library would need a request for each, and one before each that asks for the link's number.
func (d *direct) addLink(l newLink) error {
	flags := uint32(0)
	if l.up {
		flags = unix.IFF_UP
	}
	body := appendIfInfo(nil, unix.IfInfomsg{Flags: flags, Change: flags})
	body = appendAttr(body, unix.IFLA_IFNAME, append([]byte(l.name), 0))
	body = appendNumber(body, unix.IFLA_MTU, uint32(l.mtu))
	body = appendNumber(body, unix.IFLA_GROUP, policy.LinkGroup)
	if l.master != 0 {
		body = appendNumber(body, unix.IFLA_MASTER, uint32(l.master))
	}
	info := appendAttr(nil, unix.IFLA_INFO_KIND, append([]byte(l.kind), 0))
	if l.peer != "" {
		peer := appendIfInfo(nil, unix.IfInfomsg{})
		peer = appendAttr(peer, unix.IFLA_IFNAME, append([]byte(l.peer), 0))
		peer = appendNumber(peer, unix.IFLA_MTU, uint32(l.mtu))
		peer = appendNumber(peer, unix.IFLA_NET_NS_FD, uint32(l.netns))
		info = appendAttr(info, unix.IFLA_INFO_DATA, appendAttr(nil, nl.VETH_INFO_PEER, peer))
	}
	body = appendAttr(body, unix.IFLA_LINKINFO, info)
	if err := d.do(unix.RTM_NEWLINK, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, body, nil); err != nil {
		return err
	}
	index, err := d.indexOf(l.name)
	if err != nil {
		return err
	}
	body = appendIfInfo(nil, unix.IfInfomsg{Index: int32(index)})
	body = appendAttr(body, unix.IFLA_IFALIAS, []byte(policy.AliasPrefix+l.lane))
	if err := d.do(unix.RTM_SETLINK, unix.NLM_F_ACK, body, nil); err != nil {
		return fmt.Errorf("set alias of %s: %w", l.name, err)
	}
	return nil
}

func appendIfInfo(b []byte, m unix.IfInfomsg) []byte {
	return append(b, (*[unix.SizeofIfInfomsg]byte)(unsafe.Pointer(&m))[:]...)
}

// portPatience is how long a new port may take to carry packets; the kernel takes some 0.1 ms.
const portPatience = 50 * time.Millisecond

// raise takes a bridge up, once its first port carries packets: it then sends at
// once. Where it is up already, or the port is late, it would begin when the
// kernel next looks at links' carriers, up to a second later; to ask for the
// bridge has the kernel do that at once, from Linux 6.8 on.
func (k *Kernel) raise(bridge, port string) error {
	for start := time.Now(); time.Since(start) < portPatience && !k.direct.runs(port); time.Sleep(portPatience / 500) {
	}
	l, err := k.host.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", bridge, err)
	}
	if toHostLink(l).ours() { // else it is up when NetworkManager has it so
		if err := setLink(k.host, l, linkChange{}); err != nil {
			return err
		}
	}
	_, err = k.host.LinkByName(bridge)
	return err
}

// linkChange is what setLink changes.
type linkChange struct {
	alias     string
	mtu       int
	master    int // 0: none
	setMaster bool
}

// setOurLink changes a link of the host's that carries our tag.
func (k *Kernel) setOurLink(name string, c linkChange) error {
	l, err := k.host.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if hl := toHostLink(l); !hl.ours() && !hl.made() {
		return fmt.Errorf("link %s is %w", name, errNotOurs)
	}
	return setLink(k.host, l, c)
}

func setLink(h *netlink.Handle, l netlink.Link, c linkChange) error {
	a := l.Attrs()
	name := a.Name
	if c.alias != "" && a.Alias != c.alias {
		if err := h.LinkSetAlias(l, c.alias); err != nil {
			return fmt.Errorf("set alias of %s: %w", name, err)
		}
	}
	if c.mtu != 0 && a.MTU != c.mtu {
		if err := h.LinkSetMTU(l, c.mtu); err != nil {
			return fmt.Errorf("set mtu of %s: %w", name, err)
		}
	}
	if c.setMaster && a.MasterIndex != c.master {
		if err := h.LinkSetMasterByIndex(l, c.master); err != nil {
			return fmt.Errorf("set master of %s: %w", name, err)
		}
	}
	if a.RawFlags&unix.IFF_UP == 0 {
		if err := h.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
	}
	return nil
}

// deleteLink deletes a link that still carries our tag; one that is gone is fine.
func (k *Kernel) deleteLink(name string) error {
	l, err := k.host.LinkByName(name)
	if _, gone := err.(netlink.LinkNotFoundError); gone {
		return nil
	}
	if err != nil {
		return err
	}
	if hl := toHostLink(l); !hl.ours() && !hl.made() {
		return fmt.Errorf("link %s is %w any more", name, errNotOurs)
	}
	return ignore(k.host.LinkDel(l), unix.ENODEV)
}

// doomedGroup collects links that go together: the kernel waits for all
// processors once for every deletion, so one for ten links is ten times as fast.
const doomedGroup = 0x75706c6e

// deleteLinks deletes several links in one operation.
func (k *Kernel) deleteLinks(names []string) error {
	for _, l := range k.links {
		if l.group == doomedGroup && !l.ours() && !l.made() {
			return fmt.Errorf("link group %d is in use by %s", doomedGroup, l.name)
		}
	}
	marked := 0
	for _, name := range names {
		l, err := k.host.LinkByName(name)
		if _, gone := err.(netlink.LinkNotFoundError); gone {
			continue
		}
		if err != nil {
			return err
		}
		if hl := toHostLink(l); !hl.ours() && !hl.made() {
			return fmt.Errorf("link %s is %w any more", name, errNotOurs)
		}
		if err := k.host.LinkSetGroup(l, doomedGroup); err != nil {
			return fmt.Errorf("set group of %s: %w", name, err)
		}
		marked++
	}
	if marked == 0 {
		return nil
	}
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(doomedGroup)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
