package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// with returns l changed by f.
func with(l Lane, f func(*Lane)) Lane { f(&l); return l }

func TestAllocateFirst(t *testing.T) {
	steam, work := lane("steam", "wlp6s0"), lane("work", "wlp6s0")
	got, clashes := Allocate([]Lane{work, steam}, nil, nil, hostOf(wifi(), wired()))
	want := map[string]Allocation{
		"steam": {pfx("10.0.1.0/24"), 100, "ul-steam", "ulv-steam"},
		"work":  {pfx("10.0.2.0/24"), 101, "ul-work", "ulv-work"},
	}
	if !maps.Equal(got, want) || len(clashes) > 0 {
		t.Errorf("%v, %v", got, clashes)
	}
}

// What a lane has it keeps, whoever comes, until the host or a lane file takes it.
func TestAllocateStays(t *testing.T) {
	h := hostOf(wifi())
	have, _ := Allocate([]Lane{lane("m", "wlp6s0"), lane("z", "wlp6s0")}, nil, nil, h)
	got, _ := Allocate([]Lane{lane("a", "wlp6s0"), lane("m", "wlp6s0"), lane("z", "wlp6s0")}, nil, have, h)
	if got["m"] != have["m"] || got["z"] != have["z"] {
		t.Errorf("%v became %v", have, got)
	}
	if want := (Allocation{pfx("10.0.3.0/24"), 102, "ul-a", "ulv-a"}); got["a"] != want {
		t.Errorf("a got %v", got["a"])
	}

	explicit := with(lane("a", "wlp6s0"), func(l *Lane) { l.Subnet, l.Table, l.Bridge = pfx("10.0.1.0/24"), 100, "ul-m" })
	got, clashes := Allocate([]Lane{explicit, lane("m", "wlp6s0")}, nil, have, h)
	if m := got["m"]; m != have["m"] || clashes["m"] != "" || strings.Count(clashes["a"], "lane") < 3 {
		t.Errorf("beside explicit values m got %v, %v", m, clashes)
	}

	got, _ = Allocate([]Lane{lane("a", "wlp6s0")}, nil, map[string]Allocation{"a": {pfx("10.0.1.0/24"), 100, "br0", "ulv-a"}}, h)
	if got["a"].Bridge != "ul-a" {
		t.Errorf("no longer named, the bridge is %s", got["a"].Bridge)
	}
	got, _ = Allocate([]Lane{with(lane("a", "wlp6s0"), func(l *Lane) { l.NoBridge = true })}, nil, map[string]Allocation{"a": {pfx("10.0.1.0/24"), 100, "ul-a", "ulv-a"}}, h)
	if got["a"].Bridge != "" {
		t.Errorf("without a bridge, it is %s", got["a"].Bridge)
	}
}

func TestAllocateAround(t *testing.T) {
	had := map[string]Allocation{"steam": {pfx("10.0.1.0/24"), 100, "ul-steam", "ulv-steam"}}
	address := func(p string) func(*Host) {
		return func(h *Host) { h.Links["x0"] = HostLink{Addrs: []netip.Prefix{pfx(p)}} }
	}
	route := func(dst string, table uint32) func(*Host) {
		return func(h *Host) { h.Routes = append(h.Routes, HostRoute{Table: table, Dst: pfx(dst), Dev: "x0"}) }
	}
	foreign := func(r Rule) func(*Host) { return func(h *Host) { h.Rules = append(h.Rules, rule(r)) } }
	stays := had["steam"]
	for name, c := range map[string]struct {
		host func(*Host)
		want Allocation
	}{
		"nothing":                           {func(*Host) {}, stays},
		"a hotel's Wi-Fi":                   {address("10.0.0.77/16"), Allocation{pfx("10.1.0.0/24"), 100, "ul-steam", "ulv-steam"}},
		"a hotel of the whole 10.0.0.0/8":   {address("10.200.0.77/8"), Allocation{pfx("172.16.0.0/24"), 100, "ul-steam", "ulv-steam"}},
		"one address in it":                 {address("10.0.1.200/32"), Allocation{pfx("10.1.0.0/24"), 100, "ul-steam", "ulv-steam"}},
		"an address beside":                 {address("10.0.2.1/24"), stays},
		"a route into it":                   {route("10.0.1.128/25", MainTable), Allocation{pfx("10.1.0.0/24"), 100, "ul-steam", "ulv-steam"}},
		"a VPN's lower half":                {route("0.0.0.0/1", MainTable), stays},
		"a VPN's upper half":                {route("128.0.0.0/1", MainTable), stays},
		"a default route":                   {route("0.0.0.0/0", MainTable), stays},
		"an IPv6 route":                     {route("fd00::/64", MainTable), stays},
		"another's table":                   {route("1.2.3.0/24", 100), Allocation{pfx("10.0.1.0/24"), 101, "ul-steam", "ulv-steam"}},
		"a VPN's private space":             {route("10.0.0.0/8", MainTable), stays},
		"a VPN's half of it":                {route("10.0.0.0/9", MainTable), stays},
		"a route to the very subnet":        {route("10.0.1.0/24", MainTable), Allocation{pfx("10.1.0.0/24"), 100, "ul-steam", "ulv-steam"}},
		"a route elsewhere":                 {route("1.2.3.0/24", 52), stays},
		"another's rule by table":           {foreign(Rule{Priority: 5270, Table: 100}), stays},
		"another's rule from it":            {foreign(Rule{Priority: 5270, From: pfx("10.0.1.0/24"), Table: 52}), Allocation{pfx("10.1.0.0/24"), 100, "ul-steam", "ulv-steam"}},
		"another's rule to it":              {foreign(Rule{Priority: 5270, To: pfx("10.0.1.7/32"), Table: 52}), Allocation{pfx("10.1.0.0/24"), 100, "ul-steam", "ulv-steam"}},
		"another's rule by a mark":          {foreign(Rule{Priority: 5270, Mark: 100, Table: 52}), stays},
		"another's interface of our bridge": {func(h *Host) { h.Links["ul-steam"] = HostLink{} }, Allocation{pfx("10.0.1.0/24"), 100, shorten(bridgePrefix, "steam", 1), "ulv-steam"}},
		"another's interface of our veth":   {func(h *Host) { h.Links["ulv-steam"] = HostLink{} }, Allocation{pfx("10.0.1.0/24"), 100, "ul-steam", shorten(vethPrefix, "steam", 1)}},
	} {
		t.Run(name, func(t *testing.T) {
			h := hostOf(wifi())
			c.host(h)
			got, clashes := Allocate([]Lane{lane("steam", "wlp6s0")}, nil, had, h)
			if got["steam"] != c.want || len(clashes) > 0 {
				t.Errorf("got %v, %v", got["steam"], clashes)
			}
			again, _ := Allocate([]Lane{lane("steam", "wlp6s0")}, nil, got, h)
			if !maps.Equal(got, again) {
				t.Errorf("then %v", again)
			}
		})
	}
}

func TestAllocateClash(t *testing.T) {
	h := hostOf(wifi())
	h.Links["docker0"] = HostLink{Addrs: []netip.Prefix{pfx("172.17.0.1/16")}}
	h.Routes = append(h.Routes, HostRoute{Table: 200, Dst: pfx("1.2.3.0/24"), Dev: "x0"})
	h.Rules = []HostRule{rule(Rule{Priority: 5270, Mark: 7, Mask: 0xff, Table: 52})}
	explicit := func(name string, f func(*Lane)) Lane { return with(lane(name, "wlp6s0"), f) }
	subnet := func(name, p string) Lane { return explicit(name, func(l *Lane) { l.Subnet = pfx(p) }) }
	table := func(name string, n uint32) Lane { return explicit(name, func(l *Lane) { l.Table = n }) }
	mark := func(name string, n uint32) Lane { return explicit(name, func(l *Lane) { l.Mark = n }) }
	masked := func(name string, n, mask uint32) Lane {
		return explicit(name, func(l *Lane) { l.Mark, l.MarkMask = n, mask })
	}
	bridge := func(name, br string) Lane { return explicit(name, func(l *Lane) { l.Bridge = br }) }
	for name, c := range map[string]struct {
		lanes []Lane
		want  map[string]string // beginnings
	}{
		"none":                  {[]Lane{subnet("a", "10.9.0.0/24"), table("b", 300), mark("c", 8), bridge("d", "br0")}, nil},
		"host's subnet":         {[]Lane{subnet("a", "172.17.3.0/24")}, map[string]string{"a": "subnet 172.17.3.0/24 overlaps with 172.17.0.0/16, which the host uses: choose"}},
		"other's subnet":        {[]Lane{subnet("b", "10.9.0.0/16"), subnet("a", "10.9.8.0/24")}, map[string]string{"b": "subnet 10.9.0.0/16 overlaps with 10.9.8.0/24 of another lane"}},
		"host's table":          {[]Lane{table("a", 200)}, map[string]string{"a": "table 200 is in use by the route to 1.2.3.0/24 by x0"}},
		"host's table, rule":    {[]Lane{table("a", 52)}, map[string]string{"a": "table 52 is in use by the ip rule with priority 5270"}},
		"kernel's table":        {[]Lane{table("a", 254)}, map[string]string{"a": "table 254 is in use by the kernel"}},
		"other's table":         {[]Lane{table("b", 300), table("a", 300)}, map[string]string{"b": "table 300 is in use by lane a"}},
		"host's mark":           {[]Lane{mark("a", 7)}, map[string]string{"a": "mark 7 is in use by the ip rule with priority 5270"}},
		"marks in other bits":   {[]Lane{masked("a", 0x100, 0xff00), masked("b", 0x300, 0xff00), mark("c", 0x264)}, nil},
		"mark within a mask":    {[]Lane{masked("a", 0x100, 0xff00), mark("b", 0x164)}, map[string]string{"b": "mark 356 is in use by lane a"}},
		"masks side by side":    {[]Lane{masked("a", 0x100, 0xff00), masked("b", 0x64, 0xff)}, map[string]string{"b": "mark 0x64/0xff is in use by lane a"}},
		"host's within a mask":  {[]Lane{masked("a", 7, 0xff)}, map[string]string{"a": "mark 0x7/0xff is in use by the ip rule with priority 5270"}},
		"other's mark":          {[]Lane{mark("b", 8), mark("a", 8)}, map[string]string{"b": "mark 8 is in use by lane a"}},
		"host's interface":      {[]Lane{bridge("a", "docker0")}, map[string]string{"a": "bridge docker0 is in use by the host"}},
		"other's bridge":        {[]Lane{bridge("b", "br0"), bridge("a", "br0")}, map[string]string{"b": "bridge br0 is in use by lane a"}},
		"two at once":           {[]Lane{with(subnet("a", "172.17.3.0/24"), func(l *Lane) { l.Table = 200 })}, map[string]string{"a": "subnet 172.17.3.0/24 overlaps with 172.17.0.0/16, which the host uses: choose another subnet, or leave the key out for an automatic one; table 200"}},
		"an automatic bridge's": {[]Lane{bridge("a", "ul-b"), lane("b", "wlp6s0")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			allocs, got := Allocate(c.lanes, nil, nil, h)
			for lane, reason := range got {
				if c.want[lane] == "" || !strings.HasPrefix(reason, c.want[lane]) {
					t.Errorf("%s: %s", lane, reason)
				}
			}
			if len(got) != len(c.want) || len(allocs) != len(c.lanes) {
				t.Errorf("allocations %v, clashes %v", allocs, got)
			}
		})
	}
}

func TestAllocateExhausted(t *testing.T) {
	h := hostOf()
	for i, p := range pools {
		h.Links[fmt.Sprintf("vpn%d", i)] = HostLink{Addrs: []netip.Prefix{p}}
	}
	allocs, clashes := Allocate([]Lane{lane("a", "wlp6s0"), with(lane("b", "wlp6s0"), func(l *Lane) { l.Subnet = pfx("100.64.0.0/24") })}, nil, nil, h)
	if clashes["a"] != "no private /24 is free on this host: set subnet" || clashes["b"] != "" || allocs["a"].Subnet.IsValid() {
		t.Errorf("%v, %v", allocs, clashes)
	}
}

func TestCandidates(t *testing.T) {
	seen := map[netip.Prefix]bool{}
	n := 0
	for ; candidate(n).IsValid(); n++ {
		p := candidate(n)
		if seen[p] || p != p.Masked() || !slices.ContainsFunc(pools, func(q netip.Prefix) bool { return q.Contains(p.Addr()) }) {
			t.Fatalf("%d: %v", n, p)
		}
		seen[p] = true
	}
	for i, want := range map[int]string{0: "10.0.1.0/24", 254: "10.0.255.0/24", 255: "10.1.0.0/24", 1<<16 - 2: "10.255.255.0/24", 1<<16 - 1: "172.16.0.0/24", n - 1: "192.168.255.0/24"} {
		if candidate(i) != pfx(want) {
			t.Errorf("%d: %v, want %s", i, candidate(i), want)
		}
	}
	if n != 1<<16+1<<12+1<<8-1 {
		t.Errorf("%d candidates", n)
	}
}

func TestTablesSkipReserved(t *testing.T) {
	var lanes []Lane
	for i := range 160 {
		lanes = append(lanes, laneN(i))
	}
	allocs, _ := Allocate(lanes, nil, nil, hostOf())
	for name, a := range allocs {
		if CheckTable(a.Table) != nil {
			t.Errorf("%s got table %d", name, a.Table)
		}
	}
	if last := allocs[laneN(159).Name].Table; last != 100+160+3-1 {
		t.Errorf("the last got %d", last)
	}
}

// Long names are cut; nothing that comes out is taken twice, even when one lane
// has the name that another's was cut to.
func TestShortNames(t *testing.T) {
	for name, want := range map[string]string{"": "ul-", "abcdefghijkl": "ul-abcdefghijkl", "abcdefghijklm": "ul-abcdef"} {
		if got := shorten(bridgePrefix, name, 0); !strings.HasPrefix(got, want) || len(got) > maxName {
			t.Errorf("%s: %s", name, got)
		}
	}
	long := "a-long-lane-name"
	cut := shorten(bridgePrefix, long, 0)
	twin := lane(strings.TrimPrefix(cut, bridgePrefix), "wlp6s0")
	vethTwin := lane(strings.TrimPrefix(shorten(vethPrefix, long, 0), vethPrefix), "wlp6s0")
	veth := lane("v-steam", "wlp6s0") // its bridge is ul-v-steam
	lanes := []Lane{lane(long, "wlp6s0"), lane(long+"r", "wlp6s0"), twin, vethTwin, veth, lane("steam", "wlp6s0")}
	var have map[string]Allocation
	for range 2 { // the second time everything stays
		got, clashes := Allocate(lanes, nil, have, hostOf())
		seen := map[string]string{}
		for lane, a := range got {
			for _, name := range []string{a.Bridge, a.Veth} {
				if other, twice := seen[name]; twice || CheckInterfaceName(name) != nil {
					t.Errorf("%s of %s: also of %q", name, lane, other)
				}
				seen[name] = lane
			}
		}
		if len(clashes) > 0 || have != nil && !maps.Equal(got, have) {
			t.Errorf("%v became %v, %v", have, got, clashes)
		}
		have = got
	}
	if automatic("br0", "steam") || automatic("ul-other", "steam") || !automatic("ul-steam", "steam") || !automatic(shorten(bridgePrefix, "steam", 3), "steam") {
		t.Error("an automatic name is not told from another")
	}
}

// Whatever the lanes, their order and what they had, no two share anything, and
// the outcome stays.
func TestAllocateProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWalker(t)
		w.drawHost()
		w.drawLanes()
		have, wrong := Allocate(w.lanes, nil, nil, w.host)
		maps.DeleteFunc(have, func(name string, _ Allocation) bool { return wrong[name] != "" })
		w.drawHost()
		w.drawLanes()
		got, clashes := Allocate(w.lanes, nil, have, w.host)
		hold := func(allocs map[string]Allocation, clashes map[string]string) map[string]Allocation { // what is remembered
			held := maps.Clone(allocs)
			for name := range clashes {
				delete(held, name)
				if old, ok := have[name]; ok {
					held[name] = old
				}
			}
			return held
		}
		held := hold(got, clashes)
		if again, c := Allocate(w.lanes, nil, held, w.host); !maps.Equal(again, got) || !maps.Equal(c, clashes) {
			t.Fatalf("%v became %v", got, again)
		}
		if other, _ := Allocate(rapid.Permutation(w.lanes).Draw(t, "another order"), nil, have, w.host); !maps.Equal(other, got) {
			t.Fatalf("%v or %v", got, other)
		}
		// Lanes that are not up change nothing for those that are.
		var idle []Lane
		for _, name := range []string{"aaa", "mmm", "zzz"} {
			if chance(t, "idle "+name, 50) {
				idle = append(idle, w.drawLane(name))
			}
		}
		beside, c := Allocate(w.lanes, idle, held, w.host)
		for _, l := range w.lanes {
			if c[l.Name] == "" && beside[l.Name] != got[l.Name] || c[l.Name] != clashes[l.Name] {
				t.Fatalf("%v became %v (%s), beside %v", got[l.Name], beside[l.Name], c[l.Name], idle)
			}
		}
		for a, x := range got {
			if clashes[a] == "" && newTaken(w.host, w.lanes).subnet(x.Subnet) != "" {
				t.Fatalf("%s: %v is taken", a, x)
			}
			for b, y := range got {
				if a != b && clashes[a] == "" && clashes[b] == "" &&
					(x.Subnet.Overlaps(y.Subnet) || x.Table == y.Table || x.Veth == y.Veth || x.Veth == y.Bridge || x.Bridge != "" && x.Bridge == y.Bridge) {
					t.Fatalf("%s has %v, %s has %v", a, x, b, y)
				}
			}
		}
	})
}
