// Package nm follows NetworkManager over D-Bus: one cached snapshot of its
// devices, their IP configurations and active profiles, as [policy.Uplink]s, and of
// the profiles that ask for a lane, as [policy.Profile]s.
//
// A [Watcher] owns a private bus connection and is the only writer of the cache
// (tree.go). What comes off the bus is decoded once, on arrival, into small typed
// values (decode.go); uplinks.go, which is pure, turns the cache and the previous
// uplinks into the next ones. NetworkManager runs as root, but much of what it
// hands on comes from the air: names of networks, leases, router advertisements.
// Nothing of it is trusted to have the right form.
package nm

import (
	"github.com/Wifx/gonetworkmanager/v3"
	"github.com/godbus/dbus/v5"
)

// NetworkManager's names on the bus.
const (
	busName    = "org.freedesktop.NetworkManager"
	objectRoot = dbus.ObjectPath("/org/freedesktop")
	noObject   = dbus.ObjectPath("/")

	managerPath     = objectRoot + "/NetworkManager"
	accessPointPath = managerPath + "/AccessPoint/"

	ifaceManager     = busName
	ifaceDevice      = busName + ".Device"
	ifaceGeneric     = busName + ".Device.Generic"
	ifaceModem       = busName + ".Device.Modem"
	ifaceAccessPoint = busName + ".AccessPoint"
	ifaceActive      = busName + ".Connection.Active"
	ifaceIP4         = busName + ".IP4Config"
	ifaceIP6         = busName + ".IP6Config"
	ifaceProfile     = busName + ".Settings.Connection"
	profileUpdated   = ifaceProfile + ".Updated"
)

// D-Bus's own names.
const (
	driver            = "org.freedesktop.DBus"
	objectManager     = driver + ".ObjectManager"
	properties        = driver + ".Properties"
	nameOwnerChanged  = driver + ".NameOwnerChanged"
	propertiesChanged = properties + ".PropertiesChanged"
	interfacesAdded   = objectManager + ".InterfacesAdded"
	interfacesRemoved = objectManager + ".InterfacesRemoved"
)

// matchRules select the signals that can change an uplink, and no other: a
// laptop that sits on its Wi-Fi must not wake this process. So
//   - Device.Wireless is left out, for its Bitrate changes every few seconds and
//     its AccessPoints with every scan; the active profile's SpecificObject tells
//     the access point as well, and changes only when that does;
//   - access points come and go with every scan, so they are neither announced
//     nor followed; see [tree.missing].
//
// That NetworkManager has started up is the manager's to tell, which is only listened to until then (see
// [session.hearManager]): whenever a link comes or goes it names all devices twice, with a thousand lanes 200 KiB.
//
// A rule's sender is a well-known name for the bus to resolve. Messages that are
// sent to this process directly pass no rule; package wire drops them.
func matchRules() [][]dbus.MatchOption {
	rules := [][]dbus.MatchOption{{
		dbus.WithMatchSender(driver),
		dbus.WithMatchInterface(driver),
		dbus.WithMatchMember("NameOwnerChanged"),
		dbus.WithMatchArg(0, busName),
	}}
	for _, iface := range []string{ifaceDevice, ifaceActive, ifaceIP4, ifaceIP6, ifaceProfile} {
		rules = append(rules, []dbus.MatchOption{
			dbus.WithMatchSender(busName),
			dbus.WithMatchInterface(properties),
			dbus.WithMatchMember("PropertiesChanged"),
			dbus.WithMatchArg(0, iface),
		})
	}
	for _, kind := range []dbus.ObjectPath{"/Devices/", "/ActiveConnection/", "/IP4Config/", "/IP6Config/", "/Settings/"} {
		rules = append(rules, []dbus.MatchOption{
			dbus.WithMatchSender(busName),
			dbus.WithMatchInterface(objectManager),
			dbus.WithMatchObjectPath(objectRoot),
			dbus.WithMatchArgPath(0, string(managerPath+kind)),
		})
	}
	return append(rules, []dbus.MatchOption{
		dbus.WithMatchSender(busName),
		dbus.WithMatchInterface(ifaceProfile),
		dbus.WithMatchMember("Updated"),
	})
}

// managerRule selects the changes of the manager's properties.
const managerRule = "type='signal',sender='" + busName + "',interface='" + properties + "',member='PropertiesChanged',arg0='" + ifaceManager + "'"

// Device types that gonetworkmanager does not know yet.
const (
	deviceTypeVRF    gonetworkmanager.NmDeviceType = 31
	deviceTypeHSR    gonetworkmanager.NmDeviceType = 33
	deviceTypeIPVLAN gonetworkmanager.NmDeviceType = 34
)

// typeNames are nmcli's words for device types: libnm's class names in lower
// case, but for veth, which it calls ethernet. Types that carry no traffic of
// their own (loopback, wifi-p2p, parts of an Open vSwitch) are missing.
var typeNames = map[gonetworkmanager.NmDeviceType]string{
	gonetworkmanager.NmDeviceTypeEthernet: "ethernet",
	gonetworkmanager.NmDeviceTypeWifi:     "wifi",
	// nmcli's device list says bt, its profile list bluetooth.
	gonetworkmanager.NmDeviceTypeBt:           "bluetooth",
	gonetworkmanager.NmDeviceTypeOlpcMesh:     "olpcmesh",
	gonetworkmanager.NmDeviceTypeWimax:        "wimax",
	gonetworkmanager.NmDeviceTypeModem:        "modem", // or gsm or cdma, see decodeModem
	gonetworkmanager.NmDeviceTypeInfiniband:   "infiniband",
	gonetworkmanager.NmDeviceTypeBond:         "bond",
	gonetworkmanager.NmDeviceTypeVlan:         "vlan",
	gonetworkmanager.NmDeviceTypeAdsl:         "adsl",
	gonetworkmanager.NmDeviceTypeBridge:       "bridge",
	gonetworkmanager.NmDeviceTypeGeneric:      "generic", // or its TypeDescription
	gonetworkmanager.NmDeviceTypeTeam:         "team",
	gonetworkmanager.NmDeviceTypeTun:          "tun",
	gonetworkmanager.NmDeviceTypeIpTunnel:     "iptunnel",
	gonetworkmanager.NmDeviceTypeMacvlan:      "macvlan",
	gonetworkmanager.NmDeviceTypeVxlan:        "vxlan",
	gonetworkmanager.NmDeviceTypeVeth:         "ethernet",
	gonetworkmanager.NmDeviceTypeMacsec:       "macsec",
	gonetworkmanager.NmDeviceTypeDummy:        "dummy",
	gonetworkmanager.NmDeviceTypePpp:          "ppp",
	gonetworkmanager.NmDeviceTypeOvsInterface: "ovs-interface",
	gonetworkmanager.NmDeviceTypeWpan:         "wpan",
	gonetworkmanager.NmDeviceType6lowpan:      "6lowpan",
	gonetworkmanager.NmDeviceTypeWireguard:    "wireguard",
	deviceTypeVRF:                             "vrf",
	deviceTypeHSR:                             "hsr",
	deviceTypeIPVLAN:                          "ipvlan",
}

// genericLoopback is what NetworkManager before 1.44 has for lo.
const genericLoopback = "loopback"
