package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"uplane/internal/busguard"
	"uplane/test/bustest"
)

// FuzzCall serves messages that the bus could bring: none may panic, nor do what
// its caller was not asked to be allowed.
func FuzzCall(f *testing.F) {
	steam := LanePath("steam")
	for _, m := range []*dbus.Message{
		bustest.Call(Name, Path, ManagerInterface, "List"),
		bustest.Call(Name, Path, ManagerInterface, "Get", "steam"),
		bustest.Call(Name, Path, ManagerInterface, "Up", "steam", values{"uplink": dbus.MakeVariant([]string{"a"}), "mark": dbus.MakeVariant(7)}),
		bustest.Call(Name, Path, ManagerInterface, "Up", "steam", values{}),
		bustest.Call(Name, Path, ManagerInterface, "Remove", "steam"),
		bustest.Call(Name, Path, ManagerInterface, "Reload"),
		bustest.Call(Name, Path, ManagerInterface, "Run", "steam", "/run/user/0/uplane-run-1/socket"),
		bustest.Call(Name, Path, ManagerInterface, "Programs", "steam"),
		bustest.Call(Name, Path, ManagerInterface, "Stop", "steam"),
		bustest.Call(Name, Path, objectManager, "GetManagedObjects"),
		bustest.Call(Name, steam, LaneInterface, "SetUplink", []string{"a", "b"}),
		bustest.Call(Name, steam, LaneInterface, "Plan"),
		bustest.Call(Name, steam, properties, "Get", LaneInterface, "State"),
		bustest.Call(Name, steam, properties, "GetAll", LaneInterface),
		bustest.Call(Name, steam, properties, "Set", LaneInterface, "Mark", dbus.MakeVariant(uint32(1))),
		bustest.Call(Name, "/", introspectable, "Introspect"),
		bustest.Call(Name, steam, peer, "Ping"),
	} {
		var b bytes.Buffer
		m.Headers[dbus.FieldSender] = dbus.MakeVariant(":1.5")
		if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
			f.Fatal(err)
		}
		b.Bytes()[8] = 1 // the serial number
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		msg := decodeQuietly(data)
		if msg == nil || msg.Type != dbus.TypeMethodCall {
			return
		}
		s := &site{T: t, log: &lockedBuffer{}}
		s.manager, s.judge = &fakeManager{site: s}, &fakeJudge{}
		s.server = NewServer(Options{Manager: s.manager, Log: slog.New(slog.NewTextHandler(s.log, nil))})
		s.manager.show(full, empty)
		ss := &session{server: s.server, published: *s.server.lanes.Load()}
		r := &request{Call: &busguard.Call{Message: msg}, ctx: context.Background(), session: ss}
		if r.resolve() != nil {
			return
		}
		var needs Action
		if r.method.needs != nil {
			needs = r.method.needs(r)
			r.allowed = needs
		}
		r.laneName()
		body, err := r.do()
		if strings.Contains(s.log.String(), "panic") && !strings.Contains(s.log.String(), "for the test") {
			t.Fatal(s.log)
		}
		if err == nil {
			if got := dbus.SignatureOf(body...).String(); got != signature(r.method.out) {
				t.Fatalf("%s answers %s", r.method.name, got)
			}
		}
		if done := s.manager.journal(); done != "" && needs != Use && needs != Manage {
			t.Fatalf("%s did %s as %q", r.method.name, done, needs)
		}
	})
}

// decodeQuietly is what package busguard does.
func decodeQuietly(data []byte) (msg *dbus.Message) {
	defer func() {
		if recover() != nil {
			msg = nil
		}
	}()
	msg, err := dbus.DecodeMessage(bytes.NewReader(data))
	if err != nil {
		return nil
	}
	return msg
}
