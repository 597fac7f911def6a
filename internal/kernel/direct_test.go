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
	if err := k.readLinks(); err != nil {
		t.Fatal(err)
	}
	link, err := k.index(k.host, "", "wlp6s0")
	if err != nil {
		t.Fatal(err)
	}
	prefix := netip.MustParsePrefix
	for _, table := range []uint32{100, 1000, 1 << 20} {
		if got, err := k.direct.routes(table); err != nil || len(got) != 0 {
			t.Errorf("table %d, which is not there: %v, %v", table, got, err)
		}
		for _, r := range []policy.Route{
			{Table: table, Dst: prefix("10.0.1.0/24"), Dev: "wlp6s0"},
			{Table: table, Dst: default4, Dev: "wlp6s0", Via: netip.MustParseAddr("192.168.50.1")},
			{Table: table, Dst: default4, Dev: "wlp6s0", Via: netip.MustParseAddr("192.168.50.2")}, // in the place of the other
			{Table: table, Dst: prefix("198.18.0.0/15"), Dev: "wlp6s0", Via: netip.MustParseAddr("203.0.113.1"), OnLink: true},
			{Table: table, Dst: default4, Metric: policy.FloorMetric, Type: policy.Unreachable},
		} {
			if err := k.direct.replace(toRoute(r, map[bool]int{true: link}[r.Type == policy.Unicast])); err != nil {
				t.Fatalf("%v: %v", r, err)
			}
		}
		want, err := listRoutes(k.host, table)
		if err != nil {
			t.Fatal(err)
		}
		got, err := k.direct.routes(table)
		if err != nil || len(got) != 4 || !slices.Equal(got, want) {
			t.Errorf("table %d is %+v, %v; not %+v", table, got, err, want)
		}
	}
	if err := k.direct.replace(toRoute(policy.Route{Table: 100, Dst: default4, Via: netip.MustParseAddr("203.0.113.1")}, link)); err != unix.ENETUNREACH {
		t.Errorf("a gateway that nobody reaches: %v", err)
	}
}

func FuzzParseRoute(f *testing.F) {
	f.Add([]byte{unix.AF_INET, 24, 0, 0, 100, 117, 253, 1, 0, 0, 0, 0, 8, 0, unix.RTA_DST, 0, 10, 0, 1, 0, 8, 0, unix.RTA_OIF, 0, 3, 0, 0, 0})
	f.Add([]byte{unix.AF_INET, 33, 0, 0, 100, 117, 253, 1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := parseRoute(b); ok && !r.dst.IsValid() {
			t.Errorf("%v", r)
		}
	})
}
