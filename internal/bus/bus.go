// Package bus is the D-Bus API of the daemon, server and client: what of it the
// command line needs. The bus's policy lets only root call it.
package bus

import (
	"time"

	"github.com/godbus/dbus/v5"
)

// Names on the system bus.
const (
	Name      = "org.uplane.Uplane1"
	Path      = dbus.ObjectPath("/org/uplane/Uplane1")
	Interface = Name + ".Manager"
	errorName = Name + ".Error."
)

// Lane is how a lane is, in the form of --json. The form is stable: keys are
// added, never renamed.
type Lane struct {
	Name      string   `json:"name"`
	State     string   `json:"state"` // down, waiting, up, degraded or error
	Reason    string   `json:"reason"`
	Uplink    Uplink   `json:"uplink"`
	Namespace string   `json:"namespace"` // a path
	Bridge    string   `json:"bridge"`    // empty: none
	Subnet    string   `json:"subnet"`
	Table     uint32   `json:"table"`
	Mark      uint32   `json:"mark"` // 0: none
	IPv4      Family   `json:"ipv4"`
	IPv6      Family   `json:"ipv6"`
	DNS       []string `json:"dns"`
	Since     string   `json:"since"` // of the state; RFC 3339, UTC
}

// Uplink is what a lane leaves by; all empty while it has none.
type Uplink struct {
	Interface  string `json:"interface"`
	Connection string `json:"connection"`
	UUID       string `json:"uuid"`
	SSID       string `json:"ssid"`
}

// Family is an uplink's addresses, with prefix lengths, and its gateway.
type Family struct {
	Addresses []string `json:"addresses"`
	Gateway   string   `json:"gateway"`
}

// dict is a Lane on the bus: a{sv}, whose keys may grow in number.
type dict = map[string]dbus.Variant

func (l Lane) dict() dict {
	v := dbus.MakeVariant
	return dict{
		"Name": v(l.Name), "State": v(l.State), "Reason": v(l.Reason),
		"Interface": v(l.Uplink.Interface), "Connection": v(l.Uplink.Connection), "UUID": v(l.Uplink.UUID), "SSID": v(l.Uplink.SSID),
		"Namespace": v(l.Namespace), "Bridge": v(l.Bridge), "Subnet": v(l.Subnet), "Table": v(l.Table), "Mark": v(l.Mark),
		"Addresses4": v(l.IPv4.Addresses), "Gateway4": v(l.IPv4.Gateway),
		"Addresses6": v(l.IPv6.Addresses), "Gateway6": v(l.IPv6.Gateway),
		"DNS": v(l.DNS), "Since": v(l.Since),
	}
}

// fromDict is the other way; what is missing or of another type stays empty.
func fromDict(d dict) Lane {
	return Lane{
		Name: get[string](d, "Name"), State: get[string](d, "State"), Reason: get[string](d, "Reason"),
		Uplink: Uplink{
			Interface: get[string](d, "Interface"), Connection: get[string](d, "Connection"),
			UUID: get[string](d, "UUID"), SSID: get[string](d, "SSID"),
		},
		Namespace: get[string](d, "Namespace"), Bridge: get[string](d, "Bridge"), Subnet: get[string](d, "Subnet"),
		Table: get[uint32](d, "Table"), Mark: get[uint32](d, "Mark"),
		IPv4: Family{list(d, "Addresses4"), get[string](d, "Gateway4")},
		IPv6: Family{list(d, "Addresses6"), get[string](d, "Gateway6")},
		DNS:  list(d, "DNS"), Since: get[string](d, "Since"),
	}
}

func get[T any](d dict, key string) T {
	v, _ := d[key].Value().(T)
	return v
}

// list is never nil, so that JSON has [] and not null.
func list(d dict, key string) []string {
	if v := get[[]string](d, key); v != nil {
		return v
	}
	return []string{}
}

// SinceTime formats the time of a state.
func SinceTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
