package policy

import (
	"net/netip"
	"testing"
	"time"
)

// TestAnswersStay gives a card another address: the old one may come back before anybody knows.
func TestAnswersStay(t *testing.T) {
	answers := func(want State, addr string) (out []Rule) {
		for o := range want {
			if r, ok := o.(Rule); ok && r.From == pfx(addr) && r.Priority == answersPriority+1 {
				out = append(out, r)
			}
		}
		return out
	}
	another := func(w *world) Decision {
		w.uplinks[0].Addresses = []netip.Prefix{pfx("192.168.50.78/24")}
		w.host = hostOf(w.uplinks...)
		return w.settle()
	}
	begin := func() *world {
		w := newWorld(lane("steam", "wlp6s0"))
		w.settle()
		return w
	}

	w := begin()
	d := another(w)
	for _, addr := range []string{"192.168.50.4/32", "192.168.50.78/32"} {
		if got := answers(d.Want.All(), addr); len(got) != 1 || got[0].Table != 100 {
			t.Errorf("from %s: %v", addr, got)
		}
	}
	if d.Again <= 0 || d.Again > answersKept {
		t.Errorf("the next look is after %v", d.Again)
	}
	w.now = w.now.Add(answersKept - time.Second)
	if d = w.settle(); len(answers(d.Want.All(), "192.168.50.4/32")) != 1 {
		t.Error("gone too early")
	}
	w.now = w.now.Add(time.Second)
	if d = w.settle(); len(answers(d.Want.All(), "192.168.50.4/32")) != 0 || d.Again != 0 {
		t.Errorf("it stays; the next look is after %v", d.Again)
	}

	// A daemon that starts begins anew.
	w = begin()
	another(w)
	w.memory.Answered = nil
	if d = w.settle(); len(answers(d.Want.All(), "192.168.50.4/32")) != 1 {
		t.Error("gone with the daemon")
	}

	// Another card has it now.
	w = begin()
	another(w)
	link := w.host.Links["enp7s0"]
	link.Addrs = append(link.Addrs, pfx("192.168.50.4/24"))
	w.host.Links["enp7s0"] = link
	if d = w.settle(); len(answers(d.Want.All(), "192.168.50.4/32")) != 0 {
		t.Error("another card's address is led to this one")
	}

	// The last lane goes.
	w = begin()
	another(w)
	w.lanes = nil
	w.settle()
	w.host.Tracked = map[netip.Prefix]bool{}
	w.now = w.now.Add(time.Minute)
	if d = w.settle(); len(answers(d.Want.All(), "192.168.50.4/32")) != 0 {
		t.Errorf("left:\n%s", d.Want)
	}
}
