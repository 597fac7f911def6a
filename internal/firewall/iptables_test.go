package firewall

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"uplane/policy"
	"uplane/test/lab"
)

func TestChainsRoundTrip(t *testing.T) {
	each(t, func(w world) {
		w.must(nil)
		want := chains()
		w.sh(strings.ReplaceAll(want.String(), "iptables ", w.cli+" ")) // by the commands that plan shows
		w.must(want)
		w.reach(nil)
		w.must(nil)
		w.reach(want)
		w.must(want)

		other := state(
			policy.Chain{Table: "filter", Name: "UPLANE-FORWARD", Hook: "FORWARD", Jumped: true},
			policy.ChainRule{Table: "filter", Chain: "UPLANE-FORWARD", N: 1, XTRule: policy.XTRule{In: "ul-steam", Target: policy.TargetDrop}},
			policy.Chain{Table: "nat", Name: "UPLANE-PREROUTING", Hook: "PREROUTING", Jumped: true})
		for _, want := range []policy.State{other, want, without(want, "nat"), without(want, "filter"), want, nil} {
			w.reach(want)
			w.must(want)
		}
	}, "iptables", "iptables-legacy")
}

// TestChainsHeal does to the rules what people and programs do to them.
func TestChainsHeal(t *testing.T) {
	damages := map[string]string{
		"flush filter":         "$ipt -F",
		"flush nat":            "$ipt -t nat -F",
		"flush own chain":      "$ipt -F UPLANE-FORWARD",
		"jump deleted":         "$ipt -D FORWARD -j UPLANE-FORWARD",
		"jump not first":       "$ipt -I FORWARD -s 192.0.2.1 -j ACCEPT",
		"jump doubled":         "$ipt -A FORWARD -j UPLANE-FORWARD; $ipt -I FORWARD -j UPLANE-FORWARD",
		"jump with conditions": "$ipt -A FORWARD -i eth9 -m comment --comment 'a b' -g UPLANE-FORWARD",
		"jump replaced":        "$ipt -R FORWARD 1 -p tcp -j UPLANE-FORWARD",
		"rule deleted":         "$ipt -t nat -D UPLANE-POSTROUTING 1",
		"rule added":           "$ipt -I UPLANE-FORWARD -j ACCEPT",
		"rule of others":       "$ipt -A UPLANE-FORWARD -p tcp -m tcp --dport 22 -m comment --comment 'let me in' -j ACCEPT",
		"chain deleted":        "$ipt -t mangle -D PREROUTING 1; $ipt -t mangle -F UPLANE-PREROUTING; $ipt -t mangle -X UPLANE-PREROUTING",
	}
	each(t, func(w world) {
		want := chains()
		for what, damage := range damages {
			w.reach(want)
			w.must(want)
			w.sh(damage)
			if difference(w.observe(), want) == "" {
				w.Errorf("%s: not seen", what)
			}
			w.reach(want)
			if diff := difference(w.observe(), want); diff != "" {
				w.Errorf("%s: healed to\n%s", what, diff)
			}
		}
		if w.cli == "iptables" {
			w.sh("nft flush ruleset")
			w.reach(want)
			w.must(want)
		}
	}, "iptables", "iptables-legacy")
}

// TestNothingToDo: no change in what is wanted means no write.
func TestNothingToDo(t *testing.T) {
	each(t, func(w world) {
		want := table(1)
		if w.cli != "" {
			want = chains()
		}
		w.reach(want)
		before, _ := generation()
		w.reach(want)
		if after, _ := generation(); after != before {
			w.Errorf("wrote again: generation %d, then %d", before, after)
		}
	}, "iptables", "nftables")
}

// save prints everything with its counters.
const save = `$ipt-save -c | grep -v '^#' | sed '/^:/s/\[.*//'; nft -a list ruleset`

func TestForeignRulesSurvive(t *testing.T) {
	each(t, func(w world) {
		w.sh(docker)
		w.sh(`ip link set lo up; ping -qc3 -i.01 127.0.0.1`) // something to count
		before := w.sh(save)
		if !strings.Contains(before, "[3:252]") && !strings.Contains(before, "[6:504]") {
			w.Fatalf("no counters:\n%s", before)
		}
		foreign := func() string {
			// Legacy iptables zeroes the counters of policies on any write, also on a plain "iptables -A".
			lines := strings.SplitAfter(w.sh(`$ipt-save -c | grep -v '^#' | sed '/^:/s/\[.*//'`), "\n")
			return strings.Join(slices.DeleteFunc(lines, func(l string) bool {
				return strings.HasPrefix(l, ":UPLANE-") || target(strings.TrimSuffix(l, "\n")) != "" || strings.Contains(l, "-A UPLANE-")
			}), "")
		}
		untouched := foreign()
		for _, step := range []func(){
			func() { w.reach(chains()) },
			func() { w.sh("$ipt -A FORWARD -j UPLANE-FORWARD"); w.reach(chains()) },
			func() { w.reach(manyChains(3)) },
		} {
			step()
			if got := foreign(); got != untouched {
				w.Fatalf("foreign rules are\n%s\nwere\n%s", got, untouched)
			}
		}
		w.reach(nil)
		if after := w.sh(save); after != before {
			w.Errorf("after:\n%s\nbefore:\n%s", after, before)
		}
	}, "iptables-nft", "iptables-legacy")
}

// TestDeletesWhatIsReferred: a user's jump to our chain goes with the chain; the kernel keeps a chain that is in use.
func TestDeletesWhatIsReferred(t *testing.T) {
	each(t, func(w world) {
		w.reach(chains())
		w.sh("$ipt -N MINE; $ipt -A MINE -s 192.0.2.1 -j UPLANE-FORWARD; $ipt -A MINE -j DROP")
		w.must(chains()) // and does not disturb
		w.sh("$ipt -N UPLANE-OLD; $ipt -A INPUT -j UPLANE-OLD; $ipt -A UPLANE-OLD -j UPLANE-FORWARD")
		w.reach(chains())
		w.must(chains())
		w.sh("$ipt -N UPLANE-OLD; $ipt -A INPUT -j UPLANE-OLD; $ipt -A UPLANE-OLD -j UPLANE-FORWARD")
		w.reach(nil)
		w.must(nil)
		if got := w.sh("$ipt -S"); !strings.Contains(got, "-A MINE -j DROP") || strings.Contains(got, "UPLANE") {
			w.Errorf("left:\n%s", got)
		}
	}, "iptables", "iptables-legacy")
}

// TestAllOrNothing: a rule that iptables does not take leaves the table as it was.
func TestAllOrNothing(t *testing.T) {
	each(t, func(w world) {
		w.reach(chains())
		bad := policy.ChainRule{Table: "filter", Chain: "UPLANE-FORWARD", N: 1, XTRule: policy.XTRule{In: "ul-steam", Target: "NONSENSE"}}
		want := both(state(policy.Chain{Table: "filter", Name: "UPLANE-FORWARD", Hook: "FORWARD", Jumped: true}, bad))
		err := w.Apply([]policy.Op{{Verb: policy.Add, Object: bad}}, want)
		if err == nil || !strings.Contains(err.Error(), "NONSENSE") {
			w.Errorf("err = %v", err)
		}
		w.must(chains())
		for _, foreign := range []policy.Object{
			policy.Chain{Table: "filter", Name: "FORWARD"},
			policy.Chain{Table: "raw", Name: "UPLANE-X"},
			policy.Element{Set: policy.LaneLinks, In: "x"},
		} {
			if err := w.Apply([]policy.Op{{Verb: policy.Remove, Object: foreign}}, nil); err == nil {
				w.Errorf("removes %v", foreign)
			}
		}
		w.must(chains())
	}, "iptables", "iptables-legacy")
}

// TestTableThatIPTablesCannotRead: the error says what to do, and nothing is written.
func TestTableThatIPTablesCannotRead(t *testing.T) {
	each(t, func(w world) {
		for _, script := range []string{
			"nft add table ip nat; nft add set ip nat s '{ type ipv4_addr; }'; nft add chain ip nat POSTROUTING '{ type nat hook postrouting priority 100; }'; nft add rule ip nat POSTROUTING ip daddr @s masquerade",
			"iptables -P FORWARD DROP; nft add rule ip filter FORWARD meta mark set mark and 0xff00ffff xor 0x40000",
		} {
			w.sh("nft flush ruleset; " + script)
			before := w.sh(ruleset)
			for range 2 { // the second from memory
				if _, err := w.Observe(); err == nil || !strings.Contains(err.Error(), `set firewall = "nftables"`) {
					w.Errorf("err = %v", err)
				}
			}
			if err := w.Apply(policy.Diff(nil, chains()), chains()); err == nil {
				w.Error("writes where it cannot read")
			}
			if after := w.sh(ruleset); after != before {
				w.Errorf("left\n%s\nwas\n%s", after, before)
			}
		}
	}, "iptables")
}

// TestAlternativesSwitched: the variant stays that of the start.
func TestAlternativesSwitched(t *testing.T) {
	w := open(t, "iptables")
	bin := t.TempDir()
	for _, suffix := range []string{"", "-save", "-restore"} {
		name := policy.IPTablesLegacy + suffix
		lab.RequireProgram(t, name)
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(bin, "iptables"+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	w.reach(chains())
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	w.sh("iptables -V | grep legacy")
	w.must(chains())
	w.reach(manyChains(1))
	w.must(manyChains(1))
	w.reach(nil)
	w.must(nil)
}

func TestParseRule(t *testing.T) {
	t.Parallel()
	for o := range chains() {
		if r, ok := o.(policy.ChainRule); ok && parseRule(r.XTRule.String()) != r.XTRule {
			t.Errorf("%s: %+v", r.XTRule, parseRule(r.XTRule.String()))
		}
	}
	for _, text := range []string{"-j", "-j UPLANE-FORWARD", "-j ACCEPT -s 10.0.0.0/8", "-s 10.0.0.1 -j DROP", "! -i a -j DROP",
		"-p tcp -j DROP", "-m conntrack --ctstate NEW -j DROP", "-j MARK --set-xmark 0x01/0x1", " -j ACCEPT", "-j DROP "} {
		if r := parseRule(text); r.Other != text {
			t.Errorf("%q: %+v", text, r)
		}
	}
}

const saved = "# Generated by iptables-save v1.8.9 (nf_tables) on Mon Nov 23 19:22:33 2026\n" +
	"# Table `filter' contains incompatible base-chains, use 'nft' tool to list them.\n" +
	`*raw
:PREROUTING ACCEPT [0:0]
:UPLANE-PREROUTING - [0:0]
-A PREROUTING -j UPLANE-PREROUTING
COMMIT
*filter
:FORWARD DROP [0:0]
:UPLANE-FORWARD - [0:0]
:UPLANE-EMPTY - [0:0]
-A FORWARD -j UPLANE-FORWARD
-A FORWARD -m comment --comment "-j UPLANE-FORWARD"
-A FORWARD
-A UPLANE-FORWARD -i ul-steam -j DROP
-A UPLANE-FORWARD -p tcp -j DROP
COMMIT
`

func TestParseSave(t *testing.T) {
	t.Parallel()
	got, err := parseSave(saved)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[1].Name != "UPLANE-EMPTY" || got[1].Jumped || got[1].rules != nil ||
		!slices.Equal(got[0].rules, []policy.XTRule{{In: "ul-steam", Target: policy.TargetDrop}, {Other: "-p tcp -j DROP"}}) ||
		!got[0].Jumped || len(got[0].jumps) != 1 {
		t.Errorf("got %+v", got)
	}
	if _, err := parseSave("# Table `nat' is incompatible, use 'nft' tool.\n"); err == nil {
		t.Error("an unreadable table passes")
	}
	if _, err := parseSave("# Table `security' is incompatible, use 'nft' tool.\n"); err != nil {
		t.Errorf("a table that is none of ours: %v", err)
	}
}

func TestOpen(t *testing.T) {
	if _, err := Open("ipfw"); err == nil || !strings.Contains(err.Error(), "auto, nftables or iptables") {
		t.Errorf("err = %v", err)
	}
	if _, err := openIPTables("iptables-none"); err == nil {
		t.Error("a missing command opens")
	}
	isolate(t)
	for mode, name := range map[string]string{"": "nftables", "auto": "nftables", "nftables": "nftables", "iptables": "iptables ("} {
		f, err := Open(mode)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(f.Name(), name) {
			t.Errorf("%q opens %s", mode, f.Name())
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Open("iptables"); err == nil || !strings.Contains(err.Error(), `install the package iptables or set firewall = "nftables"`) {
		t.Errorf("without iptables: %v", err)
	}
}

// TestCommandThatHangs: a command that does not end is no reason not to.
func TestCommandThatHangs(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := run(ctx, "sh", "", "-c", "echo working >&2; sleep 60; true"); err == nil || !strings.Contains(err.Error(), "working") {
		t.Errorf("err = %v", err)
	}
}
