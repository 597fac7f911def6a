// Package api is the D-Bus API of the daemon, server and client.
//
// The way of a call through the server: package busguard hands it over; admission.go bounds
// how many there are; call.go finds its [method] by path, interface and member
// and checks the arguments' types; authorize.go asks who the caller is and, unless root,
// polkit; then it runs. What there is to call is in the tables of manager.go,
// lane.go and standard.go, which the introspection data is made of, too.
//
// Reading costs the daemon's loop nothing: the server keeps the lanes as the
// loop last showed them ([Server.Update]), and answers from there. Signals tell
// of the difference between two of those (signals.go), and every answer follows
// the signals about what it says.
package api

import "github.com/godbus/dbus/v5"

// Names on the system bus.
const (
	Name             = "org.uplane.Uplane1"
	Path             = dbus.ObjectPath("/org/uplane/Uplane1")
	ManagerInterface = Name + ".Manager"
	LaneInterface    = Name + ".Lane"

	lanesPath = Path + "/lanes"
)

// D-Bus's own names.
const (
	driver         = "org.freedesktop.DBus"
	properties     = driver + ".Properties"
	objectManager  = driver + ".ObjectManager"
	introspectable = driver + ".Introspectable"
	peer           = driver + ".Peer"
)
