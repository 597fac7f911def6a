package policy

import "fmt"

// InnerLink is the name of the veth's end inside the namespace.
const InnerLink = "eth0"

// Veth is the pair that connects a lane's namespace to the host.
type Veth struct {
	Name    string // the host's end
	Lane    string // from the host end's alias
	Netns   string // where the inner end is; empty when it is in none of ours
	Inner   string // the inner end's name
	Bridge  string // the bridge the host's end is a port of; empty: none
	MTU     int    // of both ends, bytes; 0 when they differ
	Up      bool
	InnerUp bool
}

func (v Veth) key() key { return linkKey("", v.Name) }

// outer is the interface by which the host sees the lane's packets.
func (v Veth) outer() string {
	if v.Bridge != "" {
		return v.Bridge
	}
	return v.Name
}

func (v Veth) add() []string {
	master := ""
	if v.Bridge != "" {
		master = " master " + v.Bridge
	}
	lines := []string{
		fmt.Sprintf("ip link add name %s group %d mtu %d type veth peer name %s mtu %d netns %s", v.Name, LinkGroup, v.MTU, v.Inner, v.MTU, v.Netns),
		fmt.Sprintf("ip link set dev %s alias %s%s%s up", v.Name, AliasPrefix, v.Lane, master),
		fmt.Sprintf("ip -n %s link set dev %s up", v.Netns, v.Inner),
	}
	if v.Bridge != "" {
		lines = append(lines, fmt.Sprintf("ip link set dev %s up", v.Bridge))
	}
	return lines
}

func (v Veth) replace(from Object) []string {
	have, _ := from.(Veth)
	master := ""
	switch {
	case have.Bridge == v.Bridge:
	case v.Bridge == "":
		master = " nomaster"
	default:
		master = " master " + v.Bridge
	}
	return []string{
		fmt.Sprintf("ip link set dev %s alias %s%s mtu %d%s up", v.Name, AliasPrefix, v.Lane, v.MTU, master),
		fmt.Sprintf("ip -n %s link set dev %s mtu %d up", v.Netns, v.Inner, v.MTU),
	}
}

func (v Veth) remove() []string { return []string{"ip link del dev " + v.Name} }
