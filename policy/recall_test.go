package policy

import (
	"cmp"
	"testing"
)

// TestRecall has a daemon lose its memory: what the host was before lanes is read off the firewall.
func TestRecall(t *testing.T) {
	for _, backend := range []Backend{Nftables, IPTablesChains} {
		w := newWorld(lane("steam", "wlp6s0"))
		w.firewall = backend
		w.value = func(key string) (string, bool) { return cmp.Or(w.host.Sysctls[key], "0"), true }
		w.settle()
		key := ipv4Conf("wlp6s0", "forwarding")
		if w.host.Sysctls[key] != "1" || w.memory.Sysctls[key] != "0" {
			t.Fatalf("%s: %q, remembered %q", backend, w.host.Sysctls[key], w.memory.Sysctls[key])
		}
		w.memory = Memory{}
		if d := w.settle(); len(d.Ops) > 0 {
			t.Errorf("%s: forgotten, the card is opened:\n%s", backend, shell(d.Ops))
		}
		w.lanes = nil
		if w.settle(); w.host.Sysctls[key] != "0" {
			t.Errorf("%s: the card still forwards", backend)
		}

		// A router of its own, since or before, is none of ours.
		w.lanes = []Lane{lane("steam", "wlp6s0")}
		w.settle()
		w.memory, w.host.Forwards = Memory{}, true
		w.settle()
		w.lanes = nil
		if w.settle(); w.host.Sysctls[key] != "1" {
			t.Errorf("%s: a router's card does not forward any more", backend)
		}
	}
}
