package api

import (
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/internal/busguard"
)

// Lane is how a lane is, in the form of --json. The form is stable: keys are
// added, never renamed.
type Lane struct {
	Name      string   `json:"name"`
	State     string   `json:"state"` // down, waiting, up, degraded or error
	Reason    string   `json:"reason"`
	Uplink    Uplink   `json:"uplink"`
	Profile   string   `json:"profile"`   // NetworkManager's, that the lane is; empty: it is a file
	Namespace string   `json:"namespace"` // a path
	Bridge    string   `json:"bridge"`    // empty: none
	Subnet    string   `json:"subnet"`
	Table     uint32   `json:"table"`
	Mark      uint32   `json:"mark"` // 0: none
	IPv4      Family   `json:"ipv4"`
	IPv6      Family   `json:"ipv6"`
	DNS       []string `json:"dns"`
	Since     string   `json:"since"` // of the state; RFC 3339, UTC

	Conditions []Condition `json:"conditions"`
}

// Condition is a fact about a lane that its user should know.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"` // True: it is so
	Reason  string `json:"reason"` // a code, CamelCase, that never changes
	Message string `json:"message"`
	Hint    string `json:"hint"` // a command or step that helps; may be empty
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

// SinceTime formats the time of a state.
func SinceTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// property is a property of a lane's object.
type property struct {
	name      string
	signature string
	of        func(*Lane) any
	constant  bool
}

// laneProperties are a Lane on the bus. The set may grow.
var laneProperties = []property{
	{name: "Name", signature: "s", of: func(l *Lane) any { return l.Name }, constant: true},
	{name: "State", signature: "s", of: func(l *Lane) any { return l.State }},
	{name: "Reason", signature: "s", of: func(l *Lane) any { return busguard.Text(l.Reason) }},
	{name: "Since", signature: "s", of: func(l *Lane) any { return l.Since }},
	{name: "Uplink", signature: "a{ss}", of: func(l *Lane) any { return l.Uplink.dict() }},
	{name: "Profile", signature: "s", of: func(l *Lane) any { return busguard.Text(l.Profile) }},
	{name: "Addresses", signature: "as", of: func(l *Lane) any { return nonEmpty(slices.Concat(l.IPv4.Addresses, l.IPv6.Addresses)...) }},
	{name: "Gateways", signature: "as", of: func(l *Lane) any { return nonEmpty(l.IPv4.Gateway, l.IPv6.Gateway) }},
	{name: "DNS", signature: "as", of: func(l *Lane) any { return nonEmpty(l.DNS...) }},
	{name: "Subnet", signature: "s", of: func(l *Lane) any { return l.Subnet }},
	{name: "Table", signature: "u", of: func(l *Lane) any { return l.Table }},
	{name: "Mark", signature: "u", of: func(l *Lane) any { return l.Mark }},
	{name: "Bridge", signature: "s", of: func(l *Lane) any { return l.Bridge }},
	{name: "Namespace", signature: "s", of: func(l *Lane) any { return l.Namespace }},
	{name: "Conditions", signature: "a(sssss)", of: func(l *Lane) any { return l.conditions() }},
}

// values are properties with their values: a{sv}.
type values = map[string]dbus.Variant

// values are all of a lane's properties.
func (l *Lane) values() values {
	out := make(values, len(laneProperties))
	for _, p := range laneProperties {
		out[p.name] = dbus.MakeVariant(p.of(l))
	}
	return out
}

func (u Uplink) dict() map[string]string {
	if u == (Uplink{}) {
		return map[string]string{}
	}
	// Names of profiles and networks come from files and from the air.
	return map[string]string{"interface": u.Interface, "connection": busguard.Text(u.Connection), "uuid": busguard.Text(u.UUID), "ssid": busguard.Text(u.SSID)}
}

// conditions are in the form that the bus takes: names of profiles and networks are in their messages.
func (l *Lane) conditions() []Condition {
	out := make([]Condition, len(l.Conditions))
	for i, c := range l.Conditions {
		out[i] = Condition{c.Type, c.Status, c.Reason, busguard.Text(c.Message), busguard.Text(c.Hint)}
	}
	return out
}

// conditionsFrom is the other way. The bus gives structs as lists; what is of another form is left out.
func conditionsFrom(v dbus.Variant) []Condition {
	out := []Condition{}
	lists, _ := v.Value().([][]any)
	for _, list := range lists {
		var words [5]string
		ok := len(list) == len(words)
		for i := 0; ok && i < len(words); i++ {
			words[i], ok = list[i].(string)
		}
		if ok {
			out = append(out, Condition{words[0], words[1], words[2], words[3], words[4]})
		}
	}
	return out
}

// laneFrom is the other way; what is missing or of another type stays empty.
func laneFrom(v values) Lane {
	up := get[map[string]string](v, "Uplink")
	l := Lane{
		Name: get[string](v, "Name"), State: get[string](v, "State"), Reason: get[string](v, "Reason"), Since: get[string](v, "Since"),
		Uplink:  Uplink{Interface: up["interface"], Connection: up["connection"], UUID: up["uuid"], SSID: up["ssid"]},
		Profile: get[string](v, "Profile"), Subnet: get[string](v, "Subnet"), Table: get[uint32](v, "Table"), Mark: get[uint32](v, "Mark"),
		Bridge: get[string](v, "Bridge"), Namespace: get[string](v, "Namespace"),
		// Never nil, so that JSON has [] and not null.
		IPv4: Family{Addresses: []string{}}, IPv6: Family{Addresses: []string{}}, DNS: nonEmpty(get[[]string](v, "DNS")...),
		Conditions: conditionsFrom(v["Conditions"]),
	}
	for _, a := range get[[]string](v, "Addresses") {
		f := l.family(a)
		f.Addresses = append(f.Addresses, a)
	}
	for _, gw := range get[[]string](v, "Gateways") {
		l.family(gw).Gateway = gw
	}
	return l
}

// family is where an address belongs.
func (l *Lane) family(address string) *Family {
	if strings.Contains(address, ":") {
		return &l.IPv6
	}
	return &l.IPv4
}

func get[T any](v values, key string) T {
	x, _ := v[key].Value().(T)
	return x
}

func nonEmpty(all ...string) []string {
	out := []string{}
	for _, s := range all {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}
