package policy

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Allocation is the numbers and names a lane got. Once given they stay, across
// restarts and reboots, until something on the host collides with them.
type Allocation struct {
	Subnet netip.Prefix
	Table  uint32
	Bridge string // empty: no bridge
	Veth   string // the host's end
}

// pools are where automatic subnets come from, in order.
var pools = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
}

const firstTable = 100 // automatic ones go on from here

// broadest is the shortest prefix that counts as a collision. VPNs cover the
// whole address space by halves (0.0.0.0/1, 128.0.0.0/1); those are default
// routes in disguise.
const broadest = 8

// Allocate gives every lane its numbers and names: the explicit ones, else those
// it has in have, else the next that collide with nothing. Where an explicit
// value collides with the host or another lane, or nothing free is left, the
// reason is in clashes. Idle lanes are not up: they take nothing from those that
// are, but new ones keep clear of them.
func Allocate(lanes, idle []Lane, have map[string]Allocation, h *Host) (allocs map[string]Allocation, clashes map[string]string) {
	clashes = make(map[string]string)
	clash := func(l *Lane, format string, args ...any) {
		if clashes[l.Name] != "" {
			clashes[l.Name] += "; "
		}
		clashes[l.Name] += fmt.Sprintf(format, args...)
	}
	lanes, up := byName(lanes), len(lanes)
	taken := newTaken(h, lanes)
	lanes = append(slices.Clip(lanes), byName(idle)...)
	got := make([]Allocation, len(lanes))

	// What NetworkManager has given first, for that is so already; then explicit
	// values, what lanes already have, and new ones: a new lane never takes what an
	// older one holds.
	for _, part := range [][2]int{{0, up}, {up, len(lanes)}} {
		for _, external := range []bool{true, false} {
			for i := part[0]; i < part[1]; i++ {
				if l := &lanes[i]; l.External == external {
					got[i] = taken.claim(l, h, func(format string, args ...any) { clash(l, format, args...) })
				}
			}
		}
		for i := part[0]; i < part[1]; i++ {
			taken.keep(&lanes[i], &got[i], have[lanes[i].Name])
		}
	}
	allocs = make(map[string]Allocation, len(lanes))
	for i := range lanes {
		l, a := &lanes[i], &got[i]
		if !l.External && !a.Subnet.IsValid() {
			if a.Subnet = taken.nextSubnet(); !a.Subnet.IsValid() {
				clash(l, "no private /24 is free on this host: set subnet")
			}
		}
		if a.Table == 0 {
			a.Table = taken.nextTable(l.Name)
		}
		if a.Bridge == "" && !l.NoBridge {
			a.Bridge = taken.nextName(bridgePrefix, l.Name)
		}
		if a.Veth == "" {
			a.Veth = taken.nextName(vethPrefix, l.Name)
		}
		allocs[l.Name] = *a
	}
	return allocs, clashes
}

// claim takes what a lane has explicitly, and tells clash what it can't have.
func (t *taken) claim(l *Lane, h *Host, clash func(format string, args ...any)) Allocation {
	a := Allocation{Subnet: l.Subnet, Table: l.Table, Bridge: l.Bridge}
	fix := "choose another subnet, or leave the key out for an automatic one"
	if l.External {
		var why string
		if a.Subnet, why = l.externalSubnet(h); why != "" {
			clash("%s", why)
		}
		fix = "give bridge " + l.Bridge + " another address"
	}
	if subnet := a.Subnet; subnet.IsValid() {
		if by := t.subnet(subnet); by != "" {
			clash("subnet %v overlaps with %s: %s", subnet, by, fix)
		} else {
			t.lanes.add(subnet)
		}
	}
	if l.Table != 0 {
		if by := t.tables[l.Table]; by != "" {
			clash("table %d is in use by %s: choose another table, or leave the key out for an automatic one", l.Table, by)
		} else {
			t.tables[l.Table] = "lane " + l.Name
		}
	}
	if l.Mark != 0 {
		if by := t.marks[l.Mark]; by != "" {
			clash("mark %d is in use by %s: choose another mark", l.Mark, by)
		} else {
			t.marks[l.Mark] = "lane " + l.Name
		}
	}
	if l.Bridge != "" {
		if by := t.names[l.Bridge]; by != "" {
			clash("bridge %s is in use by %s: choose another name, or bridge = false", l.Bridge, by)
		} else {
			t.names[l.Bridge] = "lane " + l.Name
		}
	}
	return a
}

// keep gives a lane what it had and has not claimed otherwise.
func (t *taken) keep(l *Lane, a *Allocation, old Allocation) {
	if !l.External && !a.Subnet.IsValid() && old.Subnet.IsValid() && t.free(old.Subnet) {
		a.Subnet = old.Subnet
		t.lanes.add(a.Subnet)
	}
	if a.Table == 0 && old.Table != 0 && t.tables[old.Table] == "" {
		a.Table = old.Table
		t.tables[a.Table] = "lane " + l.Name
	}
	if a.Bridge == "" && !l.NoBridge && t.names[old.Bridge] == "" && automatic(old.Bridge, l.Name) {
		a.Bridge = old.Bridge
		t.names[a.Bridge] = "lane " + l.Name
	}
	if old.Veth != "" && t.names[old.Veth] == "" {
		a.Veth = old.Veth
		t.names[a.Veth] = "lane " + l.Name
	}
}

// byName returns lanes in the order of their names, so that no result depends on
// the order in which they were read.
func byName(lanes []Lane) []Lane {
	cmp := func(a, b Lane) int { return strings.Compare(a.Name, b.Name) }
	if slices.IsSortedFunc(lanes, cmp) {
		return lanes
	}
	return slices.SortedFunc(slices.Values(lanes), cmp)
}

// taken is what nobody else may get. The maps say by whom.
type taken struct {
	host   prefixSet // the host's prefixes, routes and rules
	lanes  prefixSet
	tables map[uint32]string
	marks  map[uint32]string
	names  map[string]string // of interfaces
	next   int               // where nextSubnet goes on
	nextT  uint32
}

func newTaken(h *Host, lanes []Lane) *taken {
	t := &taken{
		tables: make(map[uint32]string, len(lanes)+8),
		marks:  make(map[uint32]string),
		names:  make(map[string]string, 2*len(lanes)+len(h.Links)),
		nextT:  firstTable,
	}
	for _, n := range []uint32{0, 253, 254, 255} { // unspecified, default, main, local
		t.tables[n] = "the kernel"
	}
	given := map[string]bool{} // by NetworkManager, to lanes that are up
	for i := range lanes {
		if lanes[i].External {
			given[lanes[i].Bridge] = true
		}
	}
	for name, l := range h.Links {
		if given[name] {
			continue
		}
		t.names[name] = "the host"
		for _, a := range l.Addrs {
			t.addHost(a)
		}
	}
	for i := range h.Routes {
		r := &h.Routes[i]
		if given[r.Dev] {
			continue
		}
		t.addHost(r.Dst)
		if t.tables[r.Table] == "" {
			t.tables[r.Table] = fmt.Sprintf("the route to %v by %s", r.Dst, r.Dev)
		}
	}
	for i := range h.Rules {
		r := &h.Rules[i]
		t.addHost(r.From)
		t.addHost(r.To)
		if t.tables[r.Table] == "" {
			t.tables[r.Table] = fmt.Sprintf("the ip rule with priority %d", r.Priority)
		}
		if r.Mark != 0 {
			t.marks[r.Mark] = fmt.Sprintf("the ip rule with priority %d", r.Priority)
		}
	}
	return t
}

func (t *taken) addHost(p netip.Prefix) {
	if p.IsValid() && p.Addr().Is4() && p.Bits() >= broadest {
		t.host.add(p)
	}
}

// subnet says what p collides with; empty: nothing.
func (t *taken) subnet(p netip.Prefix) string {
	if q, ok := t.host.overlaps(p); ok {
		return q.String() + ", which the host uses"
	}
	if q, ok := t.lanes.overlaps(p); ok {
		return q.String() + " of another lane"
	}
	return ""
}

func (t *taken) free(p netip.Prefix) bool {
	_, host := t.host.overlaps(p)
	_, lane := t.lanes.overlaps(p)
	return !host && !lane
}

// nextSubnet returns the next free one, or the zero prefix.
func (t *taken) nextSubnet() netip.Prefix {
	p := candidate(t.next)
	for p.IsValid() && !t.free(p) {
		t.next++
		p = candidate(t.next)
	}
	if p.IsValid() {
		t.lanes.add(p)
	}
	return p
}

// candidate is the n-th /24 of the pools, from 10.0.1.0/24 on; behind the last
// the zero prefix.
func candidate(n int) netip.Prefix {
	n++ // 10.0.0.0/24 is every other router's own
	for _, pool := range pools {
		size := 1 << (24 - pool.Bits())
		if n < size {
			a := pool.Addr().As4()
			a[1] += byte(n >> 8)
			a[2] += byte(n)
			return netip.PrefixFrom(netip.AddrFrom4(a), 24)
		}
		n -= size
	}
	return netip.Prefix{}
}

func (t *taken) nextTable(lane string) uint32 {
	for t.tables[t.nextT] != "" {
		t.nextT++
	}
	t.tables[t.nextT] = "lane " + lane
	return t.nextT
}

func (t *taken) nextName(prefix, lane string) string {
	for salt := 0; ; salt++ {
		if name := shorten(prefix, lane, salt); t.names[name] == "" {
			t.names[name] = "lane " + lane
			return name
		}
	}
}

// Prefixes of our interface names.
const (
	bridgePrefix = "ul-"
	vethPrefix   = "ulv-"
	maxName      = 15 // IFNAMSIZ less the NUL
)

// shorten makes an interface's name for a lane: the lane's own where it fits
// and is free, else its beginning and a hash.
func shorten(prefix, lane string, salt int) string {
	if salt == 0 && len(prefix)+len(lane) <= maxName {
		return prefix + lane
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", lane, salt))
	hash := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:6]
	head := maxName - len(prefix) - len(hash)
	return prefix + lane[:min(head, len(lane))] + hash
}

// automatic tells whether bridge is an automatic name of lane: a lane whose file
// no longer names its bridge goes back to the automatic one.
func automatic(bridge, lane string) bool {
	if !strings.HasPrefix(bridge, bridgePrefix) {
		return false
	}
	for salt := range 8 {
		if shorten(bridgePrefix, lane, salt) == bridge {
			return true
		}
	}
	return false
}
