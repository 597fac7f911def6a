package kernel

import (
	"errors"
	"net/netip"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"uplane/policy"
	"uplane/test/lab"
)

// TestNoConntrack: a kernel that can't list connections says so by the socket, or by the answer.
func TestNoConntrack(t *testing.T) {
	lab.RequireRoot(t)
	runtime.LockOSThread() // for good
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	k := open(t, nil)
	d, err := openDirect(unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	const nobodys = 99
	if err := d.do(nobodys<<8|ctGet, unix.NLM_F_DUMP, []byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, nil); !lacksConntrack(err) {
		t.Errorf("netfilter answers %v for a part that it does not have", err)
	}
	if err := lab.RefuseNetlink(unix.NETLINK_NETFILTER, unix.EPROTONOSUPPORT); err != nil {
		t.Fatal(err)
	}
	subnet := netip.MustParsePrefix("10.0.1.0/24")
	if tracked, err := k.Tracked([]netip.Prefix{subnet}); !errors.Is(err, ErrNoConntrack) {
		t.Errorf("tracked: %v, %v", tracked, err)
	}
	if err := k.Flush([]policy.Conntrack{{Subnet: subnet}}); !errors.Is(err, ErrNoConntrack) {
		t.Errorf("flush: %v", err)
	}
	if _, _, err := k.Observe(nil); err != nil {
		t.Errorf("it keeps the rest from being seen: %v", err)
	}
}

// TestAbsentFamily: what a kernel answers for a family that it does not have, as one without IPv6 does for that.
func TestAbsentFamily(t *testing.T) {
	d, err := openDirect(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	const absent = unix.AF_DECnet
	if routes, err := d.routes(absent, 0, 0); err != nil || len(routes) > 0 {
		t.Errorf("routes: %v, %v", routes, err)
	}
	if rules, err := d.rules(absent); err != nil || len(rules) > 0 {
		t.Errorf("rules: %v, %v", rules, err)
	}
}
