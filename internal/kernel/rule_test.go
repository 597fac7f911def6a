package kernel

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"uplane/policy"
	"uplane/test/lab"
)

// TestRulesOfAllKinds reads what other programs make, in the kernel's order.
func TestRulesOfAllKinds(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks+`
ip rule add priority 10 from 10.1.0.0/16 to 10.2.0.0/16 iif wlp6s0 lookup 1000
ip rule add priority 11 not fwmark 0xca6c lookup 51820 protocol 3
ip rule add priority 12 fwmark 0x80000/0xff0000 lookup main suppress_prefixlength 0
ip rule add priority 13 oif enp7s0 unreachable
ip rule add priority 14 goto 32766
ip rule add priority 15 blackhole
ip rule add priority 16 prohibit
ip rule add priority 17 nop
ip rule add priority 18 uidrange 1000-1000 lookup 1001
ip rule add priority 19 ipproto tcp dport 22 lookup 1001
ip rule add priority 20 l3mdev
ip rule add priority 21 tos 0x10 lookup 1001
ip rule add priority 22 lookup main suppress_prefixlength 8
ip -6 rule add priority 10 from 2001:db8::/32 lookup 1000
ip -6 rule add priority 10 to 2001:db8::/32 lookup 1000
`)
	p := netip.MustParsePrefix
	foreign := func(f policy.Family, prio uint32, set func(r *policy.HostRule)) policy.HostRule {
		r := policy.HostRule{Rule: policy.Rule{Family: f, Priority: prio}} // ip names no protocol
		set(&r)
		return r
	}
	kernels := func(f policy.Family, prio, table uint32) policy.HostRule {
		return policy.HostRule{Rule: policy.Rule{Family: f, Priority: prio, Table: table}, Protocol: unix.RTPROT_KERNEL}
	}
	want := []policy.HostRule{
		kernels(policy.IPv4, 0, unix.RT_TABLE_LOCAL),
		foreign(policy.IPv4, 10, func(r *policy.HostRule) {
			r.From, r.To, r.In, r.Table = p("10.1.0.0/16"), p("10.2.0.0/16"), "wlp6s0", 1000
		}),
		foreign(policy.IPv4, 11, func(r *policy.HostRule) {
			r.Invert, r.Mark, r.Mask, r.Table, r.Protocol = true, 0xca6c, 0xffffffff, 51820, 3
		}),
		foreign(policy.IPv4, 12, func(r *policy.HostRule) {
			r.Mark, r.Mask, r.Table, r.AtLeast = 0x80000, 0xff0000, policy.MainTable, 1
		}),
		foreign(policy.IPv4, 13, func(r *policy.HostRule) { r.Out, r.Action = "enp7s0", policy.UnreachableRule }),
		foreign(policy.IPv4, 14, func(r *policy.HostRule) { r.Action, r.Goto = policy.Goto, 32766 }),
		foreign(policy.IPv4, 15, func(r *policy.HostRule) { r.Action = "blackhole" }),
		foreign(policy.IPv4, 16, func(r *policy.HostRule) { r.Action = "prohibit" }),
		foreign(policy.IPv4, 17, func(r *policy.HostRule) { r.Action = "nop" }),
		foreign(policy.IPv4, 18, func(r *policy.HostRule) { r.Partial, r.Table = true, 1001 }),
		foreign(policy.IPv4, 19, func(r *policy.HostRule) { r.Partial, r.Table = true, 1001 }),
		foreign(policy.IPv4, 20, func(r *policy.HostRule) { r.Action = "l3mdev" }),
		foreign(policy.IPv4, 21, func(r *policy.HostRule) { r.Partial, r.Table = true, 1001 }),
		foreign(policy.IPv4, 22, func(r *policy.HostRule) { r.Table, r.AtLeast = policy.MainTable, 9 }),
		kernels(policy.IPv4, 32766, policy.MainTable),
		kernels(policy.IPv4, 32767, unix.RT_TABLE_DEFAULT),
		kernels(policy.IPv6, 0, unix.RT_TABLE_LOCAL),
		foreign(policy.IPv6, 10, func(r *policy.HostRule) { r.From, r.Table = p("2001:db8::/32"), 1000 }),
		foreign(policy.IPv6, 10, func(r *policy.HostRule) { r.To, r.Table = p("2001:db8::/32"), 1000 }),
		kernels(policy.IPv6, 32766, policy.MainTable),
	}
	k := open(t, nil)
	state, host, err := observeAll(k, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range host.Rules {
		if i >= len(want) || r != want[i] {
			t.Errorf("rule %d is %v; its own protocol %d, invert %v, in %q, out %q, partial %v, action %q", i, r, r.Protocol, r.Invert, r.In, r.Out, r.Partial, r.Action)
		}
	}
	if len(host.Rules) != len(want) {
		t.Errorf("there are %d rules, not %d", len(host.Rules), len(want))
	}
	if len(state) != 0 {
		t.Errorf("others' rules are taken for ours:\n%s", state)
	}
}

// TestRulesTwice adds and deletes rules that are there and gone already, beside others that look the same.
func TestRulesTwice(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	k := open(t, nil)
	subnet, other := netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("fd00::/64")
	rules := []policy.Rule{
		{Family: policy.IPv4, To: subnet, Table: 100},
		{Family: policy.IPv4, From: subnet, Mark: policy.Witness, Mask: policy.Witness, Table: 100},
		{Family: policy.IPv4, From: subnet, Action: policy.UnreachableRule},
		{Family: policy.IPv4, From: subnet, Action: policy.Goto, Goto: 100},
		{Family: policy.IPv4, From: subnet, Action: policy.Goto, Goto: 200}, // the kernel takes it for the one before
		{Family: policy.IPv4, Priority: 7, From: subnet, Table: policy.MainTable, AtLeast: 1},
		{Family: policy.IPv4, Mark: 0, Mask: 0xff, Table: 1 << 20},
		{Family: policy.IPv6, From: other, Table: 100},
		{Family: policy.IPv6, From: other, Action: policy.UnreachableRule},
	}
	const look = "ip rule; ip -6 rule"
	sh(t, "ip rule add priority 0 from 10.0.1.0/24 unreachable; ip rule add priority 0 to 10.0.1.0/24 lookup 100")
	before := sh(t, look)
	for range 2 {
		for _, r := range rules {
			if err := k.Apply(policy.Op{Verb: policy.Add, Object: r}); err != nil {
				t.Fatal(err)
			}
		}
	}
	state, host, err := observeAll(k, nil)
	if err != nil {
		t.Fatal(err)
	}
	var ours []policy.Rule
	for _, r := range host.Rules {
		if r.Ours() {
			ours = append(ours, r.Rule)
		}
	}
	for _, r := range rules {
		if !state.Has(r) || !slices.Contains(ours, r) {
			t.Errorf("%v is not there", r)
		}
	}
	if len(ours) != len(rules) || len(state) != len(rules) {
		t.Errorf("there are %d rules of ours in the host and %d in the state, not %d:\n%s", len(ours), len(state), len(rules), sh(t, look))
	}
	for range 2 {
		for _, r := range rules {
			if err := k.Apply(policy.Op{Verb: policy.Remove, Object: r}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if after := sh(t, look); after != before {
		t.Errorf("others' rules changed:\n%s", lineDiff(before, after))
	}
}

// TestNoIPv6Rules asks for a family that the kernel has not.
func TestNoIPv6Rules(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	k := open(t, nil)
	for _, af := range []uint8{unix.AF_INET6, unix.AF_DECnet} {
		rules, err := k.direct.rules(af)
		if wantNone := af != unix.AF_INET6; err != nil || (len(rules) == 0) != wantNone {
			t.Errorf("family %d has %d rules, %v", af, len(rules), err)
		}
	}
}

func FuzzParseRule(f *testing.F) {
	for _, r := range []policy.Rule{
		{Family: policy.IPv4, Priority: 7, From: netip.MustParsePrefix("10.0.0.0/8"), Mark: 1, Mask: 3, Table: 100, AtLeast: 1},
		{Family: policy.IPv6, To: netip.MustParsePrefix("fd00::/8"), Action: policy.Goto, Goto: 7},
	} {
		body := ruleBody(familyNumber(r.Family), r)
		if got, ok := parseRule(body); !ok || got.Rule != r || !got.Ours() {
			f.Errorf("%+v comes back as %+v", r, got)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok := parseRule(b)
		if !ok {
			return
		}
		for _, p := range []netip.Prefix{r.From, r.To} {
			if p != (netip.Prefix{}) && (!p.IsValid() || policy.FamilyOf(p.Addr()) != r.Family) {
				t.Errorf("%+v", r)
			}
		}
		if r.AtLeast != 0 && r.Action != policy.Lookup || strings.ContainsRune(r.In+r.Out, 0) {
			t.Errorf("%+v", r)
		}
	})
}
