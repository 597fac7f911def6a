package walk

import (
	"net/netip"

	"uplane/policy"
)

// Packet is one packet where it comes into being.
type Packet struct {
	From        Place
	Source      netip.Addr // of lanes and the host: zero is the one that they would take
	Destination netip.Addr
	ICMP        bool
	Connection  Connection
}

// Place is where a packet comes from: a lane's namespace, an interface of the host
// (from a neighbour, or from anywhere by it), or, when empty, the host itself.
type Place struct {
	Lane      string
	Interface string
	// Raw: of a lane, it is put on the wire as it is, whatever the namespace's routes say.
	// A program with enough rights in the lane can do that.
	Raw bool
}

// Family is that of its destination.
func (p *Packet) Family() policy.Family { return policy.FamilyOf(p.Destination) }

// Connection is what connection tracking knows of a packet.
type Connection struct {
	State policy.CtState // one of them
	Reply bool           // it goes in the direction of the answers
	// Origin is who began the connection, Translated what that is translated to. Zero: it is not.
	Origin, Translated netip.Addr
	// Card is the interface for which the translation was made.
	Card string
}

// tracked tells whether translation sees the packet at all.
func (c *Connection) tracked() bool {
	return c.State&(policy.CtNew|policy.CtEstablished|policy.CtRelated) != 0
}
