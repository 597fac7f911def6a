package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// The addresses of a world. Public ones are from the ranges for documentation.
var (
	WhoamiAddr = netip.MustParseAddr("203.0.113.10") // of the server that tells who asks
	WireDNS    = netip.MustParseAddr("203.0.113.53") // what the wire network's DHCP hands out
	WifiDNS    = netip.MustParseAddr("203.0.113.54") // what the wifi network's DHCP hands out

	WirePublic  = netip.MustParseAddr("198.51.100.1") // what the internet sees behind wire
	WifiPublic  = netip.MustParseAddr("198.51.100.2") // behind wifi
	Wifi2Public = netip.MustParseAddr("198.51.100.3") // behind wifi's second router

	// provider is the internet's end of every gateway's uplink.
	provider = netip.MustParseAddr("198.51.100.254")
)

// MAC addresses of the host's cards, by which the DHCP servers know them.
const (
	WiredMAC = "52:54:00:00:07:00"
	WiFiMAC  = "52:54:00:00:06:00"
)

// plan is where the routers of a kind of world sit in their local networks, and what their DHCP
// gives to the host's card at first.
type plan struct {
	wire, wifi, wifi2 netip.Prefix
	wired, wireless   netip.Prefix
}

var plans = map[Kind]plan{
	Plain: {
		wire:     netip.MustParsePrefix("192.168.10.1/24"),
		wired:    netip.MustParsePrefix("192.168.10.4/24"),
		wifi:     netip.MustParsePrefix("192.168.50.1/24"),
		wifi2:    netip.MustParsePrefix("192.168.50.2/24"),
		wireless: netip.MustParsePrefix("192.168.50.4/24"),
	},
	Twin: {
		wire:     netip.MustParsePrefix("192.168.50.1/24"),
		wired:    netip.MustParsePrefix("192.168.50.7/24"),
		wifi:     netip.MustParsePrefix("192.168.50.254/24"),
		wifi2:    netip.MustParsePrefix("192.168.50.2/24"),
		wireless: netip.MustParsePrefix("192.168.50.4/24"),
	},
}

// wireUp makes the nodes around the host, connects them, and starts their servers.
func (w *World) wireUp(ctx context.Context) error {
	plan := plans[w.kind]
	nodes := map[string]*Node{}
	for _, name := range []string{"wire", "wifi", "wifi2", "inet"} {
		ns, err := newNetns()
		if err != nil {
			return err
		}
		w.keep(ns)
		nodes[name] = w.newNode(name, ns)
	}
	// The switch of a twin world is the wire's.
	wifiSwitch := nodes["wifi"]
	if w.kind == Twin {
		wifiSwitch = nodes["wire"]
	}
	w.Inet = &Inet{Node: nodes["inet"]}
	w.Wire = &Gateway{
		Router: &Router{Node: nodes["wire"], LAN: plan.wire, Public: WirePublic},
		NIC:    Wired, mac: WiredMAC, port: nodes["wire"],
	}
	w.Wifi = &Gateway{
		Router: &Router{Node: nodes["wifi"], LAN: plan.wifi, Public: WifiPublic},
		NIC:    WiFi, mac: WiFiMAC, port: wifiSwitch,
	}
	w.Wifi2 = &Router{Node: nodes["wifi2"], LAN: plan.wifi2, Public: Wifi2Public}

	cables := append(w.cards(),
		cable{nodes["wifi2"], "lan", "52:54:00:00:50:02", wifiSwitch, "wifi2"},
		cable{nodes["wire"], "inet", "52:54:00:00:51:01", nodes["inet"], "wire"},
		cable{nodes["wifi"], "inet", "52:54:00:00:51:02", nodes["inet"], "wifi"},
		cable{nodes["wifi2"], "inet", "52:54:00:00:51:03", nodes["inet"], "wifi2"},
	)
	if w.kind == Twin {
		cables = append(cables, cable{nodes["wifi"], "lan", "52:54:00:00:50:01", nodes["wire"], "wifi"})
	}
	if err := w.plug(cables); err != nil {
		return err
	}

	wirePorts, wifiPorts := []string{Wired}, []string{WiFi, "wifi2"}
	if w.kind == Twin {
		wirePorts, wifiPorts = []string{Wired, WiFi, "wifi", "wifi2"}, nil
	}
	if err := w.Wire.bridge("52:54:00:00:10:01", wirePorts); err != nil {
		return err
	}
	if len(wifiPorts) > 0 {
		if err := w.Wifi.bridge("52:54:00:00:50:01", wifiPorts); err != nil {
			return err
		}
	}
	for _, router := range []*Router{w.Wire.Router, w.Wifi.Router, w.Wifi2} {
		if err := router.setUp(); err != nil {
			return err
		}
	}
	if err := w.Inet.setUp(); err != nil {
		return err
	}
	if err := w.Wire.startDHCP(ctx, DHCP{Address: plan.wired, Router: plan.wire.Addr(), DNS: []netip.Addr{WireDNS}}); err != nil {
		return err
	}
	return w.Wifi.startDHCP(ctx, DHCP{Address: plan.wireless, Router: plan.wifi.Addr(), DNS: []netip.Addr{WifiDNS}})
}

// cards are the cables of the host's cards.
func (w *World) cards() []cable {
	var cables []cable
	for _, g := range []*Gateway{w.Wire, w.Wifi} {
		cables = append(cables, cable{w.Host.Node, g.NIC, g.mac, g.port, g.NIC})
	}
	return cables
}

// cable is a veth between two nodes. The MAC is that of the first end.
type cable struct {
	node     *Node
	dev, mac string
	to       *Node
	toDev    string
}

// plug makes all cables with one process. It names the namespaces by descriptors that it passes on:
// their paths in this process's /proc mean nothing in the world's.
func (w *World) plug(cables []cable) error {
	files := []*os.File{}
	paths := map[*Node]string{}
	path := func(n *Node) string {
		if paths[n] == "" {
			paths[n] = fmt.Sprintf("/proc/self/fd/%d", 3+len(files))
			files = append(files, n.ns)
		}
		return paths[n]
	}
	var batch strings.Builder
	for _, c := range cables {
		fmt.Fprintf(&batch, "link add name %s address %s netns %s type veth peer name %s netns %s\n",
			c.dev, c.mac, path(c.node), c.toDev, path(c.to))
	}
	cmd := w.Inet.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(batch.String())
	cmd.ExtraFiles = files
	_, err := cmd.text()
	return err
}
