package api

import (
	"testing"

	"github.com/godbus/dbus/v5"
)

func TestLanePaths(t *testing.T) {
	for name, want := range map[string]dbus.ObjectPath{
		"steam":  lanesPath + "/steam",
		"a-b_c":  lanesPath + "/a_2db_5fc",
		"9lives": lanesPath + "/_39lives",
		"a9":     lanesPath + "/a9",
		"ä.":     lanesPath + "/_c3_a4_2e", // no lane's name; systemd's example of the rule
	} {
		if got := LanePath(name); got != want {
			t.Errorf("%q: %s, not %s", name, got, want)
		}
		if got, ok := laneOf(want); !ok || got != name {
			t.Errorf("%s: %q, %t", want, got, ok)
		}
	}
	for _, path := range []dbus.ObjectPath{
		Path, lanesPath, lanesPath + "/", "/", "/org/uplane/Uplane1/other",
		lanesPath + "/_", lanesPath + "/_6", lanesPath + "/_zz", lanesPath + "/a/b",
		lanesPath + "/_61", // that is a, whose path is another
		lanesPath + "/a_2Db",
	} {
		if interfaces, lane := interfacesAt(path); lane != "" {
			t.Errorf("%s is lane %q with %d interfaces", path, lane, len(interfaces))
		}
	}
}

func FuzzLanePath(f *testing.F) {
	f.Add("steam", "a_2db")
	f.Add("", "_")
	f.Fuzz(func(t *testing.T, name, label string) {
		path := LanePath(name)
		if !path.IsValid() {
			t.Fatalf("%q: invalid path %s", name, path)
		}
		if got, ok := laneOf(path); !ok || got != name {
			t.Fatalf("%q: %q, %t", name, got, ok)
		}
		if name, ok := unescape(label); ok && escape(name) != label {
			t.Fatalf("%q has two paths", name)
		}
	})
}
