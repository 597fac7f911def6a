package firewall

import (
	"slices"
	"strings"
	"testing"

	"uplane/policy"
)

// reachClean is reach with the caller's part: what Missing says is remembered, and handed to Sweep in the end.
func (w world) reachClean(created []string, want policy.State) []string {
	w.Helper()
	ops := policy.Diff(w.observe(), want)
	missing, err := w.Missing(ops)
	if err != nil {
		w.Fatal(err)
	}
	created = append(created, missing...)
	w.apply(ops, want)
	if len(want) == 0 {
		if created, err = w.Sweep(created); err != nil {
			w.Fatal(err)
		}
	}
	return created
}

func TestNoTrace(t *testing.T) {
	hosts := map[string]string{
		"empty host":       "true",
		"only INPUT":       "iptables -A INPUT -i lo -j ACCEPT; nft list table ip filter | grep -q INPUT",
		"table alone":      "nft add table ip filter",
		"native tables":    "nft add table inet mine; nft add chain inet mine c '{ type filter hook forward priority 0; policy drop; }'",
		"docker":           "ipt=iptables" + docker,
		"empty base chain": "nft add table ip nat; nft add chain ip nat POSTROUTING '{ type nat hook postrouting priority 100; policy accept; }'",
	}
	t.Parallel()
	for name, script := range hosts {
		t.Run(name, func(t *testing.T) {
			each(t, func(w world) {
				w.sh(script)
				before := w.sh(ruleset)
				w.observe() // must create nothing either
				if after := w.sh(ruleset); after != before {
					w.Fatalf("Observe left\n%s\nwas\n%s", after, before)
				}
				want, more := table(1), table(2)
				if w.cli != "" {
					want, more = chains(), manyChains(2)
				}
				created := w.reachClean(nil, want)
				created = w.reachClean(created, more)
				created = w.reachClean(created, nil)
				if after := w.sh(ruleset); after != before {
					w.Errorf("left\n%s\nwas\n%s", after, before)
				}
				if len(created) > 0 {
					w.Errorf("still claims %v", created)
				}
			}, "iptables", "nftables")
		})
	}
}

// TestNoTraceAfterCrash: what was remembered before the write is enough for another Firewall, of either driver.
func TestNoTraceAfterCrash(t *testing.T) {
	for _, next := range []string{"iptables", "nftables"} {
		t.Run(next, func(t *testing.T) {
			each(t, func(w world) {
				created := w.reachClean(nil, without(chains(), "mangle"))
				slices.Sort(created)
				want := []string{"filter", "filter FORWARD", "filter INPUT", "filter OUTPUT", "nat", "nat INPUT", "nat OUTPUT", "nat POSTROUTING", "nat PREROUTING"}
				if !slices.Equal(created, want) {
					w.Fatalf("created %v, want %v", created, want)
				}
				again := world{w.TB, w.another(next), ""}
				for _, l := range again.leftovers() {
					if err := l.Remove(t.Context()); err != nil {
						w.Error(err)
					}
				}
				if left := again.reachClean(created, nil); len(left) > 0 {
					w.Errorf("still claims %v", left)
				}
				if left := w.sh(ruleset); left != "" {
					w.Errorf("left\n%s", left)
				}
			}, "iptables")
		})
	}
}

// TestSweepKeepsWhatIsInUse: what someone else put into our tables stays, and so do the tables around it.
func TestSweepKeepsWhatIsInUse(t *testing.T) {
	uses := map[string]struct{ script, stays string }{
		"a rule":      {"iptables -A FORWARD -s 192.0.2.1 -j ACCEPT", "192.0.2.1"},
		"a policy":    {"iptables -P FORWARD DROP", "policy drop"},
		"a chain":     {"iptables -N MINE", "MINE"},
		"a set":       {"nft add set ip nat s '{ type ipv4_addr; }'", "set s"},
		"another one": {"iptables -A INPUT -i lo -j ACCEPT", "INPUT"},
	}
	t.Parallel()
	for name, use := range uses {
		t.Run(name, func(t *testing.T) {
			each(t, func(w world) {
				created := w.reachClean(nil, chains())
				w.sh(use.script)
				created = w.reachClean(created, nil)
				if left := w.sh(ruleset); !strings.Contains(left, use.stays) || strings.Contains(left, policy.ChainPrefix) {
					w.Errorf("left\n%s", left)
				}
				if strings.Contains(w.sh(ruleset), "ip mangle") {
					w.Error("left the unused table mangle")
				}
				if len(created) == 0 {
					w.Error("forgot what is still there")
				}
			}, "iptables")
		})
	}
}

// TestAtGeneration: the kernel refuses when a rule came in after we looked.
func TestAtGeneration(t *testing.T) {
	t.Parallel()
	isolate(t)
	sh(t, "nft add table ip filter; nft add chain ip filter FORWARD '{ type filter hook forward priority 0; }'")
	looked, err := generation()
	if err != nil {
		t.Fatal(err)
	}
	all, err := listScaffold()
	if err != nil {
		t.Fatal(err)
	}
	created := []string{"filter", "filter FORWARD"}
	sh(t, "nft add rule ip filter FORWARD accept")
	if err := sweep(all, created).commit(looked); err == nil || !strings.Contains(err.Error(), "restart") {
		t.Errorf("err = %v", err)
	}
	if left := sh(t, ruleset); !strings.Contains(left, "accept") {
		t.Errorf("left\n%s", left)
	}
	sh(t, "nft flush chain ip filter FORWARD")
	tries := 0
	err = atGeneration(func() (batch, error) {
		if tries++; tries == 2 {
			all, err = listScaffold()
		} else {
			defer sh(t, "nft add table ip x")
		}
		return sweep(all, created), err
	})
	if err != nil || tries < 2 {
		t.Errorf("after %d tries: %v", tries, err)
	}
	if left := sh(t, ruleset); strings.Contains(left, "filter") {
		t.Errorf("left\n%s", left)
	}
}
