package nm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"uplane/policy"
)

// TestGolden decodes object trees of real NetworkManagers, as
//
//	busctl --json=pretty call org.freedesktop.NetworkManager /org/freedesktop \
//	    org.freedesktop.DBus.ObjectManager GetManagedObjects
//
// prints them. UPDATE_GOLDEN=1 writes the uplinks anew; read what changed.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		got := describe(readTree(t, file).uplinks(nil))
		path := strings.TrimSuffix(file, ".json") + ".golden"
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s differs (UPDATE_GOLDEN=1 writes it anew):\n%s", path, got)
		}
	}
}

// describe prints uplinks for people.
func describe(uplinks []policy.Uplink) string {
	var b strings.Builder
	for _, u := range uplinks {
		phase := map[policy.Phase]string{policy.PhaseDown: "down", policy.PhaseChanging: "changing", policy.PhaseActive: "active"}
		fmt.Fprintf(&b, "%s: %s, %s", u.Interface, u.Type, phase[u.Phase])
		if u.Connection != "" {
			fmt.Fprintf(&b, ", profile %q %s", u.Connection, u.UUID)
		}
		if u.Private {
			b.WriteString(", private")
		}
		if u.Limited {
			fmt.Fprintf(&b, ", for %q", u.Lanes)
		}
		if u.SSID != "" {
			fmt.Fprintf(&b, ", SSID %q", u.SSID)
		}
		b.WriteByte('\n')
		for _, a := range u.Addresses {
			fmt.Fprintf(&b, "  address %v\n", a)
		}
		for _, r := range u.Routes {
			fmt.Fprintf(&b, "  route %v", r.Dst)
			if r.Via.IsValid() {
				fmt.Fprintf(&b, " via %v", r.Via)
			}
			fmt.Fprintf(&b, " metric %d\n", r.Metric)
		}
		for _, a := range u.DNS {
			fmt.Fprintf(&b, "  nameserver %v\n", a)
		}
		for _, name := range u.Search {
			fmt.Fprintf(&b, "  search %s\n", name)
		}
	}
	return b.String()
}

func readTree(t testing.TB, file string) *tree {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var reply struct {
		Data []map[dbus.ObjectPath]map[string]map[string]variant
	}
	if err := json.Unmarshal(text, &reply); err != nil {
		t.Fatal(err)
	}
	tr := newTree()
	for path, ifaces := range reply.Data[0] {
		object := map[string]props{}
		for iface, values := range ifaces {
			object[iface] = unwrap(values)
		}
		tr.add(path, object)
	}
	for _, p := range tr.profiles {
		p.read = true
	}
	tr.unread = nil
	return tr
}

// variant reads busctl's {"type": …, "data": …} into the Go types that godbus
// uses. Types that no test needs give a variant without a value.
type variant struct{ dbus.Variant }

func (v *variant) UnmarshalJSON(text []byte) error {
	var raw struct {
		Type string
		Data json.RawMessage
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return err
	}
	var err error
	switch raw.Type {
	case "b":
		err = read[bool](v, raw.Data)
	case "u":
		err = read[uint32](v, raw.Data)
	case "s":
		err = read[string](v, raw.Data)
	case "o":
		err = read[dbus.ObjectPath](v, raw.Data)
	case "as":
		err = read[[]string](v, raw.Data)
	case "aay":
		var lists [][]int
		err = json.Unmarshal(raw.Data, &lists)
		bytes := make([][]byte, len(lists))
		for i, list := range lists {
			for _, n := range list {
				bytes[i] = append(bytes[i], byte(n))
			}
		}
		v.Variant = dbus.MakeVariant(bytes)
	case "aa{sv}":
		var dicts []map[string]variant
		err = json.Unmarshal(raw.Data, &dicts)
		plain := make([]props, len(dicts))
		for i, dict := range dicts {
			plain[i] = unwrap(dict)
		}
		v.Variant = dbus.MakeVariant(plain)
	}
	return err
}

func read[T any](v *variant, data json.RawMessage) error {
	var value T
	err := json.Unmarshal(data, &value)
	v.Variant = dbus.MakeVariant(value)
	return err
}

func unwrap(dict map[string]variant) props {
	p := props{}
	for key, v := range dict {
		p[key] = v.Variant
	}
	return p
}
