package nm

import (
	"strings"

	"github.com/Wifx/gonetworkmanager/v3"
	"github.com/godbus/dbus/v5"

	"uplane/policy"
)

// tree is the cache: the part of NetworkManager's object tree that makes uplinks.
// It is not safe for concurrent use.
type tree struct {
	// startup: NetworkManager has not yet taken up what it found at its start.
	startup bool
	devices map[dbus.ObjectPath]*device
	actives map[dbus.ObjectPath]*active
	configs map[dbus.ObjectPath]*config
	// ssids are the names of the access points that were there at the last fetch.
	ssids map[dbus.ObjectPath]string

	profiles map[dbus.ObjectPath]*profile
	unread   []dbus.ObjectPath // profiles that came since the session last looked
}

func newTree() *tree {
	return &tree{
		devices: map[dbus.ObjectPath]*device{},
		actives: map[dbus.ObjectPath]*active{},
		configs: map[dbus.ObjectPath]*config{},
		ssids:   map[dbus.ObjectPath]string{},

		profiles: map[dbus.ObjectPath]*profile{},
	}
}

// add takes in an object's interfaces.
func (t *tree) add(path dbus.ObjectPath, ifaces map[string]props) {
	path = dbus.ObjectPath(strings.Clone(string(path))) // see assign
	for iface, p := range ifaces {
		switch iface {
		case ifaceDevice:
			if t.devices[path] == nil {
				t.devices[path] = &device{}
			}
		case ifaceActive:
			t.actives[path] = &active{}
		case ifaceIP4, ifaceIP6:
			t.configs[path] = &config{ip6: iface == ifaceIP6}
		case ifaceAccessPoint:
			var ssid string
			convert(&ssid, p, "Ssid", decodeSSID)
			t.ssids[path] = ssid
		case ifaceProfile:
			t.addProfile(path)
		}
		t.change(path, iface, p)
	}
	if d := t.devices[path]; d != nil {
		convert(&d.word, ifaces[ifaceModem], "CurrentCapabilities", decodeModem)
		convert(&d.word, ifaces[ifaceGeneric], "TypeDescription", printable)
	}
}

// change takes in changed properties. Those of an object that is not there are
// of no use: it is announced whole.
func (t *tree) change(path dbus.ObjectPath, iface string, p props) {
	switch iface {
	case ifaceManager:
		assign(&t.startup, p, "Startup")
	case ifaceDevice:
		if d := t.devices[path]; d != nil {
			d.update(p)
		}
	case ifaceActive:
		if a := t.actives[path]; a != nil {
			a.update(p)
		}
	case ifaceIP4, ifaceIP6:
		if c := t.configs[path]; c != nil && c.ip6 == (iface == ifaceIP6) {
			c.update(p)
		}
	case ifaceProfile:
		if f := t.profiles[path]; f != nil {
			assign(&f.flags, p, "Flags")
		}
	}
}

// remove drops an object. It returns true when that is a sign of NetworkManager's
// end: a device that really goes has first gone down (state UNMANAGED), but a
// NetworkManager that ends removes its devices as they are, some 20 ms before it
// leaves the bus, and leaves addresses and routes in place (1.42). Such a device
// stays in the tree.
func (t *tree) remove(path dbus.ObjectPath, ifaces []string) (quitting bool) {
	for _, iface := range ifaces {
		switch iface {
		case ifaceDevice:
			if d := t.devices[path]; d != nil && d.state >= gonetworkmanager.NmDeviceStatePrepare {
				quitting = true
				continue
			}
			delete(t.devices, path)
		case ifaceActive:
			delete(t.actives, path)
		case ifaceIP4, ifaceIP6:
			delete(t.configs, path)
		case ifaceProfile:
			t.removeProfile(path)
		}
	}
	return quitting
}

// missing are the objects that devices in use refer to and that the tree does
// not have, with the state of the device. NetworkManager announces objects before
// it refers to them, except access points, which it announces in vain (see
// [matchRules]) and which may get their name only when the device is associated.
func (t *tree) missing() map[dbus.ObjectPath]gonetworkmanager.NmDeviceState {
	var missing map[dbus.ObjectPath]gonetworkmanager.NmDeviceState
	need := func(d *device, path dbus.ObjectPath, there bool) {
		if there || path == "" || path == noObject {
			return
		}
		if missing == nil {
			missing = map[dbus.ObjectPath]gonetworkmanager.NmDeviceState{}
		}
		missing[path] = d.state
	}
	for _, d := range t.devices {
		if d.state < gonetworkmanager.NmDeviceStatePrepare || d.state > gonetworkmanager.NmDeviceStateActivated {
			continue
		}
		need(d, d.ip4, t.configs[d.ip4] != nil)
		need(d, d.ip6, t.configs[d.ip6] != nil)
		a := t.actives[d.active]
		need(d, d.active, a != nil)
		if a != nil && isAccessPoint(a.specific) {
			need(d, a.specific, t.ssids[a.specific] != "")
		}
	}
	return missing
}

// isUp tells whether path is a device that has a connection, or is getting one.
func (t *tree) isUp(path dbus.ObjectPath) bool {
	d := t.devices[path]
	if d == nil {
		return false
	}
	phase, _ := d.phase()
	return phase != policy.PhaseDown
}

func isAccessPoint(path dbus.ObjectPath) bool {
	return strings.HasPrefix(string(path), string(accessPointPath))
}
