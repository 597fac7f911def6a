package kernel

import (
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// readAddrs reads the addresses of links again, of all in one dump or of each.
func (k *Kernel) readAddrs(stale linkSet) error {
	if stale.most() {
		addrs, err := k.direct.addrs(0)
		if err == nil {
			k.addrs, k.dirty.all = addrs, true
		}
		return err
	}
	for index := range stale.resolve(k.indexes) {
		addrs, err := k.direct.addrs(index)
		if err != nil {
			return err
		}
		delete(k.addrs, index)
		put(&k.dirty.addrs, index)
		if len(addrs[index]) > 0 {
			k.addrs[index] = addrs[index]
		}
	}
	return nil
}

// addrs lists the addresses of a link, or with 0 of all, by the links' indexes. Link-local ones are left
// out: the kernel makes them, and they lead nowhere.
func (d *direct) addrs(index int) (map[int][]netip.Prefix, error) {
	type addr struct {
		link   int
		prefix netip.Prefix
	}
	list, err := dump("addresses", func() ([]addr, error) {
		var out []addr
		m := unix.IfAddrmsg{Index: uint32(index)}
		err := d.do(unix.RTM_GETADDR, unix.NLM_F_DUMP, (*[unix.SizeofIfAddrmsg]byte)(unsafe.Pointer(&m))[:], func(body []byte) {
			// Kernels that do not filter by link list all.
			if link, p, ok := parseAddr(body); ok && (index == 0 || index == link) {
				out = append(out, addr{link, p})
			}
		})
		if err == unix.ENODEV {
			return nil, nil
		}
		return out, err
	})
	out := make(map[int][]netip.Prefix)
	for _, a := range list {
		out[a.link] = append(out[a.link], a.prefix)
	}
	return out, err
}

// parseAddr reads an address message; false for a link-local address and what is none of IP.
func parseAddr(body []byte) (link int, p netip.Prefix, ok bool) {
	if len(body) < unix.SizeofIfAddrmsg {
		return 0, p, false
	}
	m := (*unix.IfAddrmsg)(unsafe.Pointer(&body[0]))
	var peer, local netip.Addr
	for kind, v := range attrs(body[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_ADDRESS:
			peer = address(v)
		case unix.IFA_LOCAL:
			local = address(v)
		}
	}
	if !local.IsValid() {
		local = peer // IPv6 has no other, but for point-to-point ones
	}
	p = netip.PrefixFrom(local, int(m.Prefixlen))
	return int(m.Index), p, p.IsValid() && addrFamily(local) == familiesOf(m.Family) && !isLinkLocal6(local)
}

func isLinkLocal6(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

// listAddrs lists the addresses in a namespace.
func listAddrs(h *netlink.Handle) ([]hostAddr, error) {
	list, err := dump("addresses", func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	out := make([]hostAddr, 0, len(list))
	for _, a := range list {
		if p := prefix(a.IPNet); !isLinkLocal6(p.Addr()) {
			out = append(out, hostAddr{a.LinkIndex, p})
		}
	}
	return out, nil
}

// hostAddr is an address in a namespace.
type hostAddr struct {
	link   int
	prefix netip.Prefix
}

// addrObjects returns the addresses of a link of ours.
func (k *Kernel) addrObjects(index int) (out []object) {
	if l := k.links[index]; l.ours() {
		for _, a := range k.addrs[index] {
			out = append(out, object{policy.Addr{Link: l.name, Prefix: a}, l.lane()})
		}
	}
	return out
}

func (k *Kernel) applyAddr(op policy.Op, a policy.Addr) error {
	k.stale.mark(func(p *parts) {
		if a.Netns != "" {
			p.netns.name(a.Netns)
			return
		}
		p.addrs.name(a.Link)
		if index, ok := k.indexes[a.Link]; ok && op.Verb == policy.Remove {
			p.addrGone = true
			put(&p.down, index)
		}
		p.table(familyNumber(policy.FamilyOf(a.Prefix.Addr())), policy.MainTable)
	})
	return k.in(a.Netns, func(h *netlink.Handle) error {
		l, err := h.LinkByName(a.Link)
		if err != nil {
			return err
		}
		if hl := toHostLink(l); a.Netns == "" && !hl.ours() && !hl.made() {
			return fmt.Errorf("link %s is %w any more", a.Link, errNotOurs)
		}
		na := &netlink.Addr{IPNet: ipNet(a.Prefix)}
		if op.Verb == policy.Remove {
			return ignore(h.AddrDel(l, na), unix.EADDRNOTAVAIL)
		}
		if a.Prefix.Addr().Is6() {
			// Nobody else is on a lane's link who could have the address, so nothing has to wait for that to be found out.
			na.Flags = unix.IFA_F_NODAD
		}
		return h.AddrAdd(l, na)
	})
}
