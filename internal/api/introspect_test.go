package api

import (
	"os"
	"slices"
	"testing"

	"github.com/godbus/dbus/v5/introspect"
)

// What is installed tells what is exported. UPDATE_GOLDEN=1 writes it anew;
// read the difference, it is what other programs see.
func TestIntrospectionFile(t *testing.T) {
	const file = "../../packaging/dbus/org.uplane.Uplane1.xml"
	want, err := introspection(&introspect.Node{Interfaces: []introspect.Interface{managerInterface.introspect(), laneInterface.introspect()}})
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != want {
		t.Errorf("%s: %v; it is\n%s\nand shall be\n%s", file, err, got, want)
	}
}

// Methods that anybody may call are few and known.
func TestEveryMethodIsGuarded(t *testing.T) {
	free := []string{"Set", "Introspect", "Ping", "GetMachineId"}
	for _, i := range append(slices.Clone(rootInterfaces), laneInterfaces...) {
		for _, m := range i.methods {
			if (m.needs == nil) != slices.Contains(free, m.name) {
				t.Errorf("%s.%s: guarded: %t", i.name, m.name, m.needs != nil)
			}
		}
	}
}
