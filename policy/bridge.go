package policy

import "fmt"

// Bridge is a lane's bridge in the host's namespace.
type Bridge struct {
	Name   string
	Lane   string // from its alias
	MTU    int    // bytes
	Up     bool
	Master string // what others have made it a port of
}

func (b Bridge) key() key { return linkKey("", b.Name) }

// linkKey is one key for bridges and veths alike: two links of one name cannot be.
func linkKey(netns, name string) key { return key{kind: kindBridge, netns: netns, name: name} }

// add leaves it down: a bridge that is up before its port may send nothing for up
// to a second after that, for so long the kernel may take to notice. The port's
// veth takes it up.
func (b Bridge) add() []string {
	return []string{
		fmt.Sprintf("ip link add name %s group %d mtu %d type bridge", b.Name, LinkGroup, b.MTU),
		fmt.Sprintf("ip link set dev %s alias %s%s", b.Name, AliasPrefix, b.Lane),
	}
}

func (b Bridge) replace(from Object) []string {
	master := ""
	if have, ok := from.(Bridge); ok && have.Master != "" {
		master = " nomaster"
	}
	return []string{fmt.Sprintf("ip link set dev %s alias %s%s mtu %d%s up", b.Name, AliasPrefix, b.Lane, b.MTU, master)}
}

func (b Bridge) remove() []string { return []string{"ip link del dev " + b.Name} }
