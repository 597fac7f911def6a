package policy

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestOpString(t *testing.T) {
	chain := Chain{"nat", "UPLANE-POSTROUTING", "POSTROUTING", true}
	unjumped := chain
	unjumped.Jumped = false
	masquerade := ChainRule{"nat", "UPLANE-POSTROUTING", 2, XTRule{Source: pfx("10.0.1.0/24"), Out: "w", Target: TargetMasquerade}}
	veth := Veth{"ulv-a", "a", "a", InnerLink, "ul-a", 1500, true, true}
	bridge := Bridge{Name: "ul-a", Lane: "a", MTU: 1400, Up: true}
	marks := Element{Set: Marks, In: "ul-a", Mark: Witness | 100}
	const switches = " net/ipv6/conf/default/disable_ipv6=1 net/ipv6/conf/default/accept_ra=0 net/ipv6/conf/default/autoconf=0 net/ipv4/tcp_mtu_probing=1" +
		` net/ipv4/ping_group_range="$(sysctl -n net/ipv4/ping_group_range)" net/ipv4/ip_unprivileged_port_start="$(sysctl -n net/ipv4/ip_unprivileged_port_start)"`
	for _, c := range []struct {
		op   Op
		want string
	}{
		{Op{Verb: Add, Object: Netns{"a", true}}, "ip netns add a; ip netns exec a sysctl -eqw" + switches + "; ip -n a link set lo alias uplane:a up"},
		{Op{Verb: Replace, Object: Netns{"a", true}, Have: Netns{"a", false}}, "ip -n a link set lo up"},
		{Op{Verb: Replace, Object: bridge, Have: Bridge{Name: "ul-a", MTU: 1500}}, "ip link set dev ul-a alias uplane:a mtu 1400 up"},
		{Op{Verb: Replace, Object: bridge, Have: Bridge{Name: "ul-a", Master: "bond0"}}, "ip link set dev ul-a alias uplane:a mtu 1400 nomaster up"},
		{Op{Verb: Release, Object: bridge}, "ip link set dev ul-a alias uplane-made:a group default"},
		{Op{Verb: Replace, Object: veth, Have: veth}, "ip link set dev ulv-a alias uplane:a mtu 1500 up; ip -n a link set dev eth0 mtu 1500 up"},
		{Op{Verb: Remove, Object: chain}, "iptables -t nat -D POSTROUTING -j UPLANE-POSTROUTING; iptables -t nat -F UPLANE-POSTROUTING; iptables -t nat -X UPLANE-POSTROUTING"},
		{Op{Verb: Remove, Object: unjumped}, "while iptables -t nat -D POSTROUTING -j UPLANE-POSTROUTING 2>/dev/null; do :; done; iptables -t nat -F UPLANE-POSTROUTING; iptables -t nat -X UPLANE-POSTROUTING"},
		{Op{Verb: Replace, Object: chain, Have: unjumped}, "while iptables -t nat -D POSTROUTING -j UPLANE-POSTROUTING 2>/dev/null; do :; done; iptables -t nat -I POSTROUTING 1 -j UPLANE-POSTROUTING"},
		{Op{Verb: Add, Object: masquerade}, "iptables -t nat -A UPLANE-POSTROUTING -s 10.0.1.0/24 -o w -j MASQUERADE"},
		{Op{Verb: Replace, Object: masquerade, Have: masquerade}, "iptables -t nat -R UPLANE-POSTROUTING 2 -s 10.0.1.0/24 -o w -j MASQUERADE"},
		{Op{Verb: Remove, Object: masquerade}, "iptables -t nat -D UPLANE-POSTROUTING 2"},
		{Op{Verb: Remove, Object: Table{true}}, "nft delete table inet uplane"},
		{Op{Verb: Add, Object: marks}, `nft 'add element inet uplane marks { "ul-a" : 0x10000064 }'`},
		{Op{Verb: Replace, Object: marks, Have: Element{Set: Marks, In: "ul-a", Mark: Witness}}, `nft 'delete element inet uplane marks { "ul-a" }'; nft 'add element inet uplane marks { "ul-a" : 0x10000064 }'`},
		{Op{Verb: Add, Object: Element{Set: Forward, Family: IPv4, In: "ul-a", Out: "w", Chain: OutboundChain}}, `nft 'add element inet uplane forward { ipv4 . "ul-a" . "w" : goto outbound }'`},
		{Op{Verb: Remove, Object: Element{Set: Nets, Net: pfx("10.0.1.0/24")}}, `nft 'delete element inet uplane nets { 10.0.1.0/24 }'`},
		{Op{Verb: Add, Object: Door{IPTables, true}}, "iptables -A FORWARD -m mark --mark 0x10000000/0x10000000 -m comment --comment 'uplane: lanes' -j ACCEPT"},
		{Op{Verb: Flush, Object: Conntrack{Subnet: pfx("10.0.1.0/24")}}, "conntrack -D -s 10.0.1.0/24 -q 10.0.1.0/24 2>/dev/null || :"},
		{Op{Verb: Flush, Object: Conntrack{Subnet: pfx("10.0.1.0/24"), All: true}}, "conntrack -D -s 10.0.1.0/24 2>/dev/null || :"},
		{Op{Verb: Destroy, Object: Sockets{"a"}}, "ip netns exec a ss -Kntu state connected >/dev/null"},
		{Op{Verb: Remove, Object: Conntrack{Subnet: pfx("10.0.1.0/24")}}, ""},
		{Op{Verb: Remove, Object: Sockets{"a"}}, ""},
		{Op{Verb: Remove, Object: Sysctl{"net/ipv4/conf/w/forwarding", "1"}}, ""},
		{Op{Verb: Add, Object: Rule{Family: IPv4, From: pfx("10.0.0.0/16"), Action: Goto, Goto: 40000}}, "ip rule add priority 0 from 10.0.0.0/16 goto 40000 protocol 117"},
		{Op{Verb: Add, Object: Rule{Family: IPv6, To: pfx("fd00::/64"), Mark: 1, Mask: 3, Table: 100}}, "ip -6 rule add priority 0 to fd00::/64 fwmark 0x1/0x3 lookup 100 protocol 117"},
		{Op{Verb: Add, Object: Rule{Family: IPv4, Table: MainTable, AtLeast: 1}}, "ip rule add priority 0 lookup 254 suppress_prefixlength 0 protocol 117"},
	} {
		if got := c.op.String(); got != c.want {
			t.Errorf("%s\n%s", got, c.want)
		}
	}
	var verbs []string
	for v := Add; v <= Destroy; v++ {
		verbs = append(verbs, v.String())
	}
	if !slices.Equal(verbs, []string{"add", "replace", "remove", "flush", "release", "destroy"}) {
		t.Error(verbs)
	}
	if s := newState(Netns{"a", true}).String(); s != "ip netns add a\nip netns exec a sysctl -eqw"+switches+"\nip -n a link set lo alias uplane:a up\n" {
		t.Error(s)
	}
}

// A veth whose inner end is nowhere says nothing about the host's eth0.
func TestOrphanBesideEth0(t *testing.T) {
	w := newWorld(lane("steam", "eth0"))
	w.uplinks[0].Interface = "eth0"
	w.host = hostOf(w.uplinks...)
	have, _ := w.build()
	veth := Veth{"ulv-steam", "steam", "steam", InnerLink, "ul-steam", 1500, true, true}
	if !have.Has(veth) {
		t.Fatal(have)
	}
	want, _ := w.build()
	delete(have, veth)
	veth.Netns = ""
	have.Add("steam", veth)
	for _, op := range Diff(have, want) {
		if r, ok := op.Object.(Route); ok && r.Dev == "eth0" && r.Netns == "" {
			t.Errorf("%s: it is there", op)
		}
	}
}

// A switch that nobody wants any more and whose old value is not known stays.
func TestSysctlStays(t *testing.T) {
	if ops := Diff(newState(Sysctl{"net/ipv4/conf/w/forwarding", "1"}), newState()); len(ops) > 0 {
		t.Error(shell(ops))
	}
}

// Connections are forgotten right after what translates changed, so that no failure can come
// between; and only those of subnets in use whose translation changed.
func TestFlush(t *testing.T) {
	flushes := func(have, want State) (out []string) {
		ops := Diff(have, want)
		for i, op := range ops {
			if op.Verb != Flush {
				continue
			}
			out = append(out, op.Object.(Conntrack).Subnet.String())
			if before := ops[i-1]; before.Verb != Flush && part(before.Object) != TamperedFirewall {
				t.Errorf("after %s", before)
			}
		}
		return out
	}
	for _, backend := range []Backend{Nftables, IPTablesChains} {
		two := func() *world {
			w := newWorld(lane("steam", "type:wifi"), lane("work", "enp7s0"))
			w.firewall = backend
			return w
		}
		w := two()
		up, _ := w.build()
		w.uplinks[0].Phase = PhaseDown
		waiting, _ := w.build()
		w = two()
		w.lanes[0].Uplink = w.lanes[1].Uplink
		switched, _ := w.build()
		w = two()
		w.lanes = w.lanes[1:]
		w.remember("work", Allocation{pfx("10.0.2.0/24"), 101, "ul-work", "ulv-work"})
		one, _ := w.build()
		flushed := newState()
		for o := range up {
			if part(o) != TamperedFirewall {
				flushed.Add("", o)
			}
		}
		for name, c := range map[string]struct {
			have, want State
			flushed    []string
		}{
			"up":         {nil, up, nil},
			"one more":   {one, up, nil},
			"one less":   {up, one, nil},
			"lost":       {up, waiting, nil},
			"back":       {waiting, up, []string{"10.0.1.0/24"}},
			"switched":   {up, switched, []string{"10.0.1.0/24"}},
			"flushed":    {flushed, up, []string{"10.0.1.0/24", "10.0.2.0/24"}},
			"nothing":    {up, up, nil},
			"taken down": {up, nil, nil},
		} {
			if got := flushes(c.have, c.want); !slices.Equal(got, c.flushed) {
				t.Errorf("%s, %s: %v, want %v", backend, name, got, c.flushed)
			}
		}
	}
}

// Plans come out the same every time, each line one that a shell takes.
func TestPlanLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWalker(t)
		if chance(t, "with iptables", 50) {
			w.firewall = IPTablesChains
		}
		w.next()
		have := w.plan().Want.All()
		w.next()
		want := w.plan().Want.All()
		ops := Diff(have, want)
		if again := Diff(have, want); shell(again) != shell(ops) {
			t.Fatalf("%s\nor\n%s", shell(ops), shell(again))
		}
		for _, op := range ops {
			for _, line := range op.Shell() {
				_, table := op.Object.(Table)
				if line == "" || !table && strings.ContainsAny(line, "\n\r\x00") || strings.Count(line, "'")%2 != 0 || strings.Contains(line, "invalid") && !table && !strings.Contains(line, "INVALID") {
					t.Fatalf("%q", line)
				}
			}
		}
	})
}
