package api

import (
	"context"
	"encoding/xml"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"

	"uplane/test/bustest"
	"uplane/test/lab"
)

func TestMethods(t *testing.T) {
	lab.RequireRoot(t)
	s := newSite(t)
	conn := bustest.Connect(t, s.address)
	steam := LanePath("steam")

	var lanes []listed
	s.works(call(conn, Path, ManagerInterface+".List"), &lanes)
	if want := []listed{{"old", "down", LanePath("old")}, {"steam", "up", steam}}; !reflect.DeepEqual(lanes, want) {
		t.Errorf("List: %v", lanes)
	}
	var path dbus.ObjectPath
	s.works(call(conn, Path, ManagerInterface+".Get", "steam"), &path)
	if path != steam {
		t.Errorf("Get: %s", path)
	}
	s.fails(call(conn, Path, ManagerInterface+".Get", "none"), errorPrefix+"NoSuchLane", "none")

	s.works(call(conn, Path, ManagerInterface+".Up", "new-one", map[string]any{"uplink": "type:wifi", "table": int32(7), "dns": []string{"9.9.9.9"}}), &path)
	if path != lanesPath+"/new_2done" {
		t.Errorf("Up: %s", path)
	}
	s.works(call(conn, path, LaneInterface+".Up"))
	s.works(call(conn, path, LaneInterface+".Down"))
	s.works(call(conn, path, LaneInterface+".SetUplink", []string{"a", "type:wifi"}))
	s.works(call(conn, Path, ManagerInterface+".Down", "steam"))
	var lines []string
	s.works(call(conn, path, LaneInterface+".Plan"), &lines)
	s.works(call(conn, Path, ManagerInterface+".Plan", "steam"), &lines)
	if len(lines) != 1 || lines[0] != "ip link steam" {
		t.Errorf("Plan: %q", lines)
	}
	s.works(call(conn, Path, ManagerInterface+".Reload"), &lines)
	if strings.Join(lines, " ") != "first second" {
		t.Errorf("Reload: %q", lines)
	}
	s.works(call(conn, Path, ManagerInterface+".Settle", "wlp6s0", "11111111-aaaa"))
	var unit string
	s.works(call(conn, Path, ManagerInterface+".Run", "steam", "/tmp/socket"), &unit)
	s.fails(call(conn, Path, ManagerInterface+".Run", "old", "/tmp/socket"), errorPrefix+"NoSuchLane", "is down")
	var programs []listedProgram
	s.works(call(conn, Path, ManagerInterface+".Programs", ""), &programs)
	if want := (listedProgram{"new-one old steam", 7, 0, 60, "a\ufffdb"}); len(programs) != 1 || programs[0] != want {
		t.Errorf("Programs: %v", programs)
	}
	s.fails(call(conn, Path, ManagerInterface+".Programs", "none"), errorPrefix+"NoSuchLane", "none")
	var ended uint32
	s.works(call(conn, Path, ManagerInterface+".Stop", "steam"), &ended)
	s.fails(call(conn, Path, ManagerInterface+".Stop", "none"), errorPrefix+"NoSuchLane", "none")
	s.fails(call(conn, Path, ManagerInterface+".Remove", "none"), errorPrefix+"NoSuchLane", "none: no such lane")
	const want = "up new-one map[dns:[9.9.9.9] table:7 uplink:type:wifi] true; up new-one map[] false; down new-one; " +
		"set new-one map[uplink:[a type:wifi]]; down steam; reload; settle wlp6s0 11111111-aaaa; " +
		"run steam as 0: \"/tmp/socket\"; stop steam of 0; remove none"
	if got := s.manager.journal(); got != want {
		t.Errorf("did\n%s\nnot\n%s", got, want)
	}
	if q := s.judge.questions(); len(q) != 0 {
		t.Errorf("somebody was asked about root: %v", q)
	}
}

func TestErrors(t *testing.T) {
	lab.RequireRoot(t)
	s := newSite(t)
	conn := bustest.Connect(t, s.address)
	none, steam := LanePath("none"), LanePath("steam")
	for _, tt := range []struct {
		call *dbus.Call
		name string
		says string
	}{
		{call(conn, Path, ManagerInterface+".Up", "bad", values{}), errorPrefix + "InvalidArgument", "bad is bad"},
		{call(conn, Path, ManagerInterface+".Up", "x", map[string]any{"table": 1.5}), errorPrefix + "InvalidArgument", "table"},
		{call(conn, Path, ManagerInterface+".Plan", "broken"), errorPrefix + "Failed", "broken"},
		{call(conn, Path, ManagerInterface+".Up", "explode", values{}), errorPrefix + "Failed", "internal error"},
		{call(conn, Path, ManagerInterface+".Up", "steam"), invalidArgs, `"sa{sv}"`},
		{call(conn, Path, ManagerInterface+".Get", uint32(1)), invalidArgs, `"u"`},
		{call(conn, Path, ManagerInterface+".Get", strings.Repeat("x", 20000)), invalidArgs, "bytes"},
		{call(conn, Path, ManagerInterface+".None"), unknownMethod, "None"},
		{call(conn, Path, "None"), unknownMethod, "None"},
		{call(conn, Path, "a.b.None"), unknownInterface, "a.b"},
		{call(conn, Path, LaneInterface+".Up"), unknownInterface, "Lane"},
		{call(conn, "/a", ManagerInterface+".List"), unknownObject, "/a"},
		{call(conn, "/org", ManagerInterface+".List"), unknownInterface, "Manager"},
		{call(conn, none, LaneInterface+".Up"), unknownObject, "none"},
		{call(conn, none, LaneInterface+".Plan"), unknownObject, "none"},
		{call(conn, none, properties+".Get", LaneInterface, "State"), unknownObject, "none"},
		{call(conn, none, properties+".GetAll", LaneInterface), unknownObject, "none"},
		{call(conn, none, introspectable+".Introspect"), unknownObject, "none"},
		{call(conn, steam, properties+".Get", LaneInterface, "Nome"), unknownProperty, "Nome"},
		{call(conn, steam, properties+".Get", "a.b", "Name"), unknownInterface, "a.b"},
		{call(conn, steam, properties+".GetAll", "a.b"), unknownInterface, "a.b"},
		{call(conn, Path, properties+".Get", ManagerInterface, "Name"), unknownProperty, "Name"},
		{call(conn, steam, properties+".Set", LaneInterface, "Mark", dbus.MakeVariant(uint32(5))), readOnly, "Mark"},
		{call(conn, steam, properties+".Set", LaneInterface, "Nome", dbus.MakeVariant("")), unknownProperty, "Nome"},
		{call(conn, steam, properties+".Set", "a.b", "Nome", dbus.MakeVariant("")), unknownInterface, "a.b"},
		{call(conn, lanesPath+"/_", properties+".GetAll", LaneInterface), unknownObject, "_"},
	} {
		s.fails(tt.call, tt.name, tt.says)
	}
	if !strings.Contains(s.log.String(), "for the test") {
		t.Error("the panic is not in the log")
	}
}

func TestStandardInterfaces(t *testing.T) {
	lab.RequireRoot(t)
	s := newSite(t)
	conn := bustest.Connect(t, s.address)
	steam := LanePath("steam")

	var objects map[dbus.ObjectPath]map[string]values
	s.works(call(conn, Path, objectManager+".GetManagedObjects"), &objects)
	for path, want := range map[dbus.ObjectPath]Lane{steam: full, LanePath("old"): empty} {
		got := objects[path][LaneInterface]
		if !reflect.DeepEqual(laneFrom(got), want) || len(got) != len(laneProperties) || len(objects) != 2 || len(objects[path]) != 1 {
			t.Errorf("GetManagedObjects:\n%v\nnot\n%v", objects, want)
		}
	}
	for _, name := range []string{LaneInterface, ""} {
		var all values
		if s.works(call(conn, steam, properties+".GetAll", name), &all); !reflect.DeepEqual(laneFrom(all), full) || len(all) != len(laneProperties) {
			t.Errorf("GetAll %q: %v", name, all)
		}
	}
	for path, name := range map[dbus.ObjectPath]string{steam: peer, Path: ManagerInterface} {
		var all values
		if s.works(call(conn, path, properties+".GetAll", name), &all); len(all) != 0 {
			t.Errorf("GetAll %s %s: %v", path, name, all)
		}
	}
	for name, want := range crossed(t, full.values()) {
		var v dbus.Variant
		if s.works(call(conn, steam, properties+".Get", LaneInterface, name), &v); fmt.Sprint(v.Value()) != fmt.Sprint(want.Value()) {
			t.Errorf("Get %s: %v, not %v", name, v, want)
		}
	}
	s.works(call(conn, "/", peer+".Ping"))
	s.works(call(conn, steam, "Ping")) // an interface need not be named

	// From the root one finds every object.
	seen := map[dbus.ObjectPath][]string{}
	var walk func(dbus.ObjectPath)
	walk = func(path dbus.ObjectPath) {
		var text string
		s.works(call(conn, path, introspectable+".Introspect"), &text)
		var node introspect.Node
		if err := xml.Unmarshal([]byte(text), &node); err != nil {
			t.Fatalf("%s: %v:\n%s", path, err, text)
		}
		seen[path] = []string{}
		for _, i := range node.Interfaces {
			seen[path] = append(seen[path], i.Name)
		}
		for _, child := range node.Children {
			walk(dbus.ObjectPath(strings.TrimSuffix(string(path), "/") + "/" + child.Name))
		}
	}
	walk("/")
	between := []string{introspectable, peer}
	lane := append([]string{LaneInterface, properties}, between...)
	if want := map[dbus.ObjectPath][]string{
		"/": between, "/org": between, "/org/uplane": between, lanesPath: between,
		Path:  append([]string{ManagerInterface, objectManager, properties}, between...),
		steam: lane, LanePath("old"): lane,
	}; !reflect.DeepEqual(seen, want) {
		t.Errorf("there is\n%v\nnot\n%v", seen, want)
	}
}

// Signals tell of each difference, once, before any answer that shows it.
func TestSignals(t *testing.T) {
	lab.RequireRoot(t)
	s := newSite(t)
	conn := bustest.Connect(t, s.address, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	heard := listen(t, conn)

	changed := full
	changed.State, changed.Reason, changed.IPv4.Gateway = "waiting", "no uplink", ""
	added := empty
	added.Name = "a-b"
	s.manager.show(changed, added) // old is gone
	s.manager.show(changed, added) // nothing is different
	var objects map[dbus.ObjectPath]map[string]values
	s.works(call(conn, Path, objectManager+".GetManagedObjects"), &objects)
	s.works(call(conn, Path, ManagerInterface+".Up", "zoo", values{}), new(dbus.ObjectPath))

	steam, ab, old, zoo := LanePath("steam"), LanePath("a-b"), LanePath("old"), LanePath("zoo")
	if _, has := objects[old]; has || len(objects) != 2 {
		t.Errorf("GetManagedObjects: %v", objects)
	}
	for _, want := range []*dbus.Signal{
		{Path: Path, Name: objectManager + ".InterfacesAdded", Body: []any{ab, map[string]values{LaneInterface: crossed(t, added.values())}}},
		{Path: Path, Name: objectManager + ".InterfacesRemoved", Body: []any{old, []string{LaneInterface}}},
		{Path: steam, Name: properties + ".PropertiesChanged", Body: []any{LaneInterface, values{
			"State": dbus.MakeVariant("waiting"), "Reason": dbus.MakeVariant("no uplink"), "Gateways": dbus.MakeVariant([]string{"fe80::1"}),
		}, []string{}}},
		{Path: Path, Name: objectManager + ".InterfacesAdded", Body: nil},
	} {
		select {
		case got := <-heard:
			if want.Body == nil {
				want.Body = []any{zoo, got.Body[1]}
			}
			if got.Path != want.Path || got.Name != want.Name || !reflect.DeepEqual(got.Body, want.Body) {
				t.Errorf("heard %s %s %v, not %s %s %v", got.Path, got.Name, got.Body, want.Path, want.Name, want.Body)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("never heard %s", want.Name)
		}
	}
	select {
	case extra := <-heard:
		t.Errorf("also heard %v", extra)
	case <-time.After(50 * time.Millisecond):
	}
}

// listen returns the server's signals.
func listen(t *testing.T, conn *dbus.Conn) <-chan *dbus.Signal {
	t.Helper()
	if err := conn.AddMatchSignal(dbus.WithMatchSender(Name)); err != nil {
		t.Fatal(err)
	}
	all, ours := make(chan *dbus.Signal, 100), make(chan *dbus.Signal, 1000)
	conn.Signal(all)
	go func() {
		defer close(ours)
		for sig := range all {
			if sig.Sender != driver {
				ours <- sig
			}
		}
	}()
	return ours
}

// A lane that comes and goes all the time never makes an answer that contradicts
// the signals before it.
func TestAnswersFollowSignals(t *testing.T) {
	lab.RequireRoot(t)
	s := newSite(t)
	conn := bustest.Connect(t, s.address, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	heard := listen(t, conn)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				s.manager.show(full)
				s.manager.show(full, empty)
			}
		}
	}()
	answers := map[dbus.Sequence]bool{}
	for range 300 {
		c := call(conn, LanePath("old"), properties+".Get", LaneInterface, "State")
		answers[c.ResponseSequence] = c.Err == nil
	}
	close(stop)
	<-stopped
	last := empty
	last.Name = "last"
	s.manager.show(full, last)
	signals := map[dbus.Sequence]bool{}
	for sig := range heard {
		if sig.Name == properties+".PropertiesChanged" {
			continue
		}
		if path := sig.Body[0]; path == LanePath("last") {
			break
		}
		signals[sig.Sequence] = sig.Name == objectManager+".InterfacesAdded"
	}
	if len(signals) < 10 {
		t.Fatalf("only %d signals", len(signals))
	}
	there := true
	for _, at := range slices.Sorted(maps.Keys(joined(answers, signals))) {
		if now, isSignal := signals[at]; isSignal {
			there = now
		} else if answers[at] != there {
			t.Fatalf("message %d: the lane is there: %t, but the signals said %t", at, answers[at], there)
		}
	}
}

func joined[K comparable, V any](a, b map[K]V) map[K]V {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// A second server gives up at once; one that is replaced does so, too.
func TestOneServer(t *testing.T) {
	lab.RequireRoot(t)
	s := newSite(t)
	other := NewServer(s.server.Options)
	other.Update(nil)
	if err := other.Run(context.Background()); err != ErrNameTaken {
		t.Errorf("a second server: %v", err)
	}
	conn := bustest.Connect(t, s.address)
	s.works(call(conn, Path, peer+".Ping"))
	s.stop()
	s.eventually("the name is free", func() bool {
		return conn.BusObject().Call(driver+".GetNameOwner", 0, Name).Err != nil
	})
	third := NewServer(s.server.Options)
	third.Update(nil)
	done := make(chan error, 1)
	go func() { done <- third.Run(context.Background()) }()
	<-third.Tried()
	if reply, err := conn.RequestName(Name, dbus.NameFlagReplaceExisting); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("replace it: %v, %v", reply, err)
	}
	if err := <-done; err != ErrNameTaken {
		t.Errorf("a replaced server: %v", err)
	}
}

// A server that is there before the bus, and after it, waits for it.
func TestNoBus(t *testing.T) {
	s := &site{T: t, address: "unix:path=/nonexistent", log: &lockedBuffer{}}
	s.manager = &fakeManager{site: s}
	s.serve(nil)
}

// The machine wakes up, or somebody says so who is not logind.
func TestResume(t *testing.T) {
	lab.RequireRoot(t)
	s := newSite(t)
	conn := bustest.Connect(t, s.address)
	const signal = loginManager + ".PrepareForSleep"
	emit := func(asleep bool) {
		if err := conn.Emit("/org/freedesktop/login1", signal, asleep); err != nil {
			t.Fatal(err)
		}
		s.works(call(conn, Path, peer+".Ping"))
	}
	emit(false)
	if got := s.manager.journal(); got != "" {
		t.Errorf("a stranger woke us up: %s", got)
	}
	if _, err := conn.RequestName(login, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	emit(true)
	if got := s.manager.journal(); got != "" {
		t.Errorf("falling asleep: %s", got)
	}
	emit(false)
	if got := s.manager.journal(); got != "resumed" {
		t.Errorf("waking up: %q", got)
	}
}
