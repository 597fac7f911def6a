package nm

import (
	"context"
	"testing"

	"github.com/godbus/dbus/v5"
)

const fakeOwner = ":1.7"

// offline is a session without a bus that has fetched the tree of [wifi].
func offline(t *testing.T) *session {
	s := &session{w: NewWatcher(Options{}), ctx: context.Background(), owner: fakeOwner, synced: true, since: 10}
	s.tree = wifi(t).tree
	s.assemble()
	s.publish()
	return s
}

func signal(at dbus.Sequence, sender string, path dbus.ObjectPath, name string, body ...any) *dbus.Signal {
	return &dbus.Signal{Sender: sender, Path: path, Name: name, Body: body, Sequence: at}
}

func newState(at dbus.Sequence, state uint32) *dbus.Signal {
	return signal(at, fakeOwner, dev, propertiesChanged, ifaceDevice, v("State", state), []string{})
}

// An answer is older than the signals that follow it, in whatever order the two are seen.
func TestFetchAndSignals(t *testing.T) {
	for answer, want := range map[dbus.Sequence]string{19: "changing", 21: "active"} {
		s := offline(t)
		s.fetch, s.cancel = make(chan *dbus.Call), func() {}
		s.receive(newState(20, 90))
		objects := map[dbus.ObjectPath]map[string]props{dev: {ifaceDevice: device7("wlp6s0", 2, 100)}}
		s.fetched(&dbus.Call{Body: []any{objects}, ResponseSequence: answer})
		s.assemble()
		if got := describe(s.uplinks)[len("wlp6s0: wifi, "):]; got[:len(want)] != want {
			t.Errorf("answer %d: %s", answer, got)
		}
		if s.fetch != nil || s.noted != nil || s.since != answer {
			t.Error("the fetch has not ended")
		}
	}
}

func TestIgnoredSignals(t *testing.T) {
	for name, sig := range map[string]*dbus.Signal{
		"before the fetch":   newState(9, 30),
		"of somebody else":   signal(11, ":1.8", dev, propertiesChanged, ifaceDevice, v("State", uint32(30)), []string{}),
		"of the bus":         signal(11, driver, dev, propertiesChanged, ifaceDevice, v("State", uint32(30)), []string{}),
		"forged owner":       signal(11, ":1.8", "/", nameOwnerChanged, busName, fakeOwner, ""),
		"other name":         signal(11, driver, "/", nameOwnerChanged, "org.example", fakeOwner, ""),
		"same owner":         signal(11, driver, "/", nameOwnerChanged, busName, "", fakeOwner),
		"owner of no type":   signal(11, driver, "/", nameOwnerChanged, busName, "", 5),
		"owner, cut off":     signal(11, driver, "/", nameOwnerChanged, busName),
		"nothing":            signal(11, fakeOwner, dev, propertiesChanged),
		"wrong types":        signal(11, fakeOwner, dev, propertiesChanged, 1, 2, 3),
		"an int as state":    signal(11, fakeOwner, dev, propertiesChanged, ifaceDevice, v("State", int32(30)), []string{}),
		"unknown object":     signal(11, fakeOwner, dev+"77", propertiesChanged, ifaceDevice, v("State", uint32(30)), []string{}),
		"other interface":    signal(11, fakeOwner, dev, propertiesChanged, ifaceDevice+".Wireless", v("State", uint32(30)), []string{}),
		"added nothing":      signal(11, fakeOwner, objectRoot, interfacesAdded),
		"added wrong types":  signal(11, fakeOwner, objectRoot, interfacesAdded, "x", "y"),
		"removed nothing":    signal(11, fakeOwner, objectRoot, interfacesRemoved),
		"removed wrong type": signal(11, fakeOwner, objectRoot, interfacesRemoved, dev, ifaceDevice),
		"another signal":     signal(11, fakeOwner, dev, "org.freedesktop.NetworkManager.Device.StateChanged", uint32(30), uint32(100), uint32(0)),
		"IPv6 as IPv4":       signal(11, fakeOwner, ip4, propertiesChanged, ifaceIP6, v("Gateway", "fe80::2"), []string{}),
	} {
		s := offline(t)
		s.receive(sig)
		s.assemble()
		if got := describe(s.uplinks); got != home || s.owner != fakeOwner || !s.synced || s.fetch != nil {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestManagedObjects(t *testing.T) {
	for _, call := range []*dbus.Call{{}, {Body: []any{"x"}}, {Body: []any{nil}}, {Err: dbus.ErrClosed}} {
		if objects, err := managedObjects(call); err == nil || objects != nil {
			t.Errorf("%+v: %v, %v", call, objects, err)
		}
	}
}

// From a signal to its snapshot, with the devices of the golden test.
func BenchmarkSignal(b *testing.B) {
	s := &session{w: NewWatcher(Options{}), ctx: context.Background(), owner: fakeOwner, synced: true}
	s.tree = readTree(b, "testdata/real-1.42.json")
	s.assemble()
	gateways := []*dbus.Signal{}
	for _, gateway := range []string{"192.168.10.1", "192.168.10.2"} {
		gateways = append(gateways, signal(1, fakeOwner, managerPath+"/IP4Config/2", propertiesChanged, ifaceIP4, v(
			"Gateway", gateway, "RouteData", []props{
				route("192.168.10.0", 24, "metric", uint32(100)),
				route("0.0.0.0", 0, "next-hop", gateway, "metric", uint32(100)),
			}), []string{}))
	}
	changes := 0
	s.w.options.Changed = func() { changes++ }
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		s.receive(gateways[n%2])
		s.publish()
	}
	if changes < n-1 {
		b.Fatalf("%d changes of %d", changes, n)
	}
}

func BenchmarkSnapshot(b *testing.B) {
	w := NewWatcher(Options{})
	for b.Loop() {
		_ = w.Snapshot()
	}
}
