package system

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"
)

// plant is a leak: it takes away a guard and those that stand in for it. What it adds, undo removes.
type plant struct {
	name      string
	do, undo  string // lane plain has $SUBNET and $TABLE, its links are ul-plain and ulv-plain
	found     flaw
	conntrack bool // until it is found, connections are forgotten again and again
}

var plants = []plant{
	{
		name:  "rules, and the drops behind them",
		do:    deleteRules("from 10\\.", "cat") + "; nft flush chain inet uplane forward; nft flush chain inet uplane guard",
		found: untranslated,
	},
	{
		name:  "translated by another card",
		do:    "ip route replace default via 192.168.10.1 dev enp7s0 table $TABLE proto uplane; nft 'add element inet uplane forward { ipv4 . ul-plain . enp7s0 : goto outbound }; add element inet uplane translate { ipv4 . ul-plain . enp7s0 }; add element inet uplane addresses { enp7s0 . 192.168.10.4 }'",
		found: wrongCard,
	},
	{
		name:      "translation, and the guard behind it",
		do:        "nft flush chain inet uplane postrouting; nft flush chain inet uplane guard",
		found:     untranslated,
		conntrack: true,
	},
	{
		name:      "the table, and the witness in the rules",
		do:        "nft delete table inet uplane; ip rule add from $SUBNET lookup $TABLE priority 0; ip rule del from 10.0.0.0/16 priority 0; ip rule add from 10.0.0.0/16 goto 40000 priority 0 protocol uplane",
		undo:      "ip rule del from $SUBNET lookup $TABLE priority 0",
		found:     untranslated,
		conntrack: true,
	},
	{
		name:      "the rules of answers",
		do:        deleteRules("from 192\\.168\\.", "cat"),
		found:     foreignSource,
		conntrack: true,
	},
	{
		name:  "the addresses of cards, and the one of the Wi-Fi",
		do:    "nft flush chain inet uplane guard; ip addr add 192.0.2.9/32 scope host dev wlp6s0; ip addr del 192.168.50.4/24 dev wlp6s0", // with its last address its routes would go
		undo:  "ip addr del 192.0.2.9/32 dev wlp6s0; nmcli --wait 20 connection up homewifi",
		found: foreignSource,
	},
	{
		name:  "what comes in for a lane that has gone",
		do:    "ip link del ul-plain; ip link del ulv-plain; nft flush chain inet uplane forward; " + deleteRules("to 10\\.", "cat"),
		found: untranslated,
	},
	{
		name:  "names by the host's resolver",
		do:    "getent ahostsv4 n1.plain.split.test",
		found: wrongAsker,
	},
}

// TestChaosPlanted shows that [TestChaos] would find leaks: each is planted while the daemon can't heal it.
func TestChaosPlanted(t *testing.T) {
	lanes := slices.DeleteFunc(chaosLanes(), func(l *chaosLane) bool { return l.name != "plain" })
	c := newChaos(t, 3*time.Minute, rand.New(rand.NewPCG(0, 0)), lanes)
	c.lanesUp()
	c.rest()
	st := c.wait("plain", isState("up"))
	for _, p := range plants {
		c.note("%s", p.name)
		c.signal(syscall.SIGSTOP)
		values := fmt.Sprintf("SUBNET=%s; TABLE=%d; ", st.Subnet, st.Table)
		c.attempt(values + p.do)
		if found := c.untilFound(p); !found {
			t.Errorf("%s: the judge does not find: %s\n%s", p.name, p.found, c.sh("ip rule; ip route show table all; nft list ruleset"))
		}
		c.attempt(values + p.undo)
		c.signal(syscall.SIGCONT)
		c.edit("reload")
		c.attempt("conntrack -F") // connections that began as they must not
		c.quiet()
		c.judge.look() // what was still under way
		c.becomesRight(lanes[0], time.Now().Add(time.Minute))
	}
}

// untilFound waits until the judge has found what is wrong with a plant.
func (c *chaos) untilFound(p plant) bool {
	c.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if p.conntrack {
			c.attempt("conntrack -F")
		}
		for _, f := range c.judge.look() {
			if f.flaw == p.found {
				c.Logf("%s: %v", p.name, f)
				return true
			}
		}
	}
	return false
}
