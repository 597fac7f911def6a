package firewall

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// FuzzRule: whatever the kernel may answer, only our own rules are ours.
func FuzzRule(f *testing.F) {
	seed := func(list []expr.Any, comment string) {
		p, err := expressionList(unix.NFPROTO_INET, list)
		if err != nil {
			f.Fatal(err)
		}
		userData := appendUserData(nil, commentTag, append([]byte(comment), 0))
		f.Add([]byte(payload{}.text(unix.NFTA_RULE_CHAIN, "FORWARD").bytes(unix.NFTA_RULE_HANDLE, make([]byte, 8)).
			nest(unix.NFTA_RULE_EXPRESSIONS, p).bytes(unix.NFTA_RULE_USERDATA, userData)))
	}
	for _, c := range policy.Chains {
		for _, r := range c.Rules {
			seed(expressions(r), "")
		}
	}
	seed(slices.Insert(doorExpressions(), 3, expr.Any(&expr.Counter{})), policy.DoorComment)
	seed([]expr.Any{&expr.Reject{}}, "x")
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := parseAttributes(data)
		if err != nil {
			return
		}
		r, err := parseChainRule(a)
		if err != nil {
			return
		}
		if r.isDoor() && r.stops() {
			t.Error("both a door and a drop")
		}
		for _, c := range policy.Chains {
			for _, want := range c.Rules {
				if r.is(expressions(want)) && len(r.expressions) != len(expressions(want)) {
					t.Errorf("taken for %q", want)
				}
			}
		}
	})
}

// FuzzElements: what is read from a set is what would be written to it.
func FuzzElements(f *testing.F) {
	lists := map[policy.SetName]payload{}
	for o := range everyElement() {
		e, ok := o.(policy.Element)
		if !ok {
			continue
		}
		all, err := entries(e)
		if err != nil {
			f.Fatal(err)
		}
		for _, one := range all {
			lists[e.Set] = lists[e.Set].nest(unix.NFTA_LIST_ELEM, one.payload(true))
		}
	}
	for i, name := range policy.SetOrder {
		f.Add(uint8(i), []byte(lists[name]))
	}
	f.Fuzz(func(t *testing.T, set uint8, data []byte) {
		name := policy.SetOrder[int(set)%len(policy.SetOrder)]
		items, err := parseList(data)
		if err != nil {
			return
		}
		var list []entry
		for _, item := range items {
			if e, ok := parseEntry(item); ok {
				list = append(list, e)
			}
		}
		found, _ := elements(name, list)
		for _, e := range found {
			all, err := entries(e)
			if err != nil {
				t.Fatalf("%+v: %v", e, err)
			}
			if again, pure := elements(name, all); !pure || !slices.Equal(again, []policy.Element{e}) {
				t.Errorf("%+v comes back as %+v", e, again)
			}
		}
	})
}

// FuzzParseSave: whatever is in there, only chains of ours come out, rules stay what they are, and their deletion is
// well-formed.
func FuzzParseSave(f *testing.F) {
	f.Add(saved)
	f.Add("*nat\n:UPLANE-X\n-A\n-A UPLANE-X\n-A X -j UPLANE-X\n-A UPLANE-X -g UPLANE-X\nCOMMIT")
	for o := range chains() {
		if r, ok := o.(policy.ChainRule); ok {
			f.Add("*filter\n:UPLANE-X - [0:0]\n-A UPLANE-X " + r.XTRule.String() + "\nCOMMIT\n")
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		found, err := parseSave(text)
		if err != nil {
			return
		}
		for i, c := range found {
			if !strings.HasPrefix(c.Name, policy.ChainPrefix) {
				t.Errorf("%q is not ours", c.Name)
			}
			for _, r := range c.rules {
				if r != (policy.XTRule{}) && !strings.Contains(text, r.String()) {
					t.Errorf("%q is not in there", r)
				}
			}
			for line := range strings.Lines(restoreInput([]change{{from: &found[i]}})) {
				if strings.HasPrefix(line, "-D "+policy.ChainPrefix) || strings.HasPrefix(line, "-A") {
					t.Errorf("deletes by %q", line)
				}
			}
		}
	})
}

// FuzzParseForward: a door is never taken for a drop, and stands before the first.
func FuzzParseForward(f *testing.F) {
	f.Add("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i a -j ACCEPT\n-A FORWARD " + doorText() + "\n-A FORWARD -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n")
	f.Add(":FORWARD ACCEPT [0:0]\n-A FORWARD -m comment --comment \"a -j DROP\" -j DROP\n-A FORWARD -m comment --comment x -j ufw-reject-forward\n")
	f.Fuzz(func(t *testing.T, text string) {
		d := parseForward(text)
		if d.stop > d.rules || slices.Contains(d.doors, d.stop) && d.stop < d.rules {
			t.Errorf("%+v", d)
		}
		// What restore writes, done by hand, is sound.
		var after doorway
		for i := range d.rules - len(d.doors) + 1 {
			place := d.stop - doorsBefore(d)
			after.add(i == place, i == place+1 && d.stop < d.rules)
		}
		if !after.sound() {
			t.Errorf("%+v becomes %+v", d, after)
		}
	})
}

func doorsBefore(d doorway) int {
	n := 0
	for _, door := range d.doors {
		if door < d.stop {
			n++
		}
	}
	return n
}
