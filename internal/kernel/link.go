package kernel

import (
	"fmt"
	"strings"
	"time"

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

func (k *Kernel) readLinks() error {
	links, err := dump("links", k.host.LinkList)
	if err != nil {
		return err
	}
	k.links = make(map[int]hostLink, len(links))
	k.indexes = make(map[string]int, len(links))
	for _, l := range links {
		hl := toHostLink(l)
		k.links[hl.index], k.indexes[hl.name] = hl, hl.index
	}
	k.forgetBridges()
	return nil
}

func toHostLink(l netlink.Link) hostLink {
	a := l.Attrs()
	return hostLink{
		index: a.Index, peer: a.ParentIndex, master: a.MasterIndex, mtu: a.MTU,
		name: a.Name, kind: l.Type(), alias: a.Alias, group: a.Group,
		up: a.RawFlags&unix.IFF_UP != 0, running: a.RawFlags&unix.IFF_RUNNING != 0,
	}
}

func (k *Kernel) observeLinks(state policy.State, host *policy.Host) {
	inner := k.innerEnds()
	for _, l := range k.links {
		switch {
		case !l.ours():
			host.Links[l.name] = policy.HostLink{
				Index: l.index, MTU: l.mtu, Running: l.up && l.running, Made: l.made(),
				Bridge: l.kind == "bridge", Master: k.links[l.master].name,
			}
		case l.kind == "bridge":
			state.Add(policy.Bridge{Name: l.name, Lane: l.lane(), MTU: l.mtu, Up: l.up, Master: k.links[l.master].name})
		default:
			state.Add(k.veth(l, inner[l.index]))
		}
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
	for name, ns := range k.netns {
		for _, l := range ns.links {
			if ns.ours && l.kind == "veth" && k.links[l.peer].peer == l.index {
				out[l.peer] = innerEnd{name, l}
			}
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
	delete(k.indexes, b.Name)
	k.stale.mark(func(p *parts) { p.links, p.addrs, p.allRoutes = true, true, true })
	switch op.Verb {
	case policy.Release:
		return k.release(b)
	case policy.Remove:
		return k.deleteLink(b.Name)
	case policy.Add:
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.Group = b.Name, b.MTU, policy.LinkGroup
		if err := k.host.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return err
		}
	}
	return setLink(k.host, b.Name, linkChange{
		alias: policy.AliasPrefix + b.Lane, mtu: b.MTU, setMaster: true, stayDown: op.Verb == policy.Add,
	})
}

func (k *Kernel) applyVeth(op policy.Op, v policy.Veth) error {
	delete(k.indexes, v.Name)
	k.stale.mark(func(p *parts) { p.links, p.addrs, p.allRoutes, p.allNetns = true, true, true, true })
	if op.Verb == policy.Remove {
		return k.deleteLink(v.Name)
	}
	ns, err := openNetns(v.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	if op.Verb == policy.Add {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.Group = v.Name, v.MTU, policy.LinkGroup
		pair := &netlink.Veth{LinkAttrs: attrs, PeerName: v.Inner, PeerNamespace: netlink.NsFd(ns)}
		if err := k.host.LinkAdd(pair); err != nil {
			return err
		}
	}
	master := -1
	if v.Bridge != "" {
		bridge, err := k.host.LinkByName(v.Bridge)
		if err != nil {
			return fmt.Errorf("bridge %s: %w", v.Bridge, err)
		}
		master = bridge.Attrs().Index
	} else if have, ok := op.Have.(policy.Veth); ok && have.Bridge != "" {
		master = 0
	}
	if err := setLink(k.host, v.Name, linkChange{alias: policy.AliasPrefix + v.Lane, mtu: v.MTU, master: master, setMaster: master >= 0}); err != nil {
		return err
	}
	err = ns.do(func(h *netlink.Handle) error {
		return setLink(h, v.Inner, linkChange{mtu: v.MTU})
	})
	if err != nil || v.Bridge == "" || op.Verb != policy.Add {
		return err
	}
	return k.raise(v.Bridge, v.Name)
}

// portPatience is how long a new port may take to carry packets; the kernel takes some 0.1 ms.
const portPatience = 50 * time.Millisecond

// raise takes a bridge up, once its first port carries packets: it then sends at
// once. Where it is up already, or the port is late, it would begin when the
// kernel next looks at links' carriers, up to a second later; to ask for the
// bridge has the kernel do that at once, from Linux 6.8 on.
func (k *Kernel) raise(bridge, port string) error {
	for start := time.Now(); time.Since(start) < portPatience; time.Sleep(portPatience / 500) {
		if l, err := k.host.LinkByName(port); err != nil || l.Attrs().OperState == netlink.OperUp {
			break
		}
	}
	if err := setLink(k.host, bridge, linkChange{}); err != nil {
		return err
	}
	_, err := k.host.LinkByName(bridge)
	return err
}

// linkChange is what setLink changes.
type linkChange struct {
	stayDown  bool // otherwise the link also goes up
	alias     string
	mtu       int
	master    int // 0: none
	setMaster bool
}

func setLink(h *netlink.Handle, name string, c linkChange) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	a := l.Attrs()
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
	if a.RawFlags&unix.IFF_UP == 0 && !c.stayDown {
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
		return fmt.Errorf("link %s is not ours any more", name)
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
		delete(k.indexes, name)
		l, err := k.host.LinkByName(name)
		if _, gone := err.(netlink.LinkNotFoundError); gone {
			continue
		}
		if err != nil {
			return err
		}
		if hl := toHostLink(l); !hl.ours() && !hl.made() {
			return fmt.Errorf("link %s is not ours any more", name)
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
