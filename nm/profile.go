package nm

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"

	"uplane/policy"
)

// User keys in a profile's [user] section.
const (
	userPrefix  = "org.uplane."
	laneKey     = "lane"  // on a bridge: the lane that lives on it
	lanesKey    = "lanes" // on an uplink: the lanes that it serves
	lanePrefix  = "ul-"   // an interface of this name is a lane's, without any key
	maxUserKeys = 32
	maxUserText = 4096
)

// Flags of a Settings.Connection, from NMSettingsConnectionFlags.
const (
	flagGenerated = 0x2 // NetworkManager's own description of a device that somebody else set up
	flagExternal  = 0x8
)

// profile is a Settings.Connection object with its settings, which are no property: see reading.go.
type profile struct {
	policy.Profile // Lane is empty when it asks for none
	read           bool
	private        bool   // it is some users' own, who need no right over the system to make it
	refused        string // the lane that a private profile asks for in vain
	flags          uint32
	limited        bool
	lanes          []string
}

// settings are a profile's, by section and key, each value as D-Bus has it.
type settings = map[string]map[string]any

// decodeProfile takes from a profile's settings what concerns lanes. The texts
// are fit to print and bounded, no more: whoever acts on them checks them.
func decodeProfile(s settings) profile {
	p := profile{read: true}
	p.UUID, p.Name = text(s, "connection", "uuid"), text(s, "connection", "id")
	user := userKeys(s)
	p.private = private(s)
	if names, ok := user[lanesKey]; ok {
		p.limited, p.lanes = true, fields(names)
	}
	if text(s, "connection", "type") != "bridge" {
		return p
	}
	p.Interface, p.Method = text(s, "connection", "interface-name"), text(s, "ipv4", "method")
	p.Lane, p.Named = user[laneKey]
	if !p.Named {
		p.Lane, _ = strings.CutPrefix(p.Interface, lanePrefix)
		if p.Lane == p.Interface {
			p.Lane = ""
		}
	}
	if p.private {
		p.Lane, p.refused, p.Named = "", p.Lane, false
	}
	p.Address = firstAddress(s)
	for name, value := range user {
		if name != laneKey && name != lanesKey {
			if p.Keys == nil {
				p.Keys = map[string]string{}
			}
			p.Keys[name] = value
		}
	}
	return p
}

// private tells whether a profile is not everybody's. NetworkManager lets any user who sits at the machine make
// such profiles, so what they ask for is no administrator's word.
func private(s settings) bool {
	permissions, ok := s["connection"]["permissions"]
	list, isList := permissions.([]string)
	return ok && (!isList || len(list) > 0)
}

// text is a setting that is a string.
func text(s settings, section, key string) string {
	v, _ := s[section][key].(string)
	if len(v) > maxUserText {
		return ""
	}
	return printable(v)
}

// tooLong stands for a value that is longer than maxUserText. No key of a lane takes it.
const tooLong = "(longer than 4096 bytes)"

// userKeys are those with our prefix, without it. Nothing is dropped unseen, for that may be what limits a network or a
// lane: a value that is too long becomes one that is refused, and of too many keys, most of which can't be ours, enough
// stay to be refused.
func userKeys(s settings) map[string]string {
	data, _ := s["user"]["data"].(map[string]string)
	var out map[string]string
	others := 0
	for _, name := range slices.Sorted(maps.Keys(data)) {
		value := data[name]
		name, ours := strings.CutPrefix(name, userPrefix)
		if !ours || others == maxUserKeys && name != laneKey && name != lanesKey {
			continue
		}
		switch {
		case len(value) <= maxUserText:
			value = printable(value)
		case name == lanesKey:
			value = "" // no lane
		default:
			value = tooLong
		}
		if name != laneKey && name != lanesKey {
			others++
		}
		if out == nil {
			out = map[string]string{}
		}
		out[printable(name[:min(len(name), maxUserText)])] = value
	}
	return out
}

// fields are the words of a list with commas, or with the semicolons that keyfiles use.
func fields(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ';' || r == ' ' })
}

// firstAddress is the first of ipv4.addresses.
func firstAddress(s settings) netip.Prefix {
	var first props
	switch data := s["ipv4"]["address-data"].(type) {
	case []map[string]dbus.Variant:
		if len(data) > 0 {
			first = data[0]
		}
	case []map[string]any: // gonetworkmanager has taken the variants off
		if len(data) > 0 {
			address, _ := data[0]["address"].(string)
			bits, _ := data[0]["prefix"].(uint32)
			first = props{"address": dbus.MakeVariant(address), "prefix": dbus.MakeVariant(bits)}
		}
	}
	address, _ := (&config{}).decodePrefix(first, "address")
	return address
}

// generated tells that no user made the profile.
func (p *profile) generated() bool { return p.flags&(flagGenerated|flagExternal) != 0 }
