package kernel

import (
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzNote feeds the parser of events with what the kernel would never send.
func FuzzNote(f *testing.F) {
	route := []byte{
		36, 0, 0, 0, unix.RTM_NEWROUTE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // nlmsghdr
		unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, 16, 0, 1, 0, 0, 0, 0, // rtmsg
		8, 0, unix.RTA_OIF, 0, 3, 0, 0, 0,
	}
	f.Add(route, -1)
	f.Add(append(route, route...), 4)
	f.Add(route[:20], -1)
	f.Add([]byte{15, 0, 0, 0}, -1)
	f.Fuzz(func(t *testing.T, b []byte, nsid int) {
		note(b, nsid, &stale{}, newFreshness())
	})
}

func TestNoteRoute(t *testing.T) {
	route := []byte{
		36, 0, 0, 0, unix.RTM_NEWROUTE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, 16, 0, 1, 0, 0, 0, 0,
		8, 0, unix.RTA_OIF, 0, 3, 0, 0, 0,
	}
	var s stale
	fresh := newFreshness()
	note(route, -1, &s, fresh)
	if p := s.take(); !p.tables[unix.RT_TABLE_MAIN] || p.links || p.allRoutes || len(p.tables) != 1 {
		t.Errorf("a route of the main table makes %+v stale", p)
	}
	if !fresh.has(3) || fresh.has(2) {
		t.Error("the link of the route is not the fresh one")
	}
	note(route, 7, &s, fresh)
	if p := s.take(); !p.nsids[7] || len(p.tables) != 0 {
		t.Errorf("a route of namespace 7 makes %+v stale", p)
	}
}
