package policy

import "net/netip"

// Profile is a NetworkManager bridge profile that asks for a lane. What it says
// is as the user wrote it: nothing is checked yet.
type Profile struct {
	UUID, Name string
	Interface  string            // of the bridge
	Lane       string            // the lane's name
	Keys       map[string]string // other keys of the lane, by their names in a lane file
	Named      bool              // it names its lane by a user key, not by its interface
	Address    netip.Prefix      // the first IPv4 address, with host bits; zero: none
	Method     string            // ipv4.method
	Active     bool              // NetworkManager has activated it, or is doing so
	Leaving    bool              // it is deleted, but its bridge is still there
}
