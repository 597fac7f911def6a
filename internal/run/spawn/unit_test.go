package spawn

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/test/bustest"
	"uplane/test/lab"
)

// slowSystemd accepts a unit and never gets it started.
type slowSystemd struct{ stopped chan string }

func (slowSystemd) Subscribe() *dbus.Error { return nil }

func (slowSystemd) StartTransientUnit(string, string, []property, []aux) (dbus.ObjectPath, *dbus.Error) {
	return "/job/1", nil
}

func (s slowSystemd) StopUnit(unit, _ string) (dbus.ObjectPath, *dbus.Error) {
	s.stopped <- unit
	return "/job/2", nil
}

// TestAbandonedStart: what was not started in time is not started later either.
func TestAbandonedStart(t *testing.T) {
	lab.RequireRoot(t)
	address := bustest.Start(t, `<policy user="root"><allow own="`+systemdName+`"/><allow send_destination="`+systemdName+`"/></policy>`)
	conn := bustest.Connect(t, address)
	systemd := slowSystemd{make(chan string, 1)}
	if err := conn.Export(systemd, systemdPath, systemdManager); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName(systemdName, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	s, err := (&Manager{Address: address}).systemd(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer s.conn.Close()
	if err := s.start(ctx, "uplane-run-x.service", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	select {
	case unit := <-systemd.stopped:
		if unit != "uplane-run-x.service" {
			t.Errorf("%s was stopped", unit)
		}
	case <-time.After(5 * time.Second):
		t.Error("the unit stays")
	}
}
