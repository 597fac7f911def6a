package firewall

import (
	"slices"
	"strings"
	"testing"

	"uplane/policy"
)

const ruleset = "nft list ruleset"

func TestNoTrace(t *testing.T) {
	before := map[string]string{
		"empty host":       "true",
		"only INPUT":       "iptables -A INPUT -i lo -j ACCEPT; nft list table ip filter | grep -q INPUT",
		"table alone":      "nft add table ip filter",
		"native tables":    "nft add table inet mine; nft add chain inet mine c '{ type filter hook forward priority 0; policy drop; }'",
		"docker":           "ipt=iptables" + docker,
		"empty base chain": "nft add table ip nat; nft add chain ip nat POSTROUTING '{ type nat hook postrouting priority 100; policy accept; }'",
	}
	t.Parallel()
	for name, script := range before {
		t.Run(name, func(t *testing.T) {
			each(t, func(w world) {
				w.sh(script)
				before := w.sh(ruleset)
				w.observe() // must create nothing either
				if after := w.sh(ruleset); after != before {
					w.Fatalf("Observe left\n%s\nwas\n%s", after, before)
				}
				w.apply(lane(), nil)
				w.apply(lanes(2), nil)
				w.apply(nil, lane())
				if after := w.sh(ruleset); after != before {
					w.Errorf("left\n%s\nwas\n%s", after, before)
				}
				if created := w.Created(); len(created) > 0 {
					w.Errorf("still claims %v", created)
				}
			}, "iptables", "nftables")
		})
	}
}

// TestNoTraceAfterRestart deletes with another Firewall, which knows what the first one made.
func TestNoTraceAfterRestart(t *testing.T) {
	each(t, func(w world) {
		w.apply(lane(), nil)
		want := []string{"filter", "filter FORWARD", "mangle", "mangle PREROUTING", "nat", "nat POSTROUTING"}
		created := w.Created()
		slices.Sort(created)
		if !slices.Equal(created, want) {
			w.Fatalf("created %v, want %v", created, want)
		}
		again, err := openIPTables(w.cli, created)
		if err != nil {
			w.Fatal(err)
		}
		if err := again.Apply(nil, lane()); err != nil {
			w.Fatal(err)
		}
		if left := w.sh(ruleset); left != "" {
			w.Errorf("left\n%s", left)
		}
	}, "iptables")
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
				w.apply(lane(), nil)
				w.sh(use.script)
				w.apply(nil, lane())
				if left := w.sh(ruleset); !strings.Contains(left, use.stays) || strings.Contains(left, policy.ChainPrefix) {
					w.Errorf("left\n%s", left)
				}
				if strings.Contains(w.sh(ruleset), "ip mangle") {
					w.Error("left the unused table mangle")
				}
			}, "iptables")
		})
	}
}

// TestDeleteAt: the kernel refuses when a rule came in after we looked.
func TestDeleteAt(t *testing.T) {
	t.Parallel()
	isolate(t)
	sh(t, "nft add table ip filter; nft add chain ip filter FORWARD")
	looked, err := generation()
	if err != nil {
		t.Fatal(err)
	}
	sh(t, "nft add rule ip filter FORWARD accept")
	objects := []object{{"filter", "FORWARD"}, {table: "filter"}}
	if err := deleteAt(looked, objects); err == nil || !strings.Contains(err.Error(), "restart") {
		t.Errorf("err = %v", err)
	}
	if left := sh(t, ruleset); !strings.Contains(left, "accept") {
		t.Errorf("left\n%s", left)
	}
	now, err := generation()
	if err != nil {
		t.Fatal(err)
	}
	if err := deleteAt(now, objects); err != nil {
		t.Error(err)
	}
	if left := sh(t, ruleset); left != "" {
		t.Errorf("left\n%s", left)
	}
}
