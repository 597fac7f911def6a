package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// crowd is a world of n automatic lanes.
func crowd(n int) *world {
	w := newWorld()
	for i := range n {
		w.lanes = append(w.lanes, laneN(i))
	}
	return w
}

// path returns the rules that a packet meets on its way to its table, as long as none decides.
func path(rules []HostRule, from, to netip.Addr, mark uint32) (met int, last Rule) {
	at := uint32(0)
	for _, r := range rules {
		if r.Family != IPv4 || r.Priority < at {
			continue
		}
		met++
		if r.From.IsValid() && !r.From.Contains(from) || r.To.IsValid() && !r.To.Contains(to) || r.Mask != 0 && r.Mark != mark&r.Mask || r.Table == 255 {
			continue
		}
		if r.Action == Goto {
			at = r.Goto
			continue
		}
		return met, r.Rule
	}
	return met, Rule{}
}

// However many lanes there are, a packet of each finds its table after a few rules, and without
// the mark of our firewall it is unreachable.
func TestRulesTree(t *testing.T) {
	for _, c := range []struct{ lanes, most, front int }{{1, 10, 6}, {10, 20, 6}, {11, 25, 6}, {250, 30, 6}, {1000, 40, 12}} {
		t.Run(fmt.Sprint(c.lanes), func(t *testing.T) {
			w := crowd(c.lanes)
			d := w.settle()
			front := 0
			for _, r := range w.host.Rules {
				if r.Family == IPv4 && r.Priority < 32766 {
					front++
				}
			}
			if front > c.front {
				t.Errorf("packets of others meet %d rules", front)
			}
			worst := 0
			for _, st := range d.Lanes {
				from := st.Alloc.Subnet.Addr().Next().Next()
				met, r := path(w.host.Rules, from, netip.MustParseAddr("198.51.100.1"), Witness)
				worst = max(worst, met)
				if r.Table != st.Alloc.Table || r.Action != Lookup {
					t.Fatalf("%s comes to %v", st.Lane.Name, r)
				}
				if _, r := path(w.host.Rules, from, netip.MustParseAddr("198.51.100.1"), 0); r.Action != UnreachableRule {
					t.Fatalf("%s comes to %v without a mark", st.Lane.Name, r)
				}
			}
			if worst > c.most {
				t.Errorf("a packet meets %d rules, want at most %d", worst, c.most)
			}
		})
	}
}

// One lane more or less among a thousand is a few rules more or less.
func TestRulesOfOne(t *testing.T) {
	rules := func(ops []Op) (n int) {
		for _, op := range ops {
			if _, ok := op.Object.(Rule); ok {
				n++
			}
		}
		return n
	}
	w := crowd(1000)
	w.settle()
	w.lanes = append(w.lanes, laneN(1000))
	d := w.decide()
	if n := rules(d.Ops); n == 0 || n > 3 {
		t.Errorf("one more: %d rules change", n)
	}
	w.adopt(d.Want.All())
	w.lanes = slices.Delete(w.lanes, 500, 501)
	if n := rules(w.decide().Ops); n == 0 || n > 3 {
		t.Errorf("one less: %d rules change", n)
	}
}

// What the host sends from a lane's gateway address finds the lane, also where the rule "to" at 0 was deleted and
// put back, and so stands behind the one "from".
func TestRuleToPutBack(t *testing.T) {
	for _, n := range []int{1, 11} {
		w := crowd(n)
		w.lanes = append(w.lanes, lane("alone", "wlp6s0"))
		w.lanes[n].Subnet = pfx("10.99.0.0/24")
		d := w.settle()
		var back []HostRule
		w.host.Rules = slices.DeleteFunc(w.host.Rules, func(r HostRule) bool {
			to := r.Priority == frontPriority && r.Table == LanesTable
			if to {
				back = append(back, r)
			}
			return to
		})
		if len(back) != 2 {
			t.Fatalf("%d rules to lanes, want the block's and the other's", len(back))
		}
		for _, r := range back {
			w.host.Rules = insertRule(w.host.Rules, r)
		}
		for _, st := range d.Lanes {
			gateway := st.Alloc.Subnet.Addr().Next()
			if _, r := path(w.host.Rules, gateway, gateway.Next(), 0); r.Action != Lookup || r.Table != LanesTable {
				t.Errorf("%d lanes: from %s to its lane comes to %v", n, gateway, r)
			}
		}
	}
}

// A rule of another program that stands in front is told, one behind is not; nor are the kernel's own.
func TestRuleAhead(t *testing.T) {
	for name, c := range map[string]struct {
		before bool
		rule   Rule
		ahead  bool
	}{
		"wg-quick, first":     {true, Rule{Family: IPv4, Table: 51820, Mark: 0xca6c, Mask: 0xffffffff}, true},
		"wg-quick, after":     {false, Rule{Family: IPv4, Table: 51820, Mark: 0xca6c, Mask: 0xffffffff}, false},
		"from another subnet": {true, Rule{Family: IPv4, From: pfx("172.30.0.0/16"), Table: 7}, false},
		"by a mark":           {true, Rule{Family: IPv4, Mark: 5, Mask: 0xff, Table: 7}, false},
		"IPv6":                {true, Rule{Family: IPv6, Table: 7}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(lane("steam", "wlp6s0"))
			r := HostRule{Rule: c.rule, Protocol: ProtoStatic, Invert: c.rule.Mark == 0xca6c}
			if c.before {
				w.host.Rules = insertRule(w.host.Rules, r)
			}
			w.settle()
			if !c.before {
				w.host.Rules = insertRule(w.host.Rules, r)
			}
			st := w.status(t)
			told := slices.ContainsFunc(st.Conditions, func(c Condition) bool { return c.Reason == "RuleAhead" })
			if told != c.ahead {
				t.Errorf("%v", st.Conditions)
			}
		})
	}
}
