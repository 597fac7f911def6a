package kernel

import (
	"testing"

	"golang.org/x/sys/unix"

	"uplane/policy"
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
	f.Add(netconf(3), -1)
	rule := ruleBody(unix.AF_INET6, policy.Rule{Family: policy.IPv6, Table: 7})
	f.Add(append([]byte{byte(16 + len(rule)), 0, 0, 0, unix.RTM_NEWRULE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, rule...), -1)
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
	if p := s.take(); !p.tables[mainTable(unix.AF_INET)] || !p.links.empty() || p.allRoutes != 0 || len(p.tables) != 1 {
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

// netconf is a message that the switches of a link changed.
func netconf(link int32) []byte {
	return appendNumber([]byte{
		28, 0, 0, 0, unix.RTM_NEWNETCONF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		unix.AF_INET, 0, 0, 0,
	}, netconfaIfindex, uint32(link))
}

func TestNoteNetconf(t *testing.T) {
	for link, all := range map[int32]bool{3: false, netconfDefault: false, netconfAll: true} {
		var s stale
		note(netconf(link), -1, &s, newFreshness())
		if p := s.take(); p.allSwitch != all || !all && (len(p.switches) != 1 || !p.switches[int(link)]) {
			t.Errorf("switches of link %d make %+v stale", link, p)
		}
	}
	if got := netconfLink([]byte{unix.AF_INET}); got != netconfAll {
		t.Errorf("a short message is about link %d", got)
	}
}

// What takes routes with it without an event: a link that is down or gone, and an IPv4 address.
func TestNoteQuiet(t *testing.T) {
	link := func(kind uint16, flags byte) []byte {
		return []byte{32, 0, 0, 0, byte(kind), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, unix.AF_UNSPEC, 0, 0, 0, 7, 0, 0, 0, flags, 0, 0, 0, 0, 0, 0, 0}
	}
	addr := func(kind uint16, family byte) []byte {
		return []byte{24, 0, 0, 0, byte(kind), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, family, 24, 0, 0, 7, 0, 0, 0}
	}
	for name, c := range map[string]struct {
		message    []byte
		down, addr bool
	}{
		"up":             {link(unix.RTM_NEWLINK, unix.IFF_UP), false, false},
		"down":           {link(unix.RTM_NEWLINK, 0), true, false},
		"gone":           {link(unix.RTM_DELLINK, unix.IFF_UP), true, false},
		"new address":    {addr(unix.RTM_NEWADDR, unix.AF_INET), false, false},
		"address gone":   {addr(unix.RTM_DELADDR, unix.AF_INET), true, true},
		"IPv6's is gone": {addr(unix.RTM_DELADDR, unix.AF_INET6), false, false},
	} {
		var s stale
		fresh := newFreshness()
		note(c.message, -1, &s, fresh)
		if p := s.take(); p.down[7] != c.down || p.addrGone != c.addr || !fresh.has(7) || !p.links.indexes[7] && !p.addrs.indexes[7] {
			t.Errorf("%s makes %+v stale", name, p)
		}
	}
}
