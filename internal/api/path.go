package api

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"
)

// LanePath is the path of a lane's object.
func LanePath(name string) dbus.ObjectPath { return lanesPath + "/" + dbus.ObjectPath(escape(name)) }

// laneOf is the name of the lane whose object is at path.
func laneOf(path dbus.ObjectPath) (name string, ok bool) {
	label, ok := strings.CutPrefix(string(path), string(lanesPath)+"/")
	if !ok {
		return "", false
	}
	return unescape(label)
}

// escape makes of a name an element of an object path, as systemd's
// bus_label_escape does: what is neither letter nor digit, and a digit at the
// beginning, becomes an underscore and two hexadecimal digits.
func escape(name string) string {
	if name == "" {
		return "_"
	}
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; plain(c, i) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}

func plain(c byte, at int) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' && at > 0
}

// unescape undoes escape. What escape does not make is no name, so that every
// object has one path.
func unescape(label string) (name string, ok bool) {
	if label == "_" {
		return "", true
	}
	b := make([]byte, 0, len(label))
	for i := 0; i < len(label); i++ {
		if label[i] != '_' {
			b = append(b, label[i])
			continue
		}
		if i+2 >= len(label) {
			return "", false
		}
		c, err := hex.DecodeString(label[i+1 : i+3])
		if err != nil {
			return "", false
		}
		b = append(b, c...)
		i += 2
	}
	return string(b), escape(string(b)) == label
}
