package firewall

import (
	"cmp"
	"strings"
	"testing"

	"uplane/policy"
)

func wantedBy(driver string) policy.State {
	if driver == "nftables" {
		return table(1)
	}
	return chains()
}

func (w world) leftovers() []Leftover {
	w.Helper()
	out, err := w.Leftovers(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	return out
}

// firstRelease is what the first release had in nftables.
const firstRelease = `
nft add table ip uplane
nft add chain ip uplane UPLANE-FORWARD '{ type filter hook forward priority -1; }'
nft add rule ip uplane UPLANE-FORWARD iifname ul-steam drop
`

// TestLeftovers: whatever was there before, and whoever comes next, it goes without a trace, and what is others' stays.
func TestLeftovers(t *testing.T) {
	mine := `
for ipt in iptables-nft iptables-legacy; do
$ipt -N MINE; $ipt -A MINE -s 192.0.2.1 -j ACCEPT
$ipt -A FORWARD -m comment --comment "to -j UPLANE-FORWARD" -j MINE
done
nft add table inet mine
`
	all := "iptables-nft-save | grep -v '^#'; iptables-legacy-save | grep -v '^#'; " + ruleset
	each(t, func(w world) {
		w.sh(mine)
		w.sh("for t in nat mangle; do iptables-legacy -t $t -L >/dev/null; done") // legacy tables stay
		before := w.sh(all)
		if got := w.leftovers(); len(got) > 0 {
			w.Fatalf("there are %v", got)
		}
		w.sh(firstRelease)
		for _, name := range []string{"nftables", "iptables-nft", "iptables-legacy"} {
			other := world{w.TB, w.another(name), ""}
			other.reach(wantedBy(name))
			other.must(wantedBy(name))
		}
		w.sh("iptables-nft -A MINE -j UPLANE-FORWARD; iptables-legacy -A MINE -g UPLANE-FORWARD")
		left := w.leftovers()
		if len(left) != 3 { // the first release's, and those of two others
			w.Errorf("%d leftovers: %v", len(left), left)
		}
		for _, l := range left {
			if err := l.Remove(w.Context()); err != nil {
				w.Error(err)
			}
		}
		if got := w.leftovers(); len(got) > 0 {
			w.Errorf("still there: %v", got)
		}
		w.must(wantedBy(cmp.Or(w.cli, "nftables")))
		w.reach(nil)
		if _, err := w.Sweep([]string{"nat", "nat POSTROUTING", "mangle", "mangle PREROUTING", "filter INPUT"}); err != nil {
			w.Error(err)
		}
		if after := w.sh(all); after != before {
			w.Errorf("left\n%s\nwas\n%s", after, before)
		}
	}, "nftables", "iptables-nft", "iptables-legacy")
}

// TestLeftoversUnreadable: what iptables cannot print keeps none of ours in place.
func TestLeftoversUnreadable(t *testing.T) {
	each(t, func(w world) {
		old := world{w.TB, w.another("iptables-nft"), "iptables-nft"}
		old.reach(chains())
		w.sh("nft add rule ip filter FORWARD meta mark set mark and 0xff00ffff xor 0x40000")
		w.reach(table(1))
		for _, l := range w.leftovers() {
			if err := l.Remove(w.Context()); err != nil {
				w.Error(err)
			}
		}
		left := w.sh(ruleset)
		if strings.Contains(left, policy.ChainPrefix) || !strings.Contains(left, "0xff04ffff") {
			w.Errorf("left\n%s", left)
		}
		w.must(table(1))
	}, "nftables")
}
