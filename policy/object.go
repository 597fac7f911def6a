package policy

import "net/netip"

// Tags of ownership. What carries none of them is never changed or deleted.
const (
	// Protocol marks our routes and rules; /etc/iproute2/rt_protos.d names it.
	Protocol = 117
	// LinkGroup marks our links from the moment the kernel makes them: an
	// alias can only be set a system call later, and a crash in between would
	// leave a link that nobody owns.
	LinkGroup = 117
	// AliasPrefix starts the alias of our links, and of lo in our namespaces.
	AliasPrefix = "uplane:"
	// MadePrefix starts the alias of a bridge that we have made and NetworkManager
	// has taken over. It leaves such a bridge behind when the profile is deleted, so
	// it is ours again when no profile has it.
	MadePrefix = "uplane-made:"
)

// Object is one thing in the kernel or on disk that a lane is made of. Objects
// are comparable with ==: two are the same state when they are equal, and the
// same thing in different states when only their keys are.
type Object interface {
	key() key
	add() []string    // shell lines that make it where there is none
	remove() []string // shell lines that take it away
}

// replacer is an object that can be brought from another state in place.
type replacer interface {
	Object
	replace(have Object) []string
}

// dependent is an object that the kernel drops together with others.
type dependent interface {
	dependsOn() []key
}

// key identifies an object among all of a host's; it is what the kernel keys on.
type key struct {
	kind   kind
	netns  string
	name   string
	prefix netip.Prefix
	to     netip.Prefix
	family Family
	number [5]uint32
}

// kind is an object's type. The order is the order of building: what makes the
// lane fail closed (route, table, rule) comes before the veth through which the
// first packet could leave, and removal runs backwards. What sets the witness
// comes before the rules that want it.
type kind int

const (
	kindFloor kind = iota
	kindTable
	kindElement
	kindChain
	kindChainRule
	kindDoor
	kindEarlySysctl
	kindRule
	kindNetns
	kindBridge
	kindVeth
	kindSysctl
	kindAddr
	kindOnLink
	kindRoute
	kindAnswer
	kindFile
)
