package policy

import "net/netip"

// Host is what else there is on the machine: everything a lane must keep clear
// of. Nothing in it is ours, but for Rules.
type Host struct {
	Links  map[string]HostLink
	Routes []HostRoute
	// Rules are all rules of both families in the order in which the kernel goes
	// through them, ours included.
	Rules []HostRule
	Netns map[string]bool   // names under /run/netns that are not ours
	Files map[string]string // lanes' files that others wrote, by path
	// Switch is the text of its nsswitch.conf.
	Switch string
	IPv6   bool // the kernel has IPv6
	// Forwards: net.ipv4.ip_forward is on, so somebody wants a router.
	Forwards bool
	// Sysctls are the present values of switches of others' links, by [Sysctl]'s key. What does not
	// exist is missing.
	Sysctls map[string]string
	// Tracked are the subnets that connection tracking still has live
	// connections of, among those of [Memory.Draining].
	Tracked map[netip.Prefix]bool
	// Drops are the iptables commands whose FORWARD chain drops what it does not know.
	Drops map[string]bool
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

// HostRule is a policy-routing rule, whoever made it.
type HostRule struct {
	Rule
	Protocol int
	Invert   bool   // what does not match
	In, Out  string // interfaces; empty: any
	// Partial: it also looks at what is not named here (a protocol, ports, a
	// user, the type of service), so it takes only some of the packets that match.
	Partial bool
}

// Ours tells whether r carries our tag.
func (r *HostRule) Ours() bool { return r.Protocol == Protocol }
