package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/test/bustest"
	"uplane/test/lab"
)

// fakePolkit has polkit's name and answers as told.
type fakePolkit struct {
	mu      sync.Mutex
	asked   string // the last question
	answer  verdict
	err     *dbus.Error
	waiting chan struct{} // if not nil, CheckAuthorization waits for a cancellation
	id      string
}

func (p *fakePolkit) CheckAuthorization(who subject, action string, details map[string]string, flags uint32, cancellation string) (verdict, *dbus.Error) {
	p.mu.Lock()
	p.asked = fmt.Sprintf("%s %v %s %v %d", who.Kind, who.Details["name"].Value(), action, details, flags)
	p.id = cancellation
	answer, err, waiting := p.answer, p.err, p.waiting
	p.mu.Unlock()
	if waiting != nil {
		<-waiting
	}
	if answer.Details == nil {
		answer.Details = map[string]string{}
	}
	return answer, err
}

func (p *fakePolkit) CancelCheckAuthorization(id string) *dbus.Error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if id == p.id && p.waiting != nil {
		close(p.waiting)
		p.waiting = nil
	}
	return nil
}

func (p *fakePolkit) set(answer verdict, err *dbus.Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer, p.err = answer, err
}

func (p *fakePolkit) last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func startPolkit(t *testing.T, address string) *fakePolkit {
	t.Helper()
	p := &fakePolkit{}
	conn := bustest.Connect(t, address)
	if err := conn.Export(p, polkitPath, polkitAuthority); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName(polkitName, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	return p
}

// The whole way of a stranger's call to polkit and back.
func TestPolkit(t *testing.T) {
	lab.RequireRoot(t)
	t.Parallel()
	s := &site{T: t, address: bustest.Start(t, ""), log: &lockedBuffer{}}
	s.manager = &fakeManager{site: s}
	s.serve(nil)
	steam := LanePath("steam")

	conn := bustest.ConnectAs(t, s.address, nobody)
	s.fails(call(conn, steam, LaneInterface+".Up"), errorPrefix+"NotAuthorized", "only root")
	s.works(call(bustest.Connect(t, s.address), steam, LaneInterface+".Up"))
	s.manager.journal()

	p := startPolkit(t, s.address)
	me := conn.Names()[0]
	for _, tt := range []struct {
		answer verdict
		err    *dbus.Error
		name   string // of the error; empty: it works
	}{
		{verdict{Authorized: true}, nil, ""},
		{verdict{Authorized: true, Challenge: true}, nil, ""},
		{verdict{}, nil, errorPrefix + "NotAuthorized"},
		{verdict{Challenge: true}, nil, interactiveRequired},
		{verdict{Authorized: true}, &dbus.Error{Name: polkitName + ".Error.Failed", Body: []any{"broken"}}, errorPrefix + "NotAuthorized"},
	} {
		p.set(tt.answer, tt.err)
		for _, flags := range []dbus.Flags{0, dbus.FlagAllowInteractiveAuthorization} {
			c := <-send(conn, flags, steam, LaneInterface, "Up").Done
			switch {
			case tt.name == "":
				s.works(c)
			case tt.name == interactiveRequired && flags != 0:
				s.fails(c, errorPrefix+"NotAuthorized", "nothing in this session asks")
			default:
				s.fails(c, tt.name)
			}
			want := fmt.Sprintf("system-bus-name %s org.uplane.lanes.use map[lane:steam] %d", me, flags/dbus.FlagAllowInteractiveAuthorization)
			if got := p.last(); got != want {
				t.Errorf("polkit was asked %q, not %q", got, want)
			}
			did := s.manager.journal()
			if (did == "up steam map[] false") != (tt.name == "") {
				t.Errorf("%+v: did %q", tt, did)
			}
		}
	}
	p.set(verdict{Authorized: true}, nil)
	s.works(call(conn, Path, ManagerInterface+".List"), new([]listed))
	if got, want := p.last(), "system-bus-name "+me+" org.uplane.lanes.read map[] 0"; got != want {
		t.Errorf("polkit was asked %q, not %q", got, want)
	}
}

// Who asks and goes away takes the dialogue along.
func TestPolkitIsToldToStop(t *testing.T) {
	lab.RequireRoot(t)
	t.Parallel()
	address := bustest.Start(t, "")
	p := startPolkit(t, address)
	waiting := make(chan struct{})
	p.mu.Lock()
	p.waiting = waiting
	p.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	err := Polkit(bustest.Connect(t, address)).Authorize(ctx, Question{Sender: ":1.5", Action: Use, Interactive: true})
	var e *Error
	if !errors.As(err, &e) || e.Kind != NotAuthorized || !strings.Contains(e.Text, "in time") {
		t.Errorf("%v", err)
	}
	select {
	case <-waiting:
	case <-time.After(5 * time.Second):
		t.Error("polkit still asks")
	}
}
