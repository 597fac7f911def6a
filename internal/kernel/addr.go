package kernel

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

type hostAddr struct {
	link   int
	prefix netip.Prefix
}

func (k *Kernel) readAddrs() error {
	addrs, err := listAddrs(k.host)
	k.addrs = addrs
	return err
}

func listAddrs(h *netlink.Handle) ([]hostAddr, error) {
	list, err := dump("addresses", func() ([]netlink.Addr, error) { return h.AddrList(nil, unix.AF_INET) })
	if err != nil {
		return nil, err
	}
	out := make([]hostAddr, len(list))
	for i, a := range list {
		out[i] = hostAddr{a.LinkIndex, prefix(a.IPNet)}
	}
	return out, nil
}

func (k *Kernel) observeAddrs(state policy.State, host *policy.Host) {
	for _, a := range k.addrs {
		l, ok := k.links[a.link]
		if !ok {
			continue
		}
		if l.ours() {
			state.Add(policy.Addr{Link: l.name, Prefix: a.prefix})
			continue
		}
		hl := host.Links[l.name]
		hl.Addrs = append(hl.Addrs, a.prefix)
		host.Links[l.name] = hl
	}
}

func (k *Kernel) applyAddr(op policy.Op, a policy.Addr) error {
	k.stale.mark(func(p *parts) {
		p.addrs, p.allRoutes = true, true
		p.allNetns = p.allNetns || a.Netns != ""
	})
	return k.in(a.Netns, func(h *netlink.Handle) error {
		l, err := h.LinkByName(a.Link)
		if err != nil {
			return err
		}
		na := &netlink.Addr{IPNet: ipNet(a.Prefix)}
		if op.Verb == policy.Remove {
			return ignore(h.AddrDel(l, na), unix.EADDRNOTAVAIL)
		}
		return h.AddrAdd(l, na)
	})
}
