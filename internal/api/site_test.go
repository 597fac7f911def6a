package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/test/bustest"
)

func TestMain(m *testing.M) {
	bustest.Forbid()
	os.Exit(m.Run())
}

// nobody is a user without any right.
const nobody = 65534

// site is a bus with a server on it, whose lanes and verdicts are the test's.
type site struct {
	*testing.T
	address string
	server  *Server
	manager *fakeManager
	judge   *fakeJudge
	log     *lockedBuffer
	stop    func()
}

func newSite(t *testing.T) *site {
	t.Helper()
	t.Parallel()
	return aloneSite(t, "")
}

// aloneSite is a site for a test that runs alone; extra is for the bus.
func aloneSite(t *testing.T, extra string) *site {
	t.Helper()
	s := &site{T: t, address: bustest.Start(t, extra), log: &lockedBuffer{}, judge: &fakeJudge{}}
	s.manager = &fakeManager{site: s}
	s.serve(func(*dbus.Conn) Authorizer { return s.judge })
	return s
}

// serve starts a server, with a lane that is up and one that is down.
func (s *site) serve(authorizer func(*dbus.Conn) Authorizer) {
	s.Helper()
	s.server = NewServer(Options{
		Manager: s.manager, Address: s.address, Authorizer: authorizer, Resumed: s.manager.resumed,
		Log: slog.New(slog.NewTextHandler(s.log, nil)),
	})
	s.manager.show(full, empty)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.server.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.Errorf("run: %v", err)
		}
	})
	s.Cleanup(s.stop)
	select {
	case <-s.server.Tried():
	case <-time.After(10 * time.Second):
		s.Fatal("the server does not start")
	}
}

// call calls a method of an object; out are pointers for the answer.
func call(conn *dbus.Conn, path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	return conn.Object(Name, path).Call(method, 0, args...)
}

// fails checks that a call fails with an error of that name, which says words.
func (s *site) fails(c *dbus.Call, name string, words ...string) {
	s.Helper()
	var e dbus.Error
	if !errors.As(c.Err, &e) || e.Name != name {
		s.Errorf("%s %v: %v (%s), not %s", c.Method, c.Args, c.Err, e.Name, name)
		return
	}
	for _, w := range words {
		if !strings.Contains(e.Error(), w) {
			s.Errorf("%s %v: %q does not say %q", c.Method, c.Args, e.Error(), w)
		}
	}
}

func (s *site) works(c *dbus.Call, out ...any) {
	s.Helper()
	if err := c.Store(out...); err != nil {
		s.Fatalf("%s %v: %v\n%s", c.Method, c.Args, err, s.log)
	}
}

// fakeManager keeps lanes in a list, and a journal of what it was told to do.
type fakeManager struct {
	site *site
	mu   sync.Mutex
	done []string
	hold chan struct{} // if not nil, Down waits for it
}

func (m *fakeManager) show(lanes ...Lane) {
	sorted := map[string]Lane{}
	for _, l := range lanes {
		sorted[l.Name] = l
	}
	m.site.server.Update(byName(sorted))
}

func byName(lanes map[string]Lane) []Lane {
	out := make([]Lane, 0, len(lanes))
	for _, l := range lanes {
		at := 0
		for at < len(out) && out[at].Name < l.Name {
			at++
		}
		out = append(out[:at], append([]Lane{l}, out[at:]...)...)
	}
	return out
}

func (m *fakeManager) note(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done = append(m.done, fmt.Sprintf(format, args...))
}

// journal returns what was done since it was last asked.
func (m *fakeManager) journal() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := strings.Join(m.done, "; ")
	m.done = nil
	return out
}

func (m *fakeManager) resumed() { m.note("resumed") }

func (m *fakeManager) Up(_ context.Context, lane string, changes map[string]any, create bool) error {
	switch lane {
	case "explode":
		panic("for the test")
	case "bad":
		return Errorf(InvalidArgument, "bad is bad")
	}
	m.note("up %s %v %t", lane, changes, create)
	known := map[string]Lane{}
	for _, l := range *m.site.server.lanes.Load() {
		known[l.Name] = l
	}
	if _, ok := known[lane]; !ok && !create {
		return Errorf(NoSuchLane, "%s: no such lane", lane)
	}
	l := full
	l.Name, l.DNS = lane, []string{}
	known[lane] = l
	m.site.server.Update(byName(known))
	return nil
}

func (m *fakeManager) Set(_ context.Context, lane string, changes map[string]any) error {
	m.note("set %s %v", lane, changes)
	return nil
}

func (m *fakeManager) Down(ctx context.Context, lane string) error {
	m.mu.Lock()
	hold := m.hold
	m.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
		}
	}
	m.note("down %s", lane)
	return nil
}

func (m *fakeManager) Remove(_ context.Context, lane string) error {
	m.note("remove %s", lane)
	return Errorf(NoSuchLane, "%s: no such lane", lane)
}

func (m *fakeManager) Settle(_ context.Context, iface, uuid string) error {
	m.note("settle %s %s", iface, uuid)
	return nil
}

func (m *fakeManager) Run(_ context.Context, lane string, caller Caller, socket string) (string, error) {
	m.note("run %s as %d: %q", lane, caller.UID, socket)
	return "uplane-run-x.service", nil
}

func (m *fakeManager) Programs(_ context.Context, lanes []string, uid uint32) ([]Program, error) {
	return []Program{{Lane: strings.Join(lanes, " "), PID: 7, UID: uid, Since: "1970-01-01T00:01:00Z", Name: "a\x00b"}}, nil
}

func (m *fakeManager) Stop(_ context.Context, lane string, uid uint32) (int, error) {
	m.note("stop %s of %d", lane, uid)
	return 3, nil
}

func (m *fakeManager) Reload(context.Context) ([]error, error) {
	m.note("reload")
	return []error{errors.New("first"), errors.New("second")}, nil
}

func (m *fakeManager) Plan(_ context.Context, lane string) ([]string, error) {
	if lane == "broken" {
		return nil, errors.New("broken")
	}
	return []string{"ip link " + lane}, nil
}

// fakeJudge grants what it is told to, and remembers the questions.
type fakeJudge struct {
	mu      sync.Mutex
	grants  map[Action]bool
	asked   []Question
	forever bool // it never answers
	gone    int  // how many questions were taken back
}

func (j *fakeJudge) grant(actions ...Action) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.grants = map[Action]bool{}
	for _, a := range actions {
		j.grants[a] = true
	}
}

// questions returns what was asked since it was last called.
func (j *fakeJudge) questions() []Question {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := j.asked
	j.asked = nil
	return out
}

func (j *fakeJudge) Authorize(ctx context.Context, q Question) error {
	j.mu.Lock()
	if len(j.asked) < 1000 {
		j.asked = append(j.asked, q)
	}
	granted, forever := j.grants[q.Action], j.forever
	j.mu.Unlock()
	if forever {
		<-ctx.Done()
		j.mu.Lock()
		j.gone++
		j.mu.Unlock()
		return Errorf(NotAuthorized, "nobody answered")
	}
	if granted {
		return nil
	}
	return Errorf(NotAuthorized, "%s: no", q.Action)
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (s *site) eventually(what string, ok func() bool) {
	s.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("never: %s\n%s", what, s.log)
		}
	}
}
