package policy

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"maps"
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

// First automatic values; the next free ones follow.
var (
	firstSubnet = netip.MustParsePrefix("10.0.1.0/24")
	// pools are where automatic subnets come from, in order.
	pools = []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"),
	}
)

const firstTable = 100

// broadest is the shortest prefix that counts as a collision. VPNs cover the
// whole address space by halves (0.0.0.0/1, 128.0.0.0/1); those are default
// routes in disguise.
const broadest = 8

// Allocate gives every lane its numbers and names: the explicit ones, else those
// it has in have, else the next that collide with nothing. Where an explicit
// value collides with the host, or nothing free is left, the reason is in clashes.
func Allocate(lanes []Lane, have map[string]Allocation, h *Host) (allocs map[string]Allocation, clashes map[string]string) {
	allocs = make(map[string]Allocation, len(lanes))
	clashes = make(map[string]string)
	taken := newTaken(h)

	lanes = slices.Clone(lanes)
	slices.SortFunc(lanes, func(a, b Lane) int { return strings.Compare(a.Name, b.Name) })
	// Explicit values first, then what lanes already have, then new ones: a new
	// lane never takes what an older one holds.
	for _, l := range lanes {
		a := Allocation{Subnet: l.Subnet, Table: l.Table, Bridge: l.Bridge}
		if l.Subnet.IsValid() {
			if clash := taken.subnet(l.Subnet); clash != "" {
				clashes[l.Name] = fmt.Sprintf("subnet %v overlaps with %s: choose another subnet, or leave the key out for an automatic one", l.Subnet, clash)
			} else {
				taken.lanes.add(l.Subnet)
			}
		}
		if l.Table != 0 {
			if clash := taken.table(l.Table); clash != "" {
				clashes[l.Name] = fmt.Sprintf("table %d is in use by %s: choose another table, or leave the key out for an automatic one", l.Table, clash)
			} else {
				taken.tables[l.Table] = "lane " + l.Name
			}
		}
		if l.Bridge != "" {
			if _, exists := h.Links[l.Bridge]; exists {
				clashes[l.Name] = fmt.Sprintf("bridge %s exists and is not ours: choose another name, or bridge = false", l.Bridge)
			} else {
				taken.names[l.Bridge] = true
			}
		}
		allocs[l.Name] = a
	}
	for _, l := range lanes {
		a, old := allocs[l.Name], have[l.Name]
		if !a.Subnet.IsValid() && old.Subnet.IsValid() && taken.subnet(old.Subnet) == "" {
			a.Subnet = old.Subnet
			taken.lanes.add(a.Subnet)
		}
		if a.Table == 0 && old.Table != 0 && taken.table(old.Table) == "" {
			a.Table = old.Table
			taken.tables[a.Table] = "lane " + l.Name
		}
		if a.Bridge == "" && !l.NoBridge && old.Bridge != "" && taken.free(old.Bridge) && old.Bridge == bridgeName(l.Name, old.Bridge) {
			a.Bridge = old.Bridge
			taken.names[a.Bridge] = true
		}
		if old.Veth != "" && taken.free(old.Veth) {
			a.Veth = old.Veth
			taken.names[a.Veth] = true
		}
		allocs[l.Name] = a
	}
	for _, l := range lanes {
		a := allocs[l.Name]
		if !a.Subnet.IsValid() {
			if a.Subnet = taken.nextSubnet(); !a.Subnet.IsValid() {
				clashes[l.Name] = "no private /24 is free on this host: set subnet"
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
		allocs[l.Name] = a
	}
	return allocs, clashes
}

// taken is what nobody else may get.
type taken struct {
	host   prefixSet // the host's prefixes, routes and rules
	lanes  prefixSet
	tables map[uint32]string // by whom
	names  map[string]bool   // of interfaces
	next   int               // where nextSubnet goes on
	nextT  uint32
}

func newTaken(h *Host) *taken {
	t := &taken{tables: maps.Clone(reservedTables), names: make(map[string]bool), nextT: firstTable}
	for name, l := range h.Links {
		t.names[name] = true
		for _, a := range l.Addrs {
			t.addHost(a)
		}
	}
	for _, r := range h.Routes {
		t.addHost(r.Dst)
		if t.tables[r.Table] == "" {
			t.tables[r.Table] = "a route to " + r.Dst.String() + " dev " + r.Dev
		}
	}
	for _, r := range h.Rules {
		t.addHost(r.From)
		t.addHost(r.To)
		if t.tables[r.Table] == "" {
			t.tables[r.Table] = fmt.Sprintf("the ip rule with priority %d", r.Priority)
		}
	}
	return t
}

var reservedTables = map[uint32]string{0: "the kernel", 253: "the kernel", 254: "the kernel", 255: "the kernel"}

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

func (t *taken) table(n uint32) string { return t.tables[n] }

func (t *taken) free(name string) bool { return !t.names[name] }

func (t *taken) nextSubnet() netip.Prefix {
	for ; t.next < 1<<16+1<<12+1<<8; t.next++ {
		p := candidate(t.next)
		if p.IsValid() && t.subnet(p) == "" {
			t.lanes.add(p)
			return p
		}
	}
	return netip.Prefix{}
}

// candidate is the n-th /24 of the pools, from firstSubnet on.
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
		if name := shorten(prefix, lane, salt); t.free(name) {
			t.names[name] = true
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

// bridgeName returns name when it is an automatic one of lane, so that a lane
// whose file no longer names its bridge goes back to the automatic name.
func bridgeName(lane, name string) string {
	for salt := range 8 {
		if s := shorten(bridgePrefix, lane, salt); s == name {
			return s
		}
	}
	return ""
}
