package kernel

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uplane/policy"
	"uplane/test/lab"
)

// hostRoutes returns the host's routes to dst of a look.
func hostRoutes(t *testing.T, k *Kernel, dst string) []policy.HostRoute {
	t.Helper()
	_, host, err := observeAll(k, nil)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(host.Routes, func(r policy.HostRoute) bool { return r.Dst.String() != dst })
}

// TestHostRoutes reads others' routes: several next hops, gateways of the other family, none that lead nowhere.
func TestHostRoutes(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks+`
ip route add 198.51.100.0/24 proto static nexthop via 192.168.10.1 dev enp7s0 weight 1 nexthop via 192.168.50.1 dev wlp6s0 weight 5
ip -6 route add 2001:db8:1::/48 proto static nexthop via fe80::1 dev enp7s0 weight 1 nexthop via fe80::2 dev wlp6s0 weight 5
ip route add 198.51.101.0/24 via inet6 fe80::7 dev enp7s0
ip -6 route add default via fe80::9 dev enp7s0 proto ra metric 100
`)
	for _, k := range []*Kernel{open(t, nil), open(t, func() {})} {
		for dst, want := range map[string]policy.HostRoute{
			"198.51.100.0/24": {Via: netip.MustParseAddr("192.168.50.1"), Dev: "wlp6s0", Protocol: policy.ProtoStatic},
			"2001:db8:1::/48": {Via: netip.MustParseAddr("fe80::2"), Dev: "wlp6s0", Metric: 1024, Protocol: policy.ProtoStatic},
			"198.51.101.0/24": {Via: netip.MustParseAddr("fe80::7"), Dev: "enp7s0", Protocol: unix.RTPROT_BOOT},
			"::/0":            {Via: netip.MustParseAddr("fe80::9"), Dev: "enp7s0", Metric: 100, Protocol: policy.ProtoRA},
		} {
			want.Dst, want.Table = netip.MustParsePrefix(dst), policy.MainTable
			if got := hostRoutes(t, k, dst); len(got) != 1 || got[0] != want {
				t.Errorf("%+v\nnot %+v", got, want)
			}
		}
		_, host, err := observeAll(k, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range host.Routes {
			if r.Dst.Addr().IsMulticast() || r.Dst.Addr().IsLinkLocalUnicast() || r.Table == unix.RT_TABLE_LOCAL {
				t.Errorf("%+v", r)
			}
		}
		if got := host.Links["wlp6s0"].Addrs; !slices.Equal(got, []netip.Prefix{netip.MustParsePrefix("192.168.50.4/24"), netip.MustParsePrefix("2001:db8:50::4/64")}) {
			t.Errorf("wlp6s0 has %v", got)
		}
		// The best hop's card goes down: the kernel sends no event for the route, only for the card.
		best := func(dev string) {
			t.Helper()
			for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
				if got := hostRoutes(t, k, "198.51.100.0/24"); len(got) == 1 && got[0].Dev == dev {
					return
				} else if time.Now().After(deadline) {
					t.Fatalf("%+v", got)
				}
			}
		}
		sh(t, "ip link set w0 down")
		best("enp7s0")
		sh(t, "ip link set w0 up")
		best("wlp6s0")
	}
}

// TestReplaceRoute has every kind of route take the place of every other, in both families.
func TestReplaceRoute(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks)
	for _, k := range []*Kernel{open(t, nil), open(t, func() {})} {
		for _, f := range []struct{ dst, via, via2 string }{
			{"0.0.0.0/0", "192.168.50.1", "192.168.50.2"}, {"198.51.100.0/24", "192.168.50.1", "192.168.50.2"},
			{"::/0", "fe80::1", "2001:db8:50::1"}, {"2001:db8:9::/64", "fe80::1", "fe80::2"},
		} {
			base := policy.Route{Table: 100, Dst: netip.MustParsePrefix(f.dst)}
			for _, metric := range []uint32{0, 77, policy.FloorMetric} {
				base.Metric = metric
				var kinds []policy.Route
				for _, kind := range []policy.RouteType{policy.Unreachable, policy.Blackhole, policy.Throw} {
					r := base
					r.Type = kind
					kinds = append(kinds, r)
				}
				for _, dev := range []string{"wlp6s0", "enp7s0"} {
					r := base
					r.Dev = dev
					kinds = append(kinds, r)
				}
				for _, via := range []string{f.via, f.via2} {
					r := base
					r.Dev, r.Via = "wlp6s0", netip.MustParseAddr(via)
					kinds = append(kinds, r)
				}
				for _, from := range kinds {
					for _, to := range kinds {
						if err := k.Apply(policy.Op{Verb: policy.Add, Object: from}); err != nil {
							t.Fatal(err)
						}
						if err := k.Apply(policy.Op{Verb: policy.Replace, Object: to, Have: from}); err != nil {
							t.Fatalf("from %v: %v", from, err)
						}
						state, _, err := observeAll(k, nil)
						if err != nil || len(state) != 1 || !state.Has(to) {
							t.Fatalf("%v replaced by %v: %v\n%s", from, to, err, state)
						}
						for range 2 {
							if err := k.Apply(policy.Op{Verb: policy.Remove, Object: to}); err != nil {
								t.Fatal(err)
							}
						}
						if state, _, err = observeAll(k, nil); err != nil || len(state) != 0 {
							t.Fatalf("%v is left: %v", state, err)
						}
					}
				}
			}
		}
	}
}

// TestForeignRouteStays has a route of somebody else's where ours would go, made after the last look.
func TestForeignRouteStays(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks)
	for _, k := range []*Kernel{open(t, nil), open(t, func() {})} {
		for _, dst := range []string{"0.0.0.0/0", "::/0"} {
			r := policy.Route{Table: 100, Dst: netip.MustParsePrefix(dst), Metric: 5, Dev: "wlp6s0"}
			observe(t, k, nil)
			script := "ip -4"
			if strings.Contains(dst, ":") {
				script = "ip -6"
			}
			sh(t, script+" route add default dev enp7s0 table 100 metric 5")
			time.Sleep(20 * time.Millisecond) // the event
			before := sh(t, script+" route show table 100")
			if err := k.Apply(policy.Op{Verb: policy.Replace, Object: r, Have: r}); !errors.Is(err, errNotOurs) {
				t.Errorf("replace: %v", err)
			}
			if err := k.Apply(policy.Op{Verb: policy.Add, Object: r}); !errors.Is(err, unix.EEXIST) {
				t.Errorf("add: %v", err)
			}
			r.Dev = "enp7s0"
			if err := k.Apply(policy.Op{Verb: policy.Remove, Object: r}); err != nil {
				t.Errorf("remove: %v", err)
			}
			if after := sh(t, script+" route show table 100"); after != before {
				t.Errorf("it changed:\n%s", lineDiff(before, after))
			}
			sh(t, script+" route flush table 100")
		}
	}
}

// TestGlance has the main table's defaults change, of one family and then the other.
func TestGlance(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks)
	changed := make(chan struct{}, 1)
	k := open(t, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	observe(t, k, nil)
	drain(changed)
	observe(t, k, nil)
	if _, ok := k.Glance([]string{"enp7s0"}); ok {
		t.Error("nothing changed, and it is looked at")
	}
	for script, dumps := range map[string]int64{"ip route replace default via 192.168.10.2": 1, "ip -6 route replace default via fe80::5 dev enp7s0": 1} {
		sh(t, script)
		<-changed
		before := Dumps()
		defaults, ok := k.Glance([]string{"enp7s0"})
		via := script[strings.Index(script, "via ")+4:]
		via, _, _ = strings.Cut(via, " ")
		if !ok || !slices.ContainsFunc(defaults, func(r policy.HostRoute) bool { return r.Via.String() == via && r.Dev == "enp7s0" }) {
			t.Errorf("after %q: %v, %v", script, defaults, ok)
		}
		if got := Dumps() - before; got != dumps {
			t.Errorf("after %q it lists %d tables", script, got)
		}
		drain(changed)
		observe(t, k, nil)
	}

	// A link that has changed is no reason to look away, one of that name that was made anew is.
	sh(t, "ip link set dev enp7s0 alias wire; ip route replace default via 192.168.10.3")
	<-changed
	if _, ok := k.Glance([]string{"enp7s0"}); !ok {
		t.Error("a change of the link hides the gateway")
	}
	sh(t, "ip link set dev enp7s0 down; ip link set dev enp7s0 name other; ip link set dev other up")
	if _, ok := k.Glance([]string{"enp7s0"}); ok {
		t.Error("another link of that name is taken for it")
	}
}
