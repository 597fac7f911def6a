package lab

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// Router forwards what comes in on its interface "lan" to the internet, behind a public address.
type Router struct {
	*Node
	LAN    netip.Prefix // its address in the local network
	Public netip.Addr   // the source address that the internet sees
}

// bridge makes "lan" a switch with ports. A port has the name of what it leads to.
func (r *Router) bridge(mac string, ports []string) error {
	// Else the machine's module for it has this router track, and never translate again, what the switch only hands on.
	if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
		if err := r.Sysctl("net/bridge/bridge-nf-call-iptables", "0"); err != nil {
			return err
		}
	}
	lines := []string{"link add name lan address " + mac + " type bridge"}
	for _, port := range ports {
		lines = append(lines, "link set dev "+port+" master lan up")
	}
	return r.IP(lines...)
}

func (r *Router) setUp() error {
	err := r.IP(
		"link set dev lo up",
		"link set dev lan up",
		fmt.Sprintf("address add %s dev lan", r.LAN),
		"link set dev inet up",
		fmt.Sprintf("address add %s peer %s dev inet", r.Public, provider),
		fmt.Sprintf("route add default via %s", provider),
	)
	if err != nil {
		return err
	}
	if err := r.Sysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	nft := r.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(`table ip nat {
		chain postrouting {
			type nat hook postrouting priority srcnat
			oifname "inet" masquerade
		}
	}`)
	_, err = nft.text()
	return err
}

// Gateway is the router that one of the host's cards is connected to, with its DHCP server. The
// switch port that the card is plugged into has the card's name: in this node, or in a [Twin] world
// in the wire's for both cards.
type Gateway struct {
	*Router
	NIC string // the host's card

	mac    string
	port   *Node // where the other end of the card's cable is
	dhcp   DHCP
	server *Cmd
}

// Port is the node with the switch port of the host's card. Everything that goes over the card's
// cable can be seen there by Capture(g.NIC, …).
func (g *Gateway) Port() *Node { return g.port }

// Carrier pulls the card's cable (false) or plugs it in again.
func (g *Gateway) Carrier(on bool) error {
	state := map[bool]string{true: "up", false: "down"}[on]
	return g.port.IP(fmt.Sprintf("link set dev %s %s", g.NIC, state))
}

func (g *Gateway) file(name string) string {
	return fmt.Sprintf("/run/lab/dhcp-%s.%s", g.Name, name)
}

func (g *Gateway) write(name, text string) error {
	return os.WriteFile(g.place.path(g.file(name)), []byte(text), 0o644)
}
