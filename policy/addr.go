package policy

import (
	"fmt"
	"net/netip"
)

// Addr is an address of one of our links.
type Addr struct {
	Netns  string // empty: the host's
	Link   string
	Prefix netip.Prefix // with host bits
}

func (a Addr) key() key {
	return key{kind: kindAddr, netns: a.Netns, name: a.Link, prefix: a.Prefix}
}

func (a Addr) dependsOn() []key { return linkIn(a.Netns, a.Link) }

// linkIn names what carries a link: a link of the host, or, as only veths reach
// into a namespace, the namespace and the link there.
func linkIn(netns, link string) []key {
	if netns == "" {
		return []key{linkKey("", link)}
	}
	return []key{netnsKey(netns), linkKey(netns, link)}
}

func (a Addr) add() []string {
	return []string{fmt.Sprintf("%s addr add %s dev %s", ip(a.Netns), a.Prefix, a.Link)}
}

func (a Addr) remove() []string {
	return []string{fmt.Sprintf("%s addr del %s dev %s", ip(a.Netns), a.Prefix, a.Link)}
}

// ip is the ip command for the host or for a namespace.
func ip(netns string) string {
	if netns == "" {
		return "ip"
	}
	return "ip -n " + netns
}
