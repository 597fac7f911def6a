package policy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func has(st LaneStatus, reason string) bool {
	return slices.ContainsFunc(st.Conditions, func(c Condition) bool { return c.Reason == reason })
}

// A lane that goes leaves a floor for what is still under way, until its connections are gone. Its neighbour
// leaves by the same card meanwhile.
func TestDrain(t *testing.T) {
	w := newWorld(lane("steam", "wlp6s0"), lane("work", "wlp6s0"))
	w.settle()
	gone := w.memory.Lanes["steam"].Subnet
	w.lanes = w.lanes[1:]
	for range 2 { // as long as nobody knows, and as long as they live
		d := w.settle()
		if _, ok := d.Memory.Draining[gone]; !ok || d.Again != time.Second || !d.Want.Has(Element{Set: Nets, Net: gone}) ||
			!d.Want.Has(Route{Table: LanesTable, Dst: gone, Metric: FloorMetric, Type: Blackhole}) {
			t.Fatalf("%v, again in %v\n%s", d.Memory.Draining, d.Again, d.Want)
		}
		w.host.Tracked = map[netip.Prefix]bool{gone: true}
	}
	w.host.Tracked[gone] = false
	d := w.settle()
	if len(d.Memory.Draining) > 0 || d.Want.Has(Element{Set: Nets, Net: gone}) || d.Ops[0].String() != "conntrack -D -s "+gone.String()+" 2>/dev/null || :" {
		t.Errorf("%v\n%s", d.Memory.Draining, shell(d.Ops))
	}
	// A lane that gets the subnet again takes it over.
	w.lanes = nil
	w.settle()
	w.lanes = []Lane{with(lane("back", "wlp6s0"), func(l *Lane) { l.Subnet = w.memory.Lanes["work"].Subnet })}
	if d := w.decide(); len(d.Memory.Draining) > 0 {
		t.Errorf("beside the lane that has it %v drains", d.Memory.Draining)
	}
}

// What the host answers from an uplink's address leaves by that: to neighbours as the host would, else by a lane's table,
// and nowhere while the lanes by it wait. The host's own default card needs no rule then, unless it is being taken down:
// when it is activated anew, another card is the default for a moment, in which the address is back.
func TestAnswers(t *testing.T) {
	own := pfx("192.168.50.4/32")
	front := Rule{Family: IPv4, From: own, Action: Goto, Goto: answersPriority}
	near := Rule{Priority: answersPriority, Family: IPv4, From: own, Table: MainTable, AtLeast: networkBits}
	far := Rule{Priority: answersPriority + 1, Family: IPv4, From: own, Table: 100}
	closed := Rule{Priority: answersPriority + 1, Family: IPv4, From: own, Action: UnreachableRule}
	w := newWorld(lane("steam", "wlp6s0"))
	if s, _ := w.build(); !s.Has(front) || !s.Has(near) || !s.Has(far) || s.Has(closed) {
		t.Errorf("up:\n%s", s)
	}
	w.uplinks[0].Phase = PhaseDown
	if s, _ := w.build(); !s.Has(front) || !s.Has(near) || s.Has(far) || !s.Has(closed) {
		t.Errorf("waiting:\n%s", s)
	}
	w.host.Routes = slices.DeleteFunc(w.host.Routes, func(r HostRoute) bool { return r.Dev == "enp7s0" })
	if s, _ := w.build(); !s.Has(front) || !s.Has(closed) {
		t.Errorf("the host's only way, whose default goes next:\n%s", s)
	}
	w.uplinks[0].Phase = PhaseActive
	w.lanes = nil
	if s, _ := w.build(); s.Has(front) {
		t.Errorf("the host's only way, without a lane:\n%s", s)
	}
}

// Names are never asked of the host or of a lane (C4), and the lane says which server it left out.
func TestServersLeftOut(t *testing.T) {
	for server, out := range map[string]bool{
		"10.0.1.1": true, "10.0.1.77": true, "192.168.1.10": true, "192.168.50.255": true, "192.168.50.0": true, "255.255.255.255": true,
		"0.0.0.0": true, "224.0.0.251": true, "192.168.50.1": false, "9.9.9.9": false,
	} {
		w := newWorld(lane("steam", "wlp6s0"))
		w.uplinks[0].DNS = []netip.Addr{ipa(server)}
		if st := w.status(t); has(st, "ServerLeftOut") != out || (len(st.DNS) == 0) != out {
			t.Errorf("%s: %v, %v", server, st.DNS, st.Conditions)
		}
	}
}

// What keeps a lane closed is healed each time (C5); only a door waits that somebody keeps moving.
func TestFights(t *testing.T) {
	w := newWorld(lane("steam", "wlp6s0"))
	w.host.Drops = map[string]bool{IPTables: true}
	w.settle()
	w.decide()
	door, rule := Door{IPTables, true}, Rule{Priority: 40000, Family: IPv4, From: pfx("10.0.1.0/24"), Mark: Witness, Mask: Witness, Table: 100}
	for i := range 20 {
		delete(w.have, door)
		delete(w.have, rule)
		w.now = w.now.Add(100 * time.Millisecond)
		d := w.decide()
		verbs := map[Object]Verb{}
		for _, op := range d.Ops {
			verbs[op.Object] = op.Verb
		}
		_, healed := verbs[rule]
		_, opened := verbs[door]
		if !healed || opened != (i < quietHeals) {
			t.Fatalf("round %d: the rule %t, the door %t", i, healed, opened)
		}
		if waits := d.Again > 0; waits == opened {
			t.Errorf("round %d: again in %v", i, d.Again)
		}
	}
	if st := w.status(t); !has(st, "Undone") || st.State != Degraded {
		t.Errorf("%s, %v", st.State, st.Conditions)
	}
	w.now = w.now.Add(peaceAfter + time.Second)
	if st := w.status(t); has(st, "Undone") {
		t.Errorf("after a while: %v", st.Conditions)
	}
}

// A firewall that can't be read is a condition of its own: routes, rules and DNS follow (C21).
func TestFirewallUnreadable(t *testing.T) {
	w := newWorld(lane("steam", "wlp6s0"))
	w.settle()
	w.problems = map[Edge]string{EdgeFirewall: "iptables-save: exit status 3"}
	maps.DeleteFunc(w.have, func(o Object, _ string) bool { return part(o) == TamperedFirewall })
	w.uplinks[0].Routes[0].Via, w.uplinks[0].DNS = ipa("192.168.50.254"), []netip.Addr{ipa("192.168.50.254")}
	d := w.decide()
	lines := shell(d.Ops)
	if !strings.Contains(lines, "ip route replace default via 192.168.50.254 dev wlp6s0 table 100") || !strings.Contains(lines, "nameserver 192.168.50.254") || strings.Contains(lines, "nft") {
		t.Error(lines)
	}
	if st := d.Lanes[0]; st.State != Degraded || !has(st, "Unreadable") || !strings.Contains(st.Reason, "exit status 3") {
		t.Errorf("%s, %s", st.State, st.Reason)
	}
	// A lane that is not there yet is not connected, and no card begins to forward.
	w.lanes = append(w.lanes, lane("work", "enp7s0"))
	d = w.decide()
	if lines := shell(d.Ops); strings.Contains(lines, "type veth") || strings.Contains(lines, "enp7s0/forwarding") || d.Lanes[1].State != Error {
		t.Errorf("%s\n%s", d.Lanes[1].State, lines)
	}
}

// An administrator's file stays (C29); ours that somebody overwrote is put right (C30).
func TestFilesOfOthers(t *testing.T) {
	path := ResolvConfPath("steam")
	theirs := map[string]string{path: "nameserver 192.0.2.1\n"}
	w := newWorld(lane("steam", "wlp6s0"))
	w.host.Files = theirs
	for range 3 {
		d := w.settle()
		if st := d.Lanes[0]; st.State != Error || !has(st, "FileNotOurs") || strings.Contains(d.Want.String(), "> "+path) {
			t.Fatalf("%s\n%s", st.State, d.Want)
		}
	}
	w.lanes = nil
	if lines := shell(w.decide().Ops); strings.Contains(lines, path) {
		t.Errorf("removed:\n%s", lines)
	}

	w = newWorld(lane("steam", "wlp6s0"))
	w.settle()
	w.settle()
	maps.DeleteFunc(w.have, func(o Object, _ string) bool { f, ok := o.(File); return ok && f.Path == path })
	w.host.Files = theirs
	if d := w.decide(); d.Lanes[0].State != Up || !strings.Contains(shell(d.Ops), "> "+path) {
		t.Errorf("%s\n%s", d.Lanes[0].State, shell(d.Ops))
	}
}

// Who holds a thing keeps it, whatever another asks for and whatever the alphabet says (C41).
func TestHolderKeeps(t *testing.T) {
	w := newWorld(lane("steam", "wlp6s0"))
	w.settle()
	w.lanes = append(w.lanes, with(lane("bad3", "wlp6s0"), func(l *Lane) { l.Subnet, l.Table = pfx("10.0.1.0/24"), 100 }))
	for range 3 {
		d := w.settle()
		bad, steam := d.Lanes[0], d.Lanes[1]
		if steam.State != Up || steam.Alloc.Table != 100 || bad.State != Error || !strings.Contains(bad.Reason, "table 100 is in use by lane steam") {
			t.Fatalf("steam %s, bad3 %s: %s", steam.State, bad.State, bad.Reason)
		}
	}
}
