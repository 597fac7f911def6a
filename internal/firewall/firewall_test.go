package firewall

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"uplane/policy"
)

func TestRoundTrip(t *testing.T) {
	each(t, func(w world) {
		w.must(nil)
		want := lane()
		w.apply(want, nil)
		w.must(want)

		want[0].Rules = "-i ul-steam -j DROP" // another uplink, say
		w.apply(want, nil)
		w.must(want)

		w.apply(want[:2], want[2:])
		w.must(want[:2])
		w.apply(nil, append(want[:2], want[2])) // the last is gone already
		w.must(nil)
	})
}

// TestNothingToDo holds Apply to "no change in means no write out".
func TestNothingToDo(t *testing.T) {
	each(t, func(w world) {
		want := lane()
		w.apply(want, nil)
		before, err := generation()
		if err != nil {
			w.Fatal(err)
		}
		w.apply(want, nil)
		w.apply(want, []policy.Chain{chain("filter", policy.ChainPrefix+"OTHER")})
		if after, _ := generation(); after != before {
			w.Errorf("wrote again: generation %d, then %d", before, after)
		}
	}, "iptables", "nftables")
}

// TestOneTransaction: nobody can see a table with half of the change.
func TestOneTransaction(t *testing.T) {
	each(t, func(w world) {
		w.apply(lane(), nil)
		w.sh("nft flush ruleset")
		before, _ := generation()
		w.apply(lane(), nil)
		after, err := generation()
		if err != nil {
			w.Fatal(err)
		}
		want := uint32(1)
		if w.cli != "" {
			want = 3 // a table each
		}
		if after-before != want {
			w.Errorf("%d transactions, want %d", after-before, want)
		}
	}, "iptables", "nftables")
}

// TestHeals does to the rules what people and programs do to them.
func TestHeals(t *testing.T) {
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
		"chain deleted":        "$ipt -t mangle -D PREROUTING 1; $ipt -t mangle -F UPLANE-PREROUTING; $ipt -t mangle -X UPLANE-PREROUTING",
	}
	each(t, func(w world) {
		for what, damage := range damages {
			w.mustHeal(what, damage)
		}
	}, "iptables", "iptables-legacy")
}

func TestHealsNFTables(t *testing.T) {
	const table = "ip " + tableName
	damages := map[string]string{
		"flush ruleset":   "nft flush ruleset",
		"flush table":     "nft flush table " + table,
		"table deleted":   "nft delete table " + table,
		"chain deleted":   "nft flush chain " + table + " UPLANE-FORWARD; nft delete chain " + table + " UPLANE-FORWARD",
		"table dormant":   "nft add table " + table + " '{ flags dormant; }'",
		"policy":          "nft add chain " + table + " UPLANE-FORWARD '{ policy drop; }'",
		"rule added":      "nft insert rule " + table + " UPLANE-FORWARD accept",
		"comment forged":  "nft insert rule " + table + " UPLANE-FORWARD accept comment '\"-i ul-steam -j DROP\"'",
		"another's place": "nft delete chain " + table + " UPLANE-FORWARD; nft add chain " + table + " UPLANE-FORWARD '{ type filter hook input priority 0; }'",
		"no place":        "nft delete chain " + table + " UPLANE-FORWARD; nft add chain " + table + " UPLANE-FORWARD",
	}
	each(t, func(w world) {
		for what, damage := range damages {
			w.mustHeal(what, damage)
		}
	}, "nftables")
	t.Run("flush ruleset under iptables", func(t *testing.T) {
		t.Parallel()
		open(t, "iptables").mustHeal("flush ruleset", "nft flush ruleset")
	})
}

func (w world) mustHeal(what, damage string) {
	w.Helper()
	want := lane()
	w.apply(want, nil)
	w.must(want)
	w.sh(damage)
	if print(w.observe()) == print(want) {
		w.Errorf("%s: not seen", what)
	}
	w.apply(want, nil)
	if got := print(w.observe()); got != print(want) {
		w.Errorf("%s: healed to\n%s", what, got)
	}
}

// docker is what Docker, and a few hand-written rules, look like; some would match a careless pattern.
const docker = `
$ipt -P FORWARD DROP
$ipt -N DOCKER; $ipt -N DOCKER-USER; $ipt -N UPLAND
$ipt -A FORWARD -j DOCKER-USER
$ipt -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
$ipt -A FORWARD -o docker0 -j DOCKER
$ipt -A FORWARD -m comment --comment "see -j UPLANE-FORWARD"
$ipt -A FORWARD -m comment --comment 'a "quoted" word' -j UPLAND
$ipt -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
$ipt -A DOCKER-USER -j RETURN
$ipt -t nat -N DOCKER
$ipt -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
$ipt -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
$ipt -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
$ipt -t mangle -A PREROUTING -i tun0 -j MARK --set-mark 7
$ipt -A INPUT -i lo -j ACCEPT
`

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
		want := lane()
		for _, step := range []func(){
			func() { w.apply(want, nil) },
			func() { w.sh("$ipt -A FORWARD -j UPLANE-FORWARD"); w.apply(want, nil) },
			func() { w.apply(lanes(3), nil) },
		} {
			step()
			if got := foreign(); got != untouched {
				w.Fatalf("foreign rules are\n%s\nwere\n%s", got, untouched)
			}
		}
		w.apply(nil, want)
		if after := w.sh(save); after != before {
			w.Errorf("after:\n%s\nbefore:\n%s", after, before)
		}
	}, "iptables", "iptables-legacy")
}

// TestDeletesWhatIsReferred: a user's jump to our chain goes with the chain; the kernel keeps a chain that is in use.
func TestDeletesWhatIsReferred(t *testing.T) {
	each(t, func(w world) {
		want := lane()
		w.apply(want, nil)
		w.sh("$ipt -N MINE; $ipt -A MINE -s 192.0.2.1 -j UPLANE-FORWARD; $ipt -A MINE -j DROP")
		w.must(want) // and does not disturb
		w.sh("$ipt -N UPLANE-OLD; $ipt -A INPUT -j UPLANE-OLD; $ipt -A UPLANE-OLD -j UPLANE-FORWARD")
		w.apply(nil, w.observe())
		w.must(nil)
		if got := w.sh("$ipt -S"); !strings.Contains(got, "-A MINE -j DROP") || strings.Contains(got, "UPLANE") {
			w.Errorf("left:\n%s", got)
		}
	}, "iptables", "iptables-legacy")
}

// TestNewChainBesideOldOne has one table with a chain to delete and one to make.
func TestNewChainBesideOldOne(t *testing.T) {
	each(t, func(w world) {
		w.sh("$ipt -N UPLANE-OLD; $ipt -A INPUT -j UPLANE-OLD; $ipt -A UPLANE-OLD -j DROP")
		want := lane()[:1]
		w.apply(want, w.observe())
		w.must(want)
	}, "iptables", "iptables-legacy")
}

// TestAllOrNothing: a rule that iptables does not take leaves the table as it was.
func TestAllOrNothing(t *testing.T) {
	each(t, func(w world) {
		want := lane()
		w.apply(want, nil)
		bad := []policy.Chain{chain("filter", policy.ForwardChain, "-i ul-steam -j DROP", "-j NONSENSE")}
		if err := w.Apply(bad, nil); err == nil || !strings.Contains(err.Error(), "NONSENSE") {
			w.Errorf("err = %v", err)
		}
		w.must(want)
	})
}

func TestTableThatIPTablesCannotRead(t *testing.T) {
	each(t, func(w world) {
		w.sh("nft add table ip nat; nft add set ip nat s '{ type ipv4_addr; }'; nft add chain ip nat POSTROUTING '{ type nat hook postrouting priority 100; }'")
		w.sh("nft add rule ip nat POSTROUTING ip daddr @s masquerade")
		if _, err := w.Observe(); err == nil || !strings.Contains(err.Error(), "table nat holds nftables rules") {
			w.Errorf("err = %v", err)
		}
	}, "iptables")
}

func TestOpen(t *testing.T) {
	t.Parallel()
	if _, err := Open("ipfw", nil); err == nil || !strings.Contains(err.Error(), "auto, iptables or nftables") {
		t.Errorf("err = %v", err)
	}
	if _, err := openIPTables("iptables-none", nil); err == nil {
		t.Error("a missing command opens")
	}
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Skip("iptables is not installed")
	}
	isolate(t)
	f, err := Open("auto", []string{"filter"})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(f.Name(), "iptables (") || !slices.Equal(f.Created(), []string{"filter"}) {
		t.Errorf("opened %s, created %v", f.Name(), f.Created())
	}
}
