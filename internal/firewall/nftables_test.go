package firewall

import (
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// TestText: what nft loads from the table's text is what we take for sound, and nft lists what we write as it lists that.
func TestText(t *testing.T) {
	each(t, func(w world) {
		w.sh(everyElement().String()) // by the nft commands that plan shows
		text := w.sh(ruleset)
		w.must(everyElement())

		w.sh("nft flush ruleset")
		w.must(nil)
		w.reach(everyElement())
		if got := w.sh(ruleset); got != text {
			w.Errorf("wrote\n%s\nwant\n%s", got, text)
		}
	}, "nftables")
}

func TestTableRoundTrip(t *testing.T) {
	each(t, func(w world) {
		w.must(nil)
		for _, want := range []policy.State{table(0), everyElement(), table(2), everyElement(), nil, table(1)} {
			w.reach(want)
			w.must(want)
		}
	}, "nftables")
}

// TestReplace: an element's key stays, and its network's start.
func TestReplace(t *testing.T) {
	each(t, func(w world) {
		was := both(table(1), state(policy.Element{Set: policy.Allowed, In: "ul-1", Net: prefix("10.1.0.0/16")}))
		w.reach(was)
		now := state(policy.Table{Sound: true},
			policy.Element{Set: policy.Marks, In: "ul-1", Mark: 7},
			policy.Element{Set: policy.Forward, Family: policy.IPv4, In: "ul-1", Out: "wlp6s0", Chain: policy.InboundChain},
			policy.Element{Set: policy.Nets, Net: prefix("10.0.1.0/25")},
			policy.Element{Set: policy.Nets, Net: prefix("10.0.0.0/24")},
			policy.Element{Set: policy.Allowed, In: "ul-1", Net: prefix("10.1.0.0/17")})
		w.reach(now)
		w.must(now)
		w.reach(was)
		w.must(was)
	}, "nftables")
}

const inTable = "inet " + policy.TableName

// TestNotSound does to the table what people and programs do to it.
func TestNotSound(t *testing.T) {
	damages := map[string]string{
		"rule deleted":        "nft flush chain " + inTable + " guard",
		"rule added":          "nft insert rule " + inTable + " forward accept",
		"rule of a new kind":  "nft insert rule " + inTable + " outbound rt classid 5 accept",
		"rule changed":        "nft replace rule " + inTable + " inbound handle $(nft -a list chain " + inTable + " inbound | sed -n 's/.*drop # handle //p') accept",
		"priority":            "nft delete chain " + inTable + " guard; nft 'add chain " + inTable + " guard { type filter hook postrouting priority 99; }; add rule " + inTable + " guard ip saddr @nets oifname != @lanes drop'",
		"hook":                "nft delete chain " + inTable + " guard; nft 'add chain " + inTable + " guard { type filter hook output priority 101; }; add rule " + inTable + " guard ip saddr @nets oifname != @lanes drop'",
		"no hook":             "nft delete chain " + inTable + " guard; nft 'add chain " + inTable + " guard; add rule " + inTable + " guard ip saddr @nets oifname != @lanes drop'",
		"policy":              "nft add chain " + inTable + " guard '{ policy drop; }'",
		"dormant":             "nft add table " + inTable + " '{ flags dormant; }'",
		"chain added":         "nft add chain " + inTable + " another",
		"set added":           "nft add set " + inTable + " another '{ type ifname; }'",
		"counter added":       "nft add counter " + inTable + " another",
		"table flushed":       "nft flush table " + inTable,
		"set of another type": "nft flush chain " + inTable + " from_lane; nft delete set " + inTable + " to_host; nft add set " + inTable + " to_host '{ type ifname; flags timeout; }'",
		"set missing":         "nft flush chain " + inTable + " from_lane; nft delete set " + inTable + " to_host; nft add chain " + inTable + " another",
		"map that jumps":      `nft add element ` + inTable + ` forward '{ ipv4 . "a" . "b" : jump outbound }'`,
		"map that accepts":    `nft add element ` + inTable + ` forward '{ ipv4 . "a" . "b" : accept }'`,
		"map's other family":  `nft add element ` + inTable + ` forward '{ 7 . "a" . "b" : goto outbound }'`,
		"map's else":          `nft add element ` + inTable + ` marks '{ * : 7 }'`,
		"range":               `nft add element ` + inTable + ` nets '{ 10.9.0.1-10.9.0.7 }'`,
		"range of two":        `nft add element ` + inTable + ` allowed '{ "ul-1" . 10.9.0.1-10.9.0.7 }'`,
	}
	each(t, func(w world) {
		want := everyElement()
		for what, damage := range damages {
			w.reach(want)
			w.must(want)
			w.sh(damage)
			if have := w.observe(); !have.Has(policy.Table{}) || have.Has(policy.Table{Sound: true}) {
				w.Errorf("%s: not seen", what)
			}
			w.reach(want)
			if diff := difference(w.observe(), want); diff != "" {
				w.Errorf("%s: healed to\n%s", what, diff)
			}
		}
	}, "nftables")
}

// TestForeignElement of a shape that is ours is an element too much, or another.
func TestForeignElement(t *testing.T) {
	each(t, func(w world) {
		want := everyElement()
		w.reach(want)
		w.sh(`nft add element ` + inTable + ` forward '{ ipv4 . "a" . "b" : goto from_lane }'
			nft add element ` + inTable + ` lanes '{ "a" }'
			nft add element ` + inTable + ` marks '{ "a" : 7 }'
			nft delete element ` + inTable + ` marks '{ "x" }'; nft add element ` + inTable + ` marks '{ "x" : 8 }'
			nft add element ` + inTable + ` nets '{ 192.0.2.0/24 }'
			nft add element ` + inTable + ` allowed '{ "a" . 192.0.2.0/24 comment "mine" }'
			nft delete element ` + inTable + ` nets '{ 0.0.0.0/8 }'`)
		have := w.observe()
		for _, o := range []policy.Object{
			policy.Table{Sound: true},
			policy.Element{Set: policy.Forward, Family: policy.IPv4, In: "a", Out: "b", Chain: policy.HostChain},
			policy.Element{Set: policy.LaneLinks, In: "a"},
			policy.Element{Set: policy.Marks, In: "a", Mark: 7},
			policy.Element{Set: policy.Marks, In: "x", Mark: 8},
			policy.Element{Set: policy.Nets, Net: prefix("192.0.2.0/24")},
			policy.Element{Set: policy.Allowed, In: "a", Net: prefix("192.0.2.0/24")},
		} {
			if !have.Has(o) {
				w.Errorf("lacks %v", o)
			}
		}
		w.reach(want)
		w.must(want)
	}, "nftables")
}

// TestOneTransaction: nobody can see half of a change, nor of one that the kernel refuses.
func TestOneTransaction(t *testing.T) {
	each(t, func(w world) {
		want := everyElement()
		before, _ := generation()
		w.reach(want)
		w.sh("nft add rule " + inTable + " forward accept") // one
		w.reach(want)
		w.reach(table(1))
		if after, _ := generation(); after != before+4 {
			w.Errorf("%d transactions, want 4", after-before)
		}
		w.must(table(1))

		good := policy.Op{Verb: policy.Add, Object: policy.Element{Set: policy.LaneLinks, In: "good"}}
		anew := policy.Op{Verb: policy.Replace, Object: policy.Table{Sound: true}, Have: policy.Table{}}
		for what, bad := range map[string]policy.Op{
			"no such chain":    {Verb: policy.Add, Object: policy.Element{Set: policy.Forward, Family: policy.IPv4, In: "a", Out: "b", Chain: "none"}},
			"not there":        {Verb: policy.Remove, Object: policy.Element{Set: policy.LaneLinks, In: "none"}},
			"has another mark": {Verb: policy.Add, Object: policy.Element{Set: policy.Marks, In: "ul-1", Mark: 9}},
			"overlaps":         {Verb: policy.Add, Object: policy.Element{Set: policy.Nets, Net: prefix("10.0.1.0/25")}},
			"long name":        {Verb: policy.Add, Object: policy.Element{Set: policy.LaneLinks, In: "sixteen-letters-"}},
			"no family":        {Verb: policy.Add, Object: policy.Element{Set: policy.Masquerade, In: "a", Out: "b"}},
			"no network":       {Verb: policy.Add, Object: policy.Element{Set: policy.Nets}},
			"no such set":      {Verb: policy.Add, Object: policy.Chain{Table: "filter", Name: "UPLANE-X"}},
		} {
			if err := w.Apply([]policy.Op{good, bad}, nil); err == nil {
				w.Errorf("%s: no error", what)
			}
			w.must(table(1))
			if what == "no such chain" {
				if err := w.Apply([]policy.Op{anew, good, bad}, nil); err == nil {
					w.Errorf("%s, in a new table: no error", what)
				}
				w.must(table(1))
			}
		}
		// Another program was faster with the same.
		w.sh("nft add element " + inTable + " lanes '{ \"good\" }'")
		w.apply([]policy.Op{good}, nil)
		w.must(both(table(1), state(good.Object)))
		if err := w.Apply(policy.Diff(nil, table(0)), nil); err == nil {
			w.Error("a second table: no error")
		}
		w.must(both(table(1), state(good.Object)))
	}, "nftables")
}

// TestOwnChangeIsKnown: after Apply nothing is read again, unless somebody else wrote as well.
func TestOwnChangeIsKnown(t *testing.T) {
	each(t, func(w world) {
		known := func() bool {
			now, err := generation()
			return err == nil && now == w.ours.generation
		}
		w.reach(table(2))
		for _, want := range []policy.State{everyElement(), table(1), nil, table(3)} {
			w.reach(want)
			if !known() {
				w.Errorf("%d objects: reads again", len(want))
			}
			w.must(want)
		}
		ops := policy.Diff(w.observe(), table(1))
		w.sh("nft add element " + inTable + " lanes '{ x }'")
		w.apply(ops, table(1))
		if known() {
			w.Error("does not look for another program's change")
		}
		w.must(both(table(1), state(policy.Element{Set: policy.LaneLinks, In: "x"})))
	}, "nftables")
}

// TestLargeTransaction: one of ten thousand elements, and all of them again with a new table.
func TestLargeTransaction(t *testing.T) {
	each(t, func(w world) {
		want := table(2000)
		w.reach(want)
		w.must(want)
		w.sh("nft add rule " + inTable + " forward accept")
		w.reach(want)
		w.must(want)
		w.reach(table(0))
		w.must(table(0))
	}, "nftables")
}

// TestOwnedTable: another program's table of our name is not ours to change, and the error says so.
func TestOwnedTable(t *testing.T) {
	each(t, func(w world) {
		conn, err := dial()
		if err != nil {
			w.Fatal(err)
		}
		defer conn.Close() // and the table goes
		b := batch{batchMessage(unix.NFNL_MSG_BATCH_BEGIN)}
		b.add(unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Acknowledge, unix.NFPROTO_INET,
			payload{}.text(unix.NFTA_TABLE_NAME, policy.TableName).number(unix.NFTA_TABLE_FLAGS, 2)) // NFT_TABLE_F_OWNER
		if _, err := conn.SendMessages(append(b, batchMessage(unix.NFNL_MSG_BATCH_END))); err != nil {
			w.Fatal(err)
		}
		if _, err := conn.Receive(); err != nil {
			w.Fatal(err)
		}
		err = w.Apply(policy.Diff(w.observe(), table(1)), nil)
		if err == nil || !strings.Contains(err.Error(), "another program owns a table of that name") {
			w.Errorf("err = %v", err)
		}
	}, "nftables")
}

func TestKernelErrors(t *testing.T) {
	each(t, func(w world) {
		err := w.Apply([]policy.Op{{Verb: policy.Add, Object: lane(1)[0]}}, nil)
		if err == nil || !strings.Contains(err.Error(), "inet uplane: no such file") {
			w.Errorf("without a table: %v", err)
		}
	}, "nftables")
}
