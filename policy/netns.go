package policy

import "fmt"

// Netns is a lane's network namespace, bound to /run/netns/NAME. It is ours
// when its lo carries our alias.
type Netns struct {
	Name string
	Up   bool // lo is up
}

func (n Netns) key() key { return netnsKey(n.Name) }

func netnsKey(name string) key { return key{kind: kindNetns, name: name} }

// NetnsSysctls are the switches of a new namespace. IPv6 is off on every link that it gets, for
// lanes have no way out by it: not even somebody who speaks to a lane at layer 2 can
// give it one. lo is there before, and keeps ::1, which programs bind to.
var NetnsSysctls = []Sysctl{
	{"net/ipv6/conf/default/disable_ipv6", "1"},
	{"net/ipv6/conf/default/accept_ra", "0"}, // nor if a program with the right to do so switches it on again
	{"net/ipv6/conf/default/autoconf", "0"},
	{"net/ipv4/tcp_mtu_probing", "1"}, // uplinks may drop what is too large without a word
}

// NetnsInherited are switches of a new namespace that programs meet outside of it: the kernel gives it its own
// defaults, with which an ordinary user's ping fails.
var NetnsInherited = []string{"net/ipv4/ping_group_range", "net/ipv4/ip_unprivileged_port_start"}

func (n Netns) add() []string {
	switches := ""
	for _, s := range NetnsSysctls {
		switches += " " + s.Key + "=" + s.Value
	}
	for _, key := range NetnsInherited {
		switches += fmt.Sprintf(` %s="$(sysctl -n %[1]s)"`, key)
	}
	return []string{
		"ip netns add " + n.Name,
		"ip netns exec " + n.Name + " sysctl -eqw" + switches, // -e: a kernel may have no IPv6
		"ip -n " + n.Name + " link set lo alias " + AliasPrefix + n.Name + " up",
	}
}

func (n Netns) replace(Object) []string {
	return []string{"ip -n " + n.Name + " link set lo up"}
}

func (n Netns) remove() []string { return []string{"ip netns del " + n.Name} }
