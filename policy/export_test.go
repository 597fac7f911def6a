package policy

import (
	"testing"

	"pgregory.net/rapid"
)

// Moment is what there is between two operations, for tests that are not in this package as they walk packets through it.
type Moment struct {
	State    State
	Host     *Host
	Past     []Decision // since one was carried out as a whole
	Now      Decision   // that is being carried out
	Backend  Backend
	Tampered Tampering
	Blind    bool // the firewall can't be seen, or could not when lanes changed last
}

// Walks leads lanes through random worlds, with a judge after every operation, until it has had enough.
type Walks func(t *testing.T, judge func(Moment) error, enough func() bool)

// RandomWalks are those in which all goes well.
func RandomWalks(t *testing.T, judge func(Moment) error, enough func() bool) {
	check(t, judge, enough, (*walker).walk)
}

// Stumbles are those in which operations fail and others meddle.
func Stumbles(t *testing.T, judge func(Moment) error, enough func() bool) {
	check(t, judge, enough, (*walker).stumble)
}

func check(t *testing.T, judge func(Moment) error, enough func() bool, walk func(*walker)) {
	rapid.Check(t, func(t *rapid.T) {
		if !enough() {
			w := newWalker(t)
			w.judge = judge
			walk(w)
		}
	})
}

// moment is the present one.
func (w *walker) moment(d Decision) Moment {
	h := *w.host
	h.Rules = w.m.rules
	h.Sysctls = map[string]string{}
	for key := range w.m.switches {
		h.Sysctls[key], _ = w.m.value(key)
	}
	return Moment{w.m.state(), &h, w.past, d, w.firewall, w.tampered, w.blind || w.problems != nil}
}

// Flushed is the moment after "nft flush ruleset" on a host with one lane that is up.
func Flushed(_ *testing.T, judge func(Moment) error, _ func() bool) {
	w := newWorld(lane("steam", "wlp6s0"))
	d := w.settle()
	state := newState()
	for o := range d.Want.All() {
		if part(o) != TamperedFirewall {
			state.Add("", o)
		}
	}
	_ = judge(Moment{State: state, Host: w.host, Past: []Decision{d}, Now: d, Backend: Nftables, Tampered: TamperedFirewall})
}
