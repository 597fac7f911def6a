package kernel

import (
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// foreignBridges notes which bridges of others, NetworkManager's, have one of our
// veths as a port, and whether they run the spanning tree protocol. What is
// known of their switches is forgotten: NetworkManager sets disable_ipv6 whenever it takes up a
// profile, and the kernel tells no more than that IPv6 came up.
func (k *Kernel) foreignBridges() {
	k.stp = nil
	for _, l := range k.links {
		master, ok := k.links[l.master]
		if !ok || l.kind != "veth" || !l.ours() || master.ours() {
			continue
		}
		for key := range k.sysctls {
			if strings.Contains(key, "/conf/"+master.name+"/") {
				delete(k.sysctls, key)
			}
		}
		if data, err := os.ReadFile("/sys/class/net/" + master.name + "/bridge/stp_state"); err == nil && strings.TrimSpace(string(data)) != "0" {
			if k.stp == nil {
				k.stp = map[int]bool{}
			}
			k.stp[master.index] = true
		}
	}
}

// stopSTP switches a bridge's spanning tree protocol off and lets its port, which
// keeps its state over that, pass packets. A lane's bridge has one port, so there is nothing to
// loop, and the protocol would keep that port silent for half a minute.
func (k *Kernel) stopSTP(bridge, port int) error {
	off := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	off.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	off.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(0))
	if err := changeLink(unix.RTM_NEWLINK, unix.AF_UNSPEC, bridge, off); err != nil {
		return err
	}
	const forwarding = 3 // BR_STATE_FORWARDING of linux/if_bridge.h
	state := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	state.AddRtAttr(nl.IFLA_BRPORT_STATE, []byte{forwarding})
	return changeLink(unix.RTM_SETLINK, unix.AF_BRIDGE, port, state)
}

func changeLink(kind, family, index int, attr nl.NetlinkRequestData) error {
	req := nl.NewNetlinkRequest(kind, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(family)
	msg.Index = int32(index)
	req.AddData(msg)
	req.AddData(attr)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// release leaves a bridge to NetworkManager.
func (k *Kernel) release(b policy.Bridge) error {
	k.stale.mark(func(p *parts) { p.links, p.addrs, p.allRoutes = true, true, true })
	l, err := k.host.LinkByName(b.Name)
	if err != nil {
		return err
	}
	if !toHostLink(l).ours() {
		return nil
	}
	if err := k.host.LinkSetAlias(l, policy.MadePrefix+b.Lane); err != nil {
		return fmt.Errorf("set alias of %s: %w", b.Name, err)
	}
	return k.host.LinkSetGroup(l, 0)
}
