package policy

import (
	"cmp"
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

// pools are where automatic subnets come from, in order, a block at a time.
var pools = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
}

const firstTable = 100 // automatic ones go on from here

// broadest is the shortest prefix of a route that counts when a new subnet is
// looked for. VPNs cover the whole address space by halves (0.0.0.0/1,
// 128.0.0.0/1); those are default routes in disguise.
const broadest = 8

// Allocate gives every lane its numbers and names: the explicit ones, else those
// it has in have, else the next that collide with nothing. Where an explicit
// value collides with the host or another lane, or nothing free is left, the
// reason is in clashes. Idle lanes are not up: they take nothing from those that
// are, but new ones keep clear of them. What lanes hold they keep: who asks for
// it later gets the clash.
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

	// What NetworkManager has given first, for that is so already; then what lanes
	// hold; then explicit values, those of older lanes first, and new ones last.
	for _, part := range [][2]int{{0, up}, {up, len(lanes)}} {
		each := func(f func(l *Lane, a *Allocation, old Allocation, holds bool)) {
			for i := part[0]; i < part[1]; i++ {
				old, holds := have[lanes[i].Name]
				f(&lanes[i], &got[i], old, holds)
			}
		}
		claim := func(which func(l *Lane, holds bool) bool) {
			each(func(l *Lane, a *Allocation, _ Allocation, holds bool) {
				if which(l, holds) {
					taken.claim(l, a, h, func(format string, args ...any) { clash(l, format, args...) })
				}
			})
		}
		claim(func(l *Lane, _ bool) bool { return l.External })
		each(func(l *Lane, a *Allocation, old Allocation, _ bool) { taken.keep(l, a, old) })
		claim(func(l *Lane, holds bool) bool { return !l.External && holds })
		claim(func(l *Lane, holds bool) bool { return !l.External && !holds })
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

// keep takes what a lane has, if its file still says so or leaves it to us: nobody who comes later gets it.
func (t *taken) keep(l *Lane, a *Allocation, old Allocation) {
	if !l.External && old.Subnet.IsValid() && (!l.Subnet.IsValid() || l.Subnet == old.Subnet) && t.subnet(old.Subnet) == "" {
		a.Subnet = old.Subnet
		t.lanes.add(a.Subnet)
	}
	if old.Table != 0 && (l.Table == 0 || l.Table == old.Table) && t.tables[old.Table] == "" {
		a.Table = old.Table
		t.tables[a.Table] = "lane " + l.Name
	}
	named := l.Bridge == old.Bridge || l.Bridge == "" && automatic(old.Bridge, l.Name)
	if !l.External && !l.NoBridge && old.Bridge != "" && named && t.names[old.Bridge] == "" {
		a.Bridge = old.Bridge
		t.names[a.Bridge] = "lane " + l.Name
	}
	if old.Veth != "" && t.names[old.Veth] == "" {
		a.Veth = old.Veth
		t.names[a.Veth] = "lane " + l.Name
	}
}

// claim takes what a lane has explicitly and does not hold yet, and tells clash what it can't have.
func (t *taken) claim(l *Lane, a *Allocation, h *Host, clash func(format string, args ...any)) {
	fix := "choose another subnet, or leave the key out for an automatic one"
	subnet := l.Subnet
	if l.External {
		var why string
		if subnet, why = l.externalSubnet(h); why != "" {
			clash("%s", why)
		}
		fix = "give bridge " + l.Bridge + " another address"
	}
	if subnet.IsValid() && a.Subnet != subnet {
		a.Subnet = subnet
		if by := t.subnet(subnet); by != "" {
			clash("subnet %v overlaps with %s: %s", subnet, by, fix)
		} else {
			t.lanes.add(subnet)
		}
	}
	if l.Table != 0 && a.Table == 0 {
		a.Table = l.Table
		if by := cmp.Or(t.tables[l.Table], t.looked[l.Table]); by != "" {
			clash("table %d is in use by %s: choose another table, or leave the key out for an automatic one", l.Table, by)
		} else {
			t.tables[l.Table] = "lane " + l.Name
		}
	}
	if l.Mark != 0 {
		if by := t.mark(l.Mark, l.markMask()); by != "" {
			clash("mark %s is in use by %s: choose another mark", l.markText(), by)
		} else {
			t.marks = append(t.marks, takenMark{mark: l.Mark, mask: l.markMask(), by: "lane " + l.Name})
		}
	}
	if l.Bridge != "" && a.Bridge == "" {
		a.Bridge = l.Bridge
		if by := t.names[l.Bridge]; by != "" {
			clash("bridge %s is in use by %s: choose another name, or leave the key out for an automatic one", l.Bridge, by)
		} else {
			t.names[l.Bridge] = "lane " + l.Name
		}
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
	// onLink are the host's own networks, which its neighbours are in; routes are
	// the other prefixes that it has routes and rules for.
	onLink, routes prefixSet
	broad          prefixSet // of routes, by length shorter than a block
	lanes          prefixSet
	tables         map[uint32]string
	looked         map[uint32]string // tables that others' rules look up: no reason for a lane to give one up
	marks          []takenMark
	names          map[string]string // of interfaces
	next           int               // where nextSubnet goes on
	nextT          uint32
}

func newTaken(h *Host, lanes []Lane) *taken {
	t := &taken{
		tables: make(map[uint32]string, len(lanes)+8),
		looked: make(map[uint32]string),
		names:  make(map[string]string, 2*len(lanes)+len(h.Links)),
		nextT:  firstTable,
	}
	for _, n := range []uint32{0, 253, 254, 255} { // unspecified, default, main, local
		t.tables[n] = "the kernel"
	}
	t.tables[LanesTable] = "all lanes together"
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
			if a.Addr().Is4() {
				t.onLink.add(a)
			}
		}
	}
	for i := range h.Routes {
		r := &h.Routes[i]
		if given[r.Dev] {
			continue
		}
		t.addRoute(r.Dst)
		if t.tables[r.Table] == "" {
			t.tables[r.Table] = fmt.Sprintf("the route to %v by %s", r.Dst, r.Dev)
		}
	}
	for i := range h.Rules {
		r := &h.Rules[i]
		if r.Ours() {
			continue
		}
		t.addRoute(r.From)
		t.addRoute(r.To)
		if r.Action == Lookup {
			t.looked[r.Table] = fmt.Sprintf("the ip rule with priority %d", r.Priority)
		}
		if r.Mask != 0 && r.Mark != 0 { // else it is about packets that have no mark
			t.marks = append(t.marks, takenMark{r.Mark, r.Mask, fmt.Sprintf("the ip rule with priority %d", r.Priority), true})
		}
	}
	return t
}

func (t *taken) addRoute(p netip.Prefix) {
	switch {
	case !p.IsValid() || !p.Addr().Is4() || p.Bits() < broadest:
	case p.Bits() < blockBits:
		t.broad.add(p)
	default:
		t.routes.add(p)
	}
}

// subnet says what p collides with; empty: nothing.
func (t *taken) subnet(p netip.Prefix) string {
	if q := t.collides(p); q != "" {
		return q
	}
	if q, ok := t.lanes.overlaps(p); ok {
		return q.String() + " of another lane"
	}
	return ""
}

// collides says with what of the host's p can't be together. A route that is broader than p
// is no collision: the lane's is the more specific one, so both work.
func (t *taken) collides(p netip.Prefix) string {
	if q, ok := t.onLink.overlaps(p); ok {
		return q.String() + ", which the host uses"
	}
	if q, ok := t.routes.overlaps(p); ok && q.Bits() >= p.Bits() {
		return q.String() + ", which the host uses"
	}
	return ""
}

// takenMark is a mark that others look at, in the bits of its mask.
type takenMark struct {
	mark, mask uint32
	by         string
	foreign    bool // the host's: who uses other bits than it does keeps clear of it
}

// mark says who looks at a mark that a packet can have together with this one; empty: nobody.
func (t *taken) mark(mark, mask uint32) string {
	for _, m := range t.marks {
		if sameMark(m.mark, m.mask, mark, mask) && (!m.foreign || m.mask&mask != 0) {
			return m.by
		}
	}
	return ""
}

// free tells whether p collides with nothing, even if that is broader.
func (t *taken) free(p netip.Prefix) bool {
	if t.subnet(p) != "" {
		return false
	}
	_, ok := t.routes.overlaps(p)
	return !ok
}

// blockBits is the size of the blocks that automatic subnets come from.
const blockBits = 16

// blockOf is the block around a subnet; the zero prefix if it is larger than one.
func blockOf(subnet netip.Prefix) netip.Prefix {
	if !subnet.IsValid() || subnet.Bits() < blockBits {
		return netip.Prefix{}
	}
	p, _ := subnet.Addr().Prefix(blockBits)
	return p
}

// clean tells whether the host has nothing of its own in a block, so that rules may
// speak of it as a whole.
func (t *taken) clean(block netip.Prefix) bool {
	_, link := t.onLink.overlaps(block)
	_, route := t.routes.overlaps(block)
	return !link && !route
}

// nextSubnet returns the next free one, or the zero prefix. Blocks that nobody has a route
// for are preferred to those of a VPN that takes all private addresses.
func (t *taken) nextSubnet() netip.Prefix {
	for _, broadToo := range []bool{false, true} {
		for ; ; t.next++ {
			p := candidate(t.next)
			if !p.IsValid() {
				t.next = 0
				break
			}
			_, broad := t.broad.overlaps(p)
			if (broadToo || !broad) && t.free(p) && t.clean(blockOf(p)) {
				t.lanes.add(p)
				return p
			}
		}
	}
	// Nothing but blocks that the host is in as well.
	for ; ; t.next++ {
		p := candidate(t.next)
		if !p.IsValid() || t.subnet(p) == "" {
			if p.IsValid() {
				t.lanes.add(p)
			}
			return p
		}
	}
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
	for t.tables[t.nextT] != "" || t.looked[t.nextT] != "" {
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
