package policy

// Netns is a lane's network namespace, bound to /run/netns/NAME. It is ours
// when its lo carries our alias.
type Netns struct {
	Name string
	Up   bool // lo is up
}

func (n Netns) key() key { return netnsKey(n.Name) }

func netnsKey(name string) key { return key{kind: kindNetns, name: name} }

func (n Netns) add() []string {
	return []string{
		"ip netns add " + n.Name,
		"ip -n " + n.Name + " link set lo alias " + AliasPrefix + n.Name + " up",
	}
}

func (n Netns) replace(Object) []string {
	return []string{"ip -n " + n.Name + " link set lo up"}
}

func (n Netns) remove() []string { return []string{"ip netns del " + n.Name} }
