package kernel

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"uplane/policy"
	"uplane/test/lab"
)

// What the direct socket writes and reads is what the library reads.
func TestDirect(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks)
	k := open(t, nil)
	if err := k.readLinks(linkSet{all: true}); err != nil {
		t.Fatal(err)
	}
	link, err := k.index(k.host, "", "wlp6s0")
	if err != nil {
		t.Fatal(err)
	}
	prefix := netip.MustParsePrefix
	for _, table := range []uint32{100, 1000, 1 << 20} {
		if got, err := k.direct.routes(unix.AF_INET, table, 0); err != nil || len(got) != 0 {
			t.Errorf("table %d, which is not there: %v, %v", table, got, err)
		}
		for _, r := range []policy.Route{
			{Table: table, Dst: prefix("10.0.1.0/24"), Dev: "wlp6s0"},
			{Table: table, Dst: policy.IPv4.Default(), Dev: "wlp6s0", Via: netip.MustParseAddr("192.168.50.1")},
			{Table: table, Dst: policy.IPv4.Default(), Dev: "wlp6s0", Via: netip.MustParseAddr("192.168.50.2")}, // in the place of the other
			{Table: table, Dst: prefix("198.18.0.0/15"), Dev: "wlp6s0", Via: netip.MustParseAddr("203.0.113.1"), OnLink: true},
			{Table: table, Dst: policy.IPv4.Default(), Metric: policy.FloorMetric, Type: policy.Unreachable},
		} {
			if err := k.direct.replace(toRoute(r, map[bool]int{true: link}[r.Type == policy.Unicast])); err != nil {
				t.Fatalf("%v: %v", r, err)
			}
		}
		want, err := listRoutes(k.host, table)
		if err != nil {
			t.Fatal(err)
		}
		got, err := k.direct.routes(unix.AF_INET, table, 0)
		if err != nil || len(got) != 4 || !slices.Equal(got, want) {
			t.Errorf("table %d is %+v, %v; not %+v", table, got, err, want)
		}
	}
	if err := k.direct.replace(toRoute(policy.Route{Table: 100, Dst: policy.IPv4.Default(), Via: netip.MustParseAddr("203.0.113.1")}, link)); err != unix.ENETUNREACH {
		t.Errorf("a gateway that nobody reaches: %v", err)
	}
}

func FuzzParseRoute(f *testing.F) {
	f.Add([]byte{unix.AF_INET, 24, 0, 0, 100, 117, 253, 1, 0, 0, 0, 0, 8, 0, unix.RTA_DST, 0, 10, 0, 1, 0, 8, 0, unix.RTA_OIF, 0, 3, 0, 0, 0})
	f.Add([]byte{unix.AF_INET, 33, 0, 0, 100, 117, 253, 1, 0, 0, 0, 0})
	hop := func(link, weight byte) []byte {
		return []byte{16, 0, 0, weight, link, 0, 0, 0, 8, 0, unix.RTA_GATEWAY, 0, 192, 168, 1, link}
	}
	f.Add(appendAttr([]byte{unix.AF_INET, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0}, unix.RTA_MULTIPATH, append(hop(3, 1), hop(4, 5)...)))
	f.Add(appendAttr([]byte{unix.AF_INET6, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0}, unix.RTA_GATEWAY, netip.MustParseAddr("fe80::1").AsSlice()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := parseRoute(b); ok && (!r.dst.IsValid() || addrFamily(r.dst.Addr()) != familiesOf(b[0])) {
			t.Errorf("%v", r)
		}
	})
}

func FuzzParseAddr(f *testing.F) {
	f.Add(appendAttr([]byte{unix.AF_INET, 24, 0, 0, 3, 0, 0, 0}, unix.IFA_LOCAL, []byte{10, 0, 1, 1}))
	f.Add(appendAttr([]byte{unix.AF_INET6, 64, 0, 0, 3, 0, 0, 0}, unix.IFA_ADDRESS, netip.MustParseAddr("fd00::1").AsSlice()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, p, ok := parseAddr(b); ok && (!p.IsValid() || addrFamily(p.Addr()) != familiesOf(b[0])) {
			t.Errorf("%v", p)
		}
	})
}
