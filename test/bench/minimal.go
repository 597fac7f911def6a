package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"uplane/test/lab"
)

// minimalLane is what a small Go program does that builds exactly one lane and
// looks at nothing: the netlink library on an open socket, and one
// iptables-restore. What it makes equals a lane of Uplane's.
type minimalLane struct {
	h      *netlink.Handle
	uplink netlink.Link
}

const (
	minimalName  = "minimal"
	minimalTable = 400
)

var (
	minimalNet  = &net.IPNet{IP: net.IPv4(10, 98, 0, 0).To4(), Mask: net.CIDRMask(24, 32)}
	minimalHost = &net.IPNet{IP: net.IPv4(10, 98, 0, 1).To4(), Mask: net.CIDRMask(24, 32)}
	minimalIn   = &net.IPNet{IP: net.IPv4(10, 98, 0, 2).To4(), Mask: net.CIDRMask(24, 32)}
	uplinkNet   = &net.IPNet{IP: net.IPv4(192, 168, 50, 0).To4(), Mask: net.CIDRMask(24, 32)}
	uplinkGate  = net.IPv4(192, 168, 50, 1).To4()
	anywhere    = &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
)

// minimal is that helper: it answers "up" and "down" with the nanoseconds it took.
func minimal([]string) error {
	runtime.LockOSThread()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	uplink, err := h.LinkByName(lab.WiFi)
	if err != nil {
		return err
	}
	m := minimalLane{h, uplink}
	return answer(func(question string) (string, error) {
		work := m.up
		if question == "down" {
			work = m.down
		}
		start := time.Now()
		err := work()
		return fmt.Sprint(time.Since(start).Nanoseconds()), err
	})
}

func (m minimalLane) up() error {
	floor := &netlink.Route{Table: minimalTable, Dst: anywhere, Type: unix.RTN_UNREACHABLE, Priority: 1<<32 - 1}
	from, to := netlink.NewRule(), netlink.NewRule()
	from.Family, from.Src, from.Table, from.Priority = unix.AF_INET, minimalNet, minimalTable, 5000
	to.Family, to.Dst, to.Table, to.Priority = unix.AF_INET, minimalNet, minimalTable, 5000
	if err := errors.Join(m.h.RouteAdd(floor), m.h.RuleAdd(from), m.h.RuleAdd(to), m.chains()); err != nil {
		return err
	}
	inner, err := m.namespace()
	if err != nil {
		return err
	}
	defer inner.Close()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br-" + minimalName}}
	if err := m.h.LinkAdd(bridge); err != nil {
		return err
	}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "ulv-" + minimalName, MasterIndex: bridge.Index},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(inner),
	}
	if err := m.h.LinkAdd(veth); err != nil {
		return err
	}
	conf := "/proc/sys/net/ipv4/conf/"
	err = errors.Join(
		m.h.LinkSetUp(bridge), m.h.LinkSetUp(veth), m.h.AddrAdd(bridge, &netlink.Addr{IPNet: minimalHost}),
		os.WriteFile(conf+bridge.Name+"/forwarding", []byte("1"), 0), os.WriteFile(conf+lab.WiFi+"/forwarding", []byte("1"), 0),
	)
	if err != nil {
		return err
	}
	if err := m.inside(inner); err != nil {
		return err
	}
	link := m.uplink.Attrs().Index
	dir := "/etc/netns/" + minimalName
	return errors.Join(
		m.h.RouteAdd(&netlink.Route{Table: minimalTable, Dst: minimalNet, LinkIndex: bridge.Index, Scope: netlink.SCOPE_LINK}),
		m.h.RouteAdd(&netlink.Route{Table: minimalTable, Dst: uplinkNet, LinkIndex: link, Scope: netlink.SCOPE_LINK}),
		m.h.RouteAdd(&netlink.Route{Table: minimalTable, Dst: anywhere, LinkIndex: link, Gw: uplinkGate}),
		os.MkdirAll(dir, 0o755), os.WriteFile(dir+"/resolv.conf", []byte("nameserver 203.0.113.54\n"), 0o644),
	)
}

// namespace makes the lane's; this thread stays where it is.
func (m minimalLane) namespace() (netns.NsHandle, error) {
	here, err := netns.Get()
	if err != nil {
		return -1, err
	}
	defer here.Close()
	made, err := netns.NewNamed(minimalName)
	return made, errors.Join(err, netns.Set(here))
}

func (m minimalLane) inside(ns netns.NsHandle) error {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	return errors.Join(
		h.LinkSetUp(lo), h.LinkSetUp(eth0), h.AddrAdd(eth0, &netlink.Addr{IPNet: minimalIn}),
		h.RouteAdd(&netlink.Route{Dst: anywhere, LinkIndex: eth0.Attrs().Index, Gw: minimalHost.IP}),
	)
}

func (m minimalLane) chains() error {
	return restore(`*filter
:MINIMAL-FORWARD - [0:0]
-A MINIMAL-FORWARD -s 10.98.0.0/24 -i br-minimal -o wlp6s0 -j ACCEPT
-A MINIMAL-FORWARD -d 10.98.0.0/24 -i wlp6s0 -o br-minimal -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A MINIMAL-FORWARD -i br-minimal -j DROP
-A MINIMAL-FORWARD -o br-minimal -j DROP
-I FORWARD 1 -j MINIMAL-FORWARD
COMMIT
*nat
:MINIMAL-POSTROUTING - [0:0]
-A MINIMAL-POSTROUTING -s 10.98.0.0/24 -o wlp6s0 -j MASQUERADE
-I POSTROUTING 1 -j MINIMAL-POSTROUTING
COMMIT
`)
}

func (m minimalLane) down() error {
	bridge, err := m.h.LinkByName("br-" + minimalName)
	if err != nil {
		return err
	}
	veth, err := m.h.LinkByName("ulv-" + minimalName)
	if err != nil {
		return err
	}
	err = errors.Join(m.h.LinkDel(veth), m.h.LinkDel(bridge), netns.DeleteNamed(minimalName), restore(`*filter
-D FORWARD -j MINIMAL-FORWARD
-F MINIMAL-FORWARD
-X MINIMAL-FORWARD
COMMIT
*nat
-D POSTROUTING -j MINIMAL-POSTROUTING
-F MINIMAL-POSTROUTING
-X MINIMAL-POSTROUTING
COMMIT
`))
	from, to := netlink.NewRule(), netlink.NewRule()
	from.Family, from.Src, from.Table, from.Priority = unix.AF_INET, minimalNet, minimalTable, 5000
	to.Family, to.Dst, to.Table, to.Priority = unix.AF_INET, minimalNet, minimalTable, 5000
	err = errors.Join(err, m.h.RuleDel(from), m.h.RuleDel(to), os.RemoveAll("/etc/netns/"+minimalName))
	routes, lerr := m.h.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: minimalTable}, netlink.RT_FILTER_TABLE)
	for _, r := range routes {
		err = errors.Join(err, m.h.RouteDel(&r))
	}
	return errors.Join(err, lerr)
}

func restore(input string) error {
	cmd := exec.Command("iptables-restore", "--noflush")
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("iptables-restore: %w: %s", err, out)
	}
	return nil
}
