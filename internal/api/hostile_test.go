package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/test/bustest"
	"uplane/test/lab"
)

// responsive checks that root is served while others do their worst.
func (s *site) responsive(doing string) {
	s.Helper()
	root := bustest.Connect(s.T, s.address)
	var worst time.Duration
	for range 20 {
		start := time.Now()
		s.works(call(root, Path, ManagerInterface+".List"), new([]listed))
		worst = max(worst, time.Since(start))
	}
	s.Logf("%s: root waits %v at most", doing, worst)
	if worst > 5*time.Second {
		s.Errorf("%s: root waits %v", doing, worst)
	}
}

// bounded checks what the process has grown to.
func (s *site) bounded(doing string) {
	s.Helper()
	var m runtime.MemStats
	runtime.GC() // what is left is what is held
	runtime.ReadMemStats(&m)
	s.Logf("%s: %d MiB of heap, %d goroutines", doing, m.HeapAlloc>>20, runtime.NumGoroutine())
	if m.HeapAlloc > 200<<20 || runtime.NumGoroutine() > 2000 {
		s.Errorf("%s: %d MiB of heap, %d goroutines", doing, m.HeapAlloc>>20, runtime.NumGoroutine())
	}
}

// Programs that call as fast as they can, read their answers or don't, and may
// or may not see lanes.
func TestFlood(t *testing.T) {
	lab.RequireRoot(t)
	s := aloneSite(t, "")
	for _, grants := range [][]Action{nil, {Read}} {
		s.judge.grant(grants...)
		var group sync.WaitGroup
		sent := make([]int, 6)
		for i := range sent {
			flooder := bustest.ConnectRaw(t, s.address, nobody)
			if i%2 == 0 {
				go func() { _, _ = io.Copy(io.Discard, flooder) }()
			}
			group.Go(func() {
				var b bytes.Buffer
				if err := bustest.Call(Name, Path, objectManager, "GetManagedObjects").EncodeTo(&b, binary.LittleEndian); err != nil {
					t.Error(err)
				}
				for flooder.Again(b.Bytes()) == nil {
					sent[i]++
				}
			})
			defer flooder.Close()
			t.Cleanup(func() { flooder.Close(); group.Wait() })
		}
		time.Sleep(time.Second)
		s.responsive(fmt.Sprintf("a flood by one who may %v", grants))
		s.bounded("a flood")
	}
}

// Calls that hang in the manager are bounded for each user, and do not keep
// others from theirs.
func TestHangingManager(t *testing.T) {
	lab.RequireRoot(t)
	s := aloneSite(t, "")
	s.judge.grant(Use)
	s.manager.hold = make(chan struct{})
	var done []chan *dbus.Call
	for range 5 {
		conn := bustest.ConnectAs(t, s.address, nobody)
		for range maxPerSender {
			ch := make(chan *dbus.Call, 1)
			conn.Object(Name, Path).Go(ManagerInterface+".Down", 0, ch, "steam")
			done = append(done, ch)
		}
	}
	s.eventually("what is too much is refused", func() bool {
		for i := 0; i < len(done); i++ {
			select {
			case c := <-done[i]:
				s.fails(c, limitsExceeded)
				done = append(done[:i], done[i+1:]...)
			default:
			}
		}
		return len(done) == maxPerUser
	})
	s.responsive("a user's calls hang")
	close(s.manager.hold)
	for _, ch := range done {
		s.works(<-ch)
	}
}

// Callers that leave before they are answered.
func TestVanishing(t *testing.T) {
	lab.RequireRoot(t)
	s := aloneSite(t, "")
	s.judge.grant(Use, Read)
	before := runtime.NumGoroutine()
	for range 50 {
		conn := bustest.ConnectAs(t, s.address, nobody)
		for range 10 {
			conn.Object(Name, Path).Go(ManagerInterface+".Down", 0, make(chan *dbus.Call, 1), "steam")
		}
		conn.Close()
	}
	s.responsive("callers vanish")
	s.eventually("nothing of them is left", func() bool { return runtime.NumGoroutine() < before+20 })
}

// Long, deep and odd messages, and descriptors.
func TestOddMessages(t *testing.T) {
	lab.RequireRoot(t)
	s := aloneSite(t, "")
	s.judge.grant(Manage)
	conn := bustest.ConnectAs(t, s.address, nobody)
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	nested := dbus.MakeVariant(values{})
	for range 60 {
		nested = dbus.MakeVariant(nested)
	}
	many := values{}
	for i := range 200 {
		many[strings.Repeat("k", i+1)] = dbus.MakeVariant([]string{"x"})
	}
	for _, tt := range []struct {
		options values
		name    string
	}{
		{values{"a": dbus.MakeVariant(strings.Repeat("x", 8<<20))}, invalidArgs},
		{values{"a": nested}, invalidArgs},
		{many, invalidArgs},
		{values{"a": dbus.MakeVariant(dbus.UnixFD(null.Fd()))}, driver + ".Error.NotSupported"},
		{values{"a": dbus.MakeVariant([]dbus.UnixFD{dbus.UnixFD(null.Fd())})}, driver + ".Error.NotSupported"},
		{values{"a": dbus.MakeVariant([]any{dbus.MakeVariant(1)})}, errorPrefix + "InvalidArgument"},
	} {
		s.fails(call(conn, Path, ManagerInterface+".Up", "steam", tt.options), tt.name)
	}
	s.responsive("odd messages")
	s.bounded("odd messages")
}

// Subscribers that never read make the bus keep what they are sent, until it
// stops reading from who sent it. (The limits are lowered for the test: dbus-daemon
// has 127 MiB.) The server then connects anew.
func TestSubscribersThatNeverRead(t *testing.T) {
	lab.RequireRoot(t)
	s := aloneSite(t, `
  <limit name="max_incoming_bytes">200000</limit>
  <limit name="max_outgoing_bytes">200000</limit>`)
	for range 100 {
		deaf := bustest.ConnectRaw(t, s.address, nobody)
		if err := deaf.Send(bustest.Call(driver, "/org/freedesktop/DBus", driver, "AddMatch", "sender="+Name)); err != nil {
			t.Fatal(err)
		}
	}
	reason := strings.Repeat("because ", 100)
	for i := range 2000 {
		l := full
		if i%2 == 0 {
			l.Reason = reason
		}
		s.manager.show(l)
		time.Sleep(100 * time.Microsecond)
	}
	root := bustest.Connect(t, s.address)
	start := time.Now()
	s.eventually("the server is there again", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 9*time.Second)
		defer cancel()
		return root.Object(Name, Path).CallWithContext(ctx, ManagerInterface+".List", 0).Err == nil
	})
	t.Logf("the server is there again after %v", time.Since(start))
	s.responsive("subscribers that never read")
	s.bounded("subscribers that never read")
}
