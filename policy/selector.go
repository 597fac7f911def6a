package policy

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Selector names an uplink: by interface, connection profile, UUID, SSID or
// device type.
type Selector struct {
	Kind  SelectorKind
	Value string
}

// SelectorKind is the word before a selector's colon.
type SelectorKind string

// The kinds of selector. A bare word is an interface.
const (
	ByInterface  SelectorKind = "interface"
	ByConnection SelectorKind = "connection"
	ByUUID       SelectorKind = "uuid"
	BySSID       SelectorKind = "ssid"
	ByType       SelectorKind = "type"
)

// maxSelector bounds a selector's value. The longest real one is a profile's
// name, which NetworkManager does not limit; 255 is generous.
const maxSelector = 255

// ParseSelector reads "wlp6s0", "interface:wlp6s0", "connection:homewifi",
// "uuid:…", "ssid:Home" or "type:wifi".
func ParseSelector(s string) (Selector, error) {
	kind, value, found := strings.Cut(s, ":")
	if !found {
		kind, value = string(ByInterface), s
	}
	sel := Selector{SelectorKind(kind), value}
	if value == "" {
		return Selector{}, fmt.Errorf("invalid uplink %q: nothing is selected; use an interface such as wlp6s0, or type:wifi", s)
	}
	if len(value) > maxSelector || strings.ContainsFunc(value, isControl) {
		return Selector{}, fmt.Errorf("invalid uplink %.40q: control characters, or longer than %d bytes", s, maxSelector)
	}
	switch sel.Kind {
	case ByInterface:
		if err := CheckInterfaceName(value); err != nil {
			return Selector{}, fmt.Errorf("invalid uplink %q: %w", s, err)
		}
	case ByConnection, ByUUID, BySSID, ByType:
	default:
		return Selector{}, fmt.Errorf("invalid uplink %q: unknown kind %q; use interface, connection, uuid, ssid or type", s, kind)
	}
	return sel, nil
}

// isControl tells what no name has and a terminal may obey; invalid UTF-8 as well.
func isControl(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }

// String is the selector as ParseSelector reads it; an interface is a bare word.
func (s Selector) String() string {
	if s.Kind == ByInterface {
		return s.Value
	}
	return string(s.Kind) + ":" + s.Value
}

// Matches tells whether u is what s names. A private profile's name says nothing: any user can give it one.
func (s Selector) Matches(u *Uplink) bool {
	switch s.Kind {
	case ByInterface:
		return u.Interface == s.Value
	case ByConnection:
		return u.Connection == s.Value && !u.Private
	case ByUUID:
		return strings.EqualFold(u.UUID, s.Value)
	case BySSID:
		return u.SSID == s.Value
	case ByType:
		return u.Type == s.Value
	}
	return false
}
