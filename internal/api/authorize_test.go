package api

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/test/bustest"
	"uplane/test/lab"
)

// Who is not root needs to be allowed each thing, and nothing is done before that.
func TestWhoMayDoWhat(t *testing.T) {
	lab.RequireRoot(t)
	s := newSite(t)
	conn := bustest.ConnectAs(t, s.address, nobody)
	steam := LanePath("steam")
	none := values{}
	change := map[string]any{"uplink": "type:wifi"}
	type object = dbus.ObjectPath
	for _, tt := range []struct {
		path   object
		method string
		args   []any
		needs  Action
		lane   string
	}{
		{Path, ManagerInterface + ".List", nil, Read, ""},
		{Path, ManagerInterface + ".Get", []any{"steam"}, Read, "steam"},
		{Path, ManagerInterface + ".Plan", []any{"steam"}, Read, "steam"},
		{Path, objectManager + ".GetManagedObjects", nil, Read, ""},
		{steam, LaneInterface + ".Plan", nil, Read, "steam"},
		{steam, properties + ".Get", []any{LaneInterface, "State"}, Read, "steam"},
		{steam, properties + ".GetAll", []any{LaneInterface}, Read, "steam"},
		{Path, properties + ".GetAll", []any{ManagerInterface}, Read, ""},

		{Path, ManagerInterface + ".Up", []any{"steam", none}, Use, "steam"},
		{Path, ManagerInterface + ".Down", []any{"steam"}, Use, "steam"},
		{steam, LaneInterface + ".Up", nil, Use, "steam"},
		{steam, LaneInterface + ".Down", nil, Use, "steam"},

		{Path, ManagerInterface + ".Up", []any{"steam", change}, Manage, "steam"},
		{Path, ManagerInterface + ".Up", []any{"unheard-of", none}, Manage, "unheard-of"},
		{Path, ManagerInterface + ".Up", []any{"not a name", none}, Manage, ""},
		{Path, ManagerInterface + ".Remove", []any{"steam"}, Manage, "steam"},
		{Path, ManagerInterface + ".Reload", nil, Manage, ""},
		{steam, LaneInterface + ".SetUplink", []any{[]string{"a"}}, Manage, "steam"},
	} {
		s.judge.grant(slices.DeleteFunc([]Action{Read, Use, Manage}, func(a Action) bool { return a == tt.needs })...)
		s.fails(call(conn, tt.path, tt.method, tt.args...), errorPrefix+"NotAuthorized", string(tt.needs))
		want := []Question{{Sender: conn.Names()[0], Action: tt.needs, Lane: tt.lane}}
		if got := s.judge.questions(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s %v: asked %v, not %v", tt.method, tt.args, got, want)
		}
		if did := s.manager.journal(); did != "" {
			t.Errorf("%s %v: did %s", tt.method, tt.args, did)
		}
		s.judge.grant(tt.needs)
		if err := call(conn, tt.path, tt.method, tt.args...).Err; err != nil && tt.method != ManagerInterface+".Remove" {
			t.Errorf("%s %v: %v", tt.method, tt.args, err)
		}
		s.judge.questions()
		s.manager.journal()
	}
	s.judge.grant()
	s.works(call(conn, steam, introspectable+".Introspect"), new(string))
	s.fails(call(conn, steam, properties+".Set", LaneInterface, "Mark", dbus.MakeVariant(uint32(5))), readOnly)
	// What there is, is told after that one may know.
	s.fails(call(conn, LanePath("none"), properties+".GetAll", LaneInterface), errorPrefix+"NotAuthorized")
	// Others than root don't get the name.
	if _, err := conn.RequestName(Name, dbus.NameFlagReplaceExisting); err == nil {
		t.Error("anybody can be Uplane")
	}
}

// A lane that goes while its user is being authorized is not made anew.
func TestUseDoesNotCreate(t *testing.T) {
	lab.RequireRoot(t)
	s := newSite(t)
	conn := bustest.ConnectAs(t, s.address, nobody)
	s.judge.grant(Use)
	s.works(call(conn, Path, ManagerInterface+".Up", "old", values{}), new(dbus.ObjectPath))
	s.works(call(conn, LanePath("old"), LaneInterface+".Up"))
	if got := s.manager.journal(); got != "up old map[] false; up old map[] false" {
		t.Errorf("did %s", got)
	}
}

// send sends a call with flags, which Object.Call drops.
func send(conn *dbus.Conn, flags dbus.Flags, path dbus.ObjectPath, iface, member string) *dbus.Call {
	return conn.Send(&dbus.Message{Type: dbus.TypeMethodCall, Flags: flags, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(Name), dbus.FieldPath: dbus.MakeVariant(path),
		dbus.FieldInterface: dbus.MakeVariant(iface), dbus.FieldMember: dbus.MakeVariant(member),
	}}, make(chan *dbus.Call, 1))
}

// Only who agrees to wait may have a person asked, and who leaves meanwhile is
// forgotten. Others are served all the time.
func TestAskingAPerson(t *testing.T) {
	lab.RequireRoot(t)
	s := newSite(t)
	s.judge.forever = true
	conn := bustest.ConnectAs(t, s.address, nobody)
	for range maxPerSender {
		send(conn, dbus.FlagAllowInteractiveAuthorization, LanePath("steam"), LaneInterface, "Up")
	}
	var asked []Question
	s.eventually("all are asked about", func() bool {
		asked = append(asked, s.judge.questions()...)
		return len(asked) == maxPerSender
	})
	for _, q := range asked {
		if want := (Question{conn.Names()[0], Use, "steam", true}); q != want {
			t.Errorf("asked %v, not %v", q, want)
		}
	}
	s.fails(call(conn, LanePath("steam"), LaneInterface+".Up"), limitsExceeded)

	root := bustest.Connect(t, s.address)
	start := time.Now()
	for range 10 {
		s.works(call(root, Path, ManagerInterface+".List"), new([]listed))
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("others wait %v", took)
	}
	conn.Close()
	s.eventually("the questions are taken back", func() bool {
		s.judge.mu.Lock()
		defer s.judge.mu.Unlock()
		return s.judge.gone == maxPerSender
	})
	if did := s.manager.journal(); did != "" {
		t.Errorf("did %s", did)
	}
	again := bustest.ConnectAs(t, s.address, nobody)
	s.judge.mu.Lock()
	s.judge.forever = false
	s.judge.mu.Unlock()
	s.judge.grant(Use)
	s.works(call(again, LanePath("steam"), LaneInterface+".Up"))
}
