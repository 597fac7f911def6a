package policy

import "net/netip"

// Host is what else there is on the machine: everything a lane must keep clear
// of. Nothing in it is ours.
type Host struct {
	Links  map[string]HostLink
	Routes []HostRoute
	Rules  []HostRule
	Netns  map[string]bool // names under /run/netns that are not ours
	Files  map[string]bool // paths of lanes' files that others wrote
	Switch string          // the text of its nsswitch.conf
	IPv6   bool            // the kernel has IPv6
}

// HostLink is a network interface.
type HostLink struct {
	Index   int
	MTU     int  // bytes
	Running bool // up, with carrier
	Made    bool // by us, and taken over by NetworkManager
	Bridge  bool
	Master  string // the link that it is a port of; empty: none
	Addrs   []netip.Prefix
}

// HostRoute is a unicast route of any table but local.
type HostRoute struct {
	Table    uint32
	Dst      netip.Prefix
	Via      netip.Addr
	Dev      string
	Metric   uint32
	Protocol int
}

// Route protocols that NetworkManager writes with, from rtnetlink(7).
const (
	ProtoKernel = 2
	ProtoStatic = 4
	ProtoRA     = 9
	ProtoDHCP   = 16
)

// HostRule is a policy-routing rule.
type HostRule struct {
	Priority uint32
	From, To netip.Prefix
	Mark     uint32
	Table    uint32
}
