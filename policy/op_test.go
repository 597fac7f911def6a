package policy

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestOpString(t *testing.T) {
	chain := Chain{"nat", PostroutingChain, "POSTROUTING", true, "-s 10.0.1.0/24 -o w -j MASQUERADE"}
	unjumped := chain
	unjumped.Jumped = false
	veth := Veth{"ulv-a", "a", "a", InnerLink, "ul-a", 1500, true, true}
	bridge := Bridge{Name: "ul-a", Lane: "a", MTU: 1400, Up: true}
	for _, c := range []struct {
		op   Op
		want string
	}{
		{Op{Verb: Add, Object: Netns{"a", true}}, "ip netns add a; ip netns exec a sysctl -eqw net/ipv6/conf/default/disable_ipv6=1 net/ipv6/conf/default/accept_ra=0 net/ipv6/conf/default/autoconf=0; ip -n a link set lo alias uplane:a up"},
		{Op{Verb: Replace, Object: Netns{"a", true}, Have: Netns{"a", false}}, "ip -n a link set lo up"},
		{Op{Verb: Replace, Object: bridge, Have: Bridge{Name: "ul-a", MTU: 1500}}, "ip link set dev ul-a alias uplane:a mtu 1400 up"},
		{Op{Verb: Replace, Object: bridge, Have: Bridge{Name: "ul-a", Master: "bond0"}}, "ip link set dev ul-a alias uplane:a mtu 1400 nomaster up"},
		{Op{Verb: Replace, Object: veth, Have: veth}, "ip link set dev ulv-a alias uplane:a mtu 1500 up; ip -n a link set dev eth0 mtu 1500 up"},
		{Op{Verb: Remove, Object: chain}, "iptables -t nat -D POSTROUTING -j UPLANE-POSTROUTING; iptables -t nat -F UPLANE-POSTROUTING; iptables -t nat -X UPLANE-POSTROUTING"},
		{Op{Verb: Remove, Object: unjumped}, "while iptables -t nat -D POSTROUTING -j UPLANE-POSTROUTING 2>/dev/null; do :; done; iptables -t nat -F UPLANE-POSTROUTING; iptables -t nat -X UPLANE-POSTROUTING"},
		{Op{Verb: Replace, Object: chain, Have: unjumped}, "while iptables -t nat -D POSTROUTING -j UPLANE-POSTROUTING 2>/dev/null; do :; done; iptables -t nat -I POSTROUTING 1 -j UPLANE-POSTROUTING"},
		{Op{Verb: Flush, Object: Conntrack{pfx("10.0.1.0/24")}}, "conntrack -D -s 10.0.1.0/24 -q 10.0.1.0/24 2>/dev/null || :"},
		{Op{Verb: Remove, Object: Conntrack{pfx("10.0.1.0/24")}}, ""},
		{Op{Verb: Remove, Object: Sysctl{"net/ipv4/conf/w/forwarding", "1"}}, ""},
	} {
		if got := c.op.String(); got != c.want {
			t.Errorf("%s\n%s", got, c.want)
		}
	}
	var verbs []string
	for v := Add; v <= Flush; v++ {
		verbs = append(verbs, v.String())
	}
	if !slices.Equal(verbs, []string{"add", "replace", "remove", "flush"}) {
		t.Error(verbs)
	}
	if lines := (Chain{}).Lines(); lines != nil {
		t.Error(lines)
	}
	if s := newState(Netns{"a", true}).String(); s != "ip netns add a\nip netns exec a sysctl -eqw net/ipv6/conf/default/disable_ipv6=1 net/ipv6/conf/default/accept_ra=0 net/ipv6/conf/default/autoconf=0\nip -n a link set lo alias uplane:a up\n" {
		t.Error(s)
	}
}

func newState(objects ...Object) State {
	s := make(State)
	s.Add(objects...)
	return s
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
	have.Add(veth)
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

// Connections are forgotten right after the nat chain changed, so that no
// failure can come between; and only those of subnets in use whose translation
// changed.
func TestFlush(t *testing.T) {
	flushes := func(have, want State) (out []string) {
		ops := Diff(have, want)
		for i, op := range ops {
			if op.Verb != Flush {
				continue
			}
			out = append(out, op.Object.(Conntrack).Subnet.String())
			if c, ok := ops[i-1].Object.(Chain); ops[i-1].Verb != Flush && (!ok || c.Table != "nat") {
				t.Errorf("after %s", ops[i-1])
			}
		}
		return out
	}
	two := func() *world { return newWorld(lane("steam", "type:wifi"), lane("work", "enp7s0")) }
	w := two()
	up, _ := w.build()
	w.uplinks[0].Phase = PhaseDown
	waiting, _ := w.build()
	w = two()
	w.lanes[0].Uplink = w.lanes[1].Uplink
	switched, _ := w.build()
	w = newWorld(w.lanes[1])
	w.allocs = map[string]Allocation{"work": {pfx("10.0.2.0/24"), 101, "ul-work", "ulv-work"}}
	one, _ := w.build()
	flushed := newState()
	for o := range up {
		if c, ok := o.(Chain); ok {
			c.Jumped = false
			o = c
		}
		flushed.Add(o)
	}
	for name, c := range map[string]struct {
		have, want State
		flushed    []string
	}{
		"up":           {nil, up, nil},
		"one more":     {one, up, nil},
		"one less":     {up, one, nil},
		"lost":         {up, waiting, nil},
		"back":         {waiting, up, []string{"10.0.1.0/24"}},
		"switched":     {up, switched, []string{"10.0.1.0/24"}},
		"not jumped":   {flushed, up, []string{"10.0.1.0/24", "10.0.2.0/24"}},
		"nothing":      {up, up, nil},
		"taken down":   {up, nil, nil},
		"chain's rest": {newState(Chain{"nat", PostroutingChain, "POSTROUTING", true, "-j RETURN"}), up, nil},
	} {
		if got := flushes(c.have, c.want); !slices.Equal(got, c.flushed) {
			t.Errorf("%s: %v, want %v", name, got, c.flushed)
		}
	}
}

// Plans come out the same every time, each line one that a shell takes.
func TestPlanLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWalker(t)
		have := w.next()
		w.saved = map[string]string{"net/ipv4/conf/wlp6s0/forwarding": "0"}
		want := w.next()
		ops := Diff(have, want)
		if again := Diff(have, want); shell(again) != shell(ops) {
			t.Fatalf("%s\nor\n%s", shell(ops), shell(again))
		}
		for _, op := range ops {
			for _, line := range op.Shell() {
				if line == "" || strings.ContainsAny(line, "\n\r\x00") || strings.Count(line, "'")%2 != 0 || strings.Contains(line, "invalid") {
					t.Fatalf("%q", line)
				}
			}
		}
	})
}
