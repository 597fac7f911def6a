package firewall

import (
	"strings"
	"testing"

	"uplane/policy"
)

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

const ufw = `
$ipt -P FORWARD DROP
for c in before-logging before after after-logging reject track; do $ipt -N ufw-$c-forward; $ipt -A FORWARD -j ufw-$c-forward; done
$ipt -A ufw-reject-forward -j REJECT
`

// eachTool runs the test for both variants of iptables, beside nftables.
func eachTool(t *testing.T, test func(w world, tool string)) {
	t.Parallel()
	for tool, command := range map[string]string{policy.IPTables: "iptables-nft", policy.IPTablesLegacy: "iptables-legacy"} {
		t.Run(tool, func(t *testing.T) {
			t.Parallel()
			w := open(t, "nftables")
			w.cli = command
			test(w, tool)
		})
	}
}

func (w world) observeDoors() (map[string]bool, policy.State) {
	w.Helper()
	drops, have, err := w.Doors()
	if err != nil {
		w.Fatal(err)
	}
	return drops, have
}

// mustDoor goes to what is wanted and looks whether it is there.
func (w world) mustDoor(want policy.State) {
	w.Helper()
	_, have := w.observeDoors()
	w.apply(policy.Diff(have, want), want)
	if _, have = w.observeDoors(); difference(have, want) != "" {
		w.Fatalf("doors\n%s\n%s", difference(have, want), w.sh("$ipt -S FORWARD"))
	}
}

func TestDrops(t *testing.T) {
	hosts := map[string]struct {
		script string
		drops  bool
	}{
		"empty":                   {"true", false},
		"docker":                  {docker, true},
		"ufw":                     {ufw, true},
		"accepts":                 {"$ipt -A FORWARD -i a -j DROP; $ipt -A FORWARD -j ACCEPT", false},
		"only some":               {"$ipt -A FORWARD -p tcp -j REJECT; $ipt -A FORWARD -m mark --mark 7 -j DROP; $ipt -A FORWARD -s 192.0.2.1 -m comment --comment x -j DROP", false},
		"drops at the end":        {"$ipt -A FORWARD -i a -j ACCEPT; $ipt -A FORWARD -j DROP", true},
		"rejects at the end":      {"$ipt -A FORWARD -j REJECT --reject-with icmp-host-prohibited", true},
		"drops and says so":       {"$ipt -A FORWARD -m comment --comment 'nobody gets through' -j DROP", true},
		"says that it drops":      {"$ipt -A FORWARD -m comment --comment 'a -j DROP'", false},
		"says so with conditions": {"$ipt -A FORWARD -i a -m comment --comment 'all -j DROP' -j DROP", false},
		"other chain":             {"$ipt -N X; $ipt -A X -j DROP; $ipt -A INPUT -j DROP; $ipt -P OUTPUT DROP; $ipt -A FORWARD -s 192.0.2.1 -j X", false},
	}
	eachTool(t, func(w world, tool string) {
		for what, host := range hosts {
			w.sh(host.script)
			drops, have := w.observeDoors()
			if drops[tool] != host.drops || len(have) > 0 {
				w.Errorf("%s: drops %v, doors %v", what, drops, have)
			}
			if host.script == "true" {
				continue // no FORWARD, and nobody wants a door
			}
			before := w.sh("$ipt-save | grep -v '^#'")
			w.mustDoor(state(policy.Door{Tool: tool, Sound: true}))
			if drops, _ := w.observeDoors(); drops[tool] != host.drops {
				w.Errorf("%s: with a door: drops %v", what, drops)
			}
			w.mustDoor(nil)
			if after := w.sh("$ipt-save | grep -v '^#'"); after != before {
				w.Errorf("%s: left\n%s\nwas\n%s", what, after, before)
			}
			w.sh("for t in filter nat mangle; do $ipt -t $t -F; $ipt -t $t -X; done; for c in INPUT FORWARD OUTPUT; do $ipt -P $c ACCEPT; done")
		}
	})
}

// TestNoTablesForDoors: looking makes none.
func TestNoTablesForDoors(t *testing.T) {
	each(t, func(w world) {
		if drops, have := w.observeDoors(); len(drops)+len(have) > 0 {
			w.Errorf("drops %v, doors %v", drops, have)
		}
		if left := w.sh(ruleset + "; cat /proc/thread-self/net/ip_tables_names 2>/dev/null || true"); left != "" {
			w.Errorf("made %s", left)
		}
	}, "nftables")
}

func TestDoorStandsRight(t *testing.T) {
	want := func(tool string) policy.State { return state(policy.Door{Tool: tool, Sound: true}) }
	rule := "-m mark --mark 0x10000000/0x10000000 -m comment --comment 'uplane: lanes' -j ACCEPT"
	eachTool(t, func(w world, tool string) {
		lines := func() []string {
			return strings.Split(strings.TrimSpace(w.sh("$ipt -S FORWARD")), "\n")
		}
		w.sh(docker)
		w.mustDoor(want(tool))
		if l := lines(); !strings.Contains(l[len(l)-1], "uplane: lanes") {
			w.Errorf("in Docker's FORWARD:\n%s", strings.Join(l, "\n"))
		}
		for _, damage := range []struct{ what, script string }{
			{"moved", "$ipt -A FORWARD -i x -j ACCEPT"},
			{"doubled", "$ipt -I FORWARD " + rule},
			{"lost", "$ipt -D FORWARD " + rule},
			{"written by others", "$ipt -D FORWARD " + rule + "; $ipt -I FORWARD 2 " + rule},
			{"behind a drop", "$ipt -I FORWARD -j DROP"},
		} {
			w.sh(damage.script)
			if _, have := w.observeDoors(); have.Has(policy.Door{Tool: tool, Sound: true}) {
				w.Errorf("%s: not seen", damage.what)
			}
			w.mustDoor(want(tool))
			if n := strings.Count(strings.Join(lines(), "\n"), "uplane: lanes"); n != 1 {
				w.Errorf("%s: %d doors", damage.what, n)
			}
		}
		w.sh("rules=$($ipt-save); echo \"$rules\" | $ipt-restore")
		w.mustDoor(want(tool)) // it is ours as well
		w.mustDoor(nil)

		w.sh("$ipt -F FORWARD")
		w.sh(ufw)
		w.mustDoor(want(tool))
		if l := lines(); len(l) < 6 || !strings.Contains(l[5], "uplane: lanes") || !strings.Contains(l[6], "ufw-reject-forward") {
			w.Errorf("in ufw's FORWARD:\n%s", strings.Join(l, "\n"))
		}
	})
}

// TestDoorBesideUnreadableRule: a rule that iptables cannot print keeps no door from being opened and shut.
func TestDoorBesideUnreadableRule(t *testing.T) {
	each(t, func(w world) {
		w.sh("iptables-nft -P FORWARD DROP; nft add rule ip filter FORWARD meta mark set mark and 0xff00ffff xor 0x40000")
		before := w.sh(ruleset)
		w.mustDoor(state(policy.Door{Tool: policy.IPTables, Sound: true}))
		w.mustDoor(nil)
		if after := w.sh(ruleset); after != before {
			w.Errorf("left\n%s\nwas\n%s", after, before)
		}
	}, "nftables")
}

// TestDoorKeepsTableKnown: neither of the two makes the other be read again.
func TestDoorKeepsTableKnown(t *testing.T) {
	each(t, func(w world) {
		w.sh("iptables-nft -P FORWARD DROP")
		w.reach(table(1))
		w.mustDoor(state(policy.Door{Tool: policy.IPTables, Sound: true}))
		w.reach(table(2))
		now, _ := generation()
		if w.ours.generation != now || w.doors.generation != now {
			w.Errorf("table of %d, doors of %d, now %d", w.ours.generation, w.doors.generation, now)
		}
		w.must(table(2))
		w.mustDoor(state(policy.Door{Tool: policy.IPTables, Sound: true}))
	}, "nftables")
}
