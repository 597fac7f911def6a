package kernel

import (
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// stp reads whether a bridge runs the spanning tree protocol.
func stp(bridge string) (string, error) {
	data, err := os.ReadFile("/sys/class/net/" + bridge + "/bridge/stp_state")
	if value := strings.TrimSpace(string(data)); err != nil || value == "0" {
		return value, err
	}
	return "1", nil // 2 is that a program runs it, which the kernel decides
}

// setSTP switches a bridge's spanning tree protocol on or off. A lane's bridge has one port, so there is
// nothing to loop, and the protocol would keep that port silent for half a minute. The port keeps
// its state when it is switched off, so it is told to pass packets.
func (k *Kernel) setSTP(bridge string, on bool) error {
	l, err := k.host.LinkByName(bridge)
	if err != nil {
		return err
	}
	index := l.Attrs().Index
	attr := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	attr.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	attr.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(map[bool]uint32{true: 1}[on]))
	if err := changeLink(unix.RTM_NEWLINK, unix.AF_UNSPEC, index, attr); err != nil || on {
		return err
	}
	ports, err := os.ReadDir("/sys/class/net/" + bridge + "/brif")
	if err != nil {
		return err
	}
	const forwarding = 3 // BR_STATE_FORWARDING of linux/if_bridge.h
	state := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	state.AddRtAttr(nl.IFLA_BRPORT_STATE, []byte{forwarding})
	for _, p := range ports {
		port, err := k.host.LinkByName(p.Name())
		if err != nil || !toHostLink(port).ours() {
			continue
		}
		if err := changeLink(unix.RTM_SETLINK, unix.AF_BRIDGE, port.Attrs().Index, state); err != nil {
			return err
		}
	}
	return nil
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
