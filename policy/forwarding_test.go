package policy

import (
	"strings"
	"testing"
)

// switches returns those that a decision wants, by key less net/ipv4/conf/.
func switches(s State) map[string]string {
	out := map[string]string{}
	for o := range s {
		if y, ok := o.(Sysctl); ok {
			out[strings.TrimPrefix(y.Key, "net/ipv4/conf/")] = y.Value
		}
	}
	return out
}

func TestForwarding(t *testing.T) {
	w := newWorld(lane("steam", "wlp6s0"))
	d := w.settle()
	got := switches(d.Want.All())
	for key, want := range map[string]string{
		"ul-steam/forwarding": "1", "ul-steam/rp_filter": "1", "wlp6s0/forwarding": "1", "wlp6s0/src_valid_mark": "1", "enp7s0/forwarding": "",
		"net/ipv6/conf/ul-steam/disable_ipv6": "1",
	} {
		if got[key] != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
	if !d.Want.Has(Element{Set: Closed, In: "wlp6s0"}) || d.Want.Has(Element{Set: Closed, In: "ul-steam"}) {
		t.Errorf("closed cards:\n%s", d.Want)
	}
	w.lanes = nil
	d = w.settle()
	if got := switches(d.Want.All()); got["wlp6s0/forwarding"] != "0" || got["wlp6s0/src_valid_mark"] != "0" {
		t.Errorf("after it: %v", got)
	}
	w.settle()
	if len(w.memory.Sysctls) > 0 {
		t.Errorf("remembered: %v", w.memory.Sysctls)
	}
}

// Docker makes the host a router while a lane is up: it stays one (C32), and no card is closed any more.
func TestForwardingOfOthers(t *testing.T) {
	w := newWorld(lane("steam", "wlp6s0"))
	w.settle()
	w.host.Forwards = true
	w.host.Sysctls["net/ipv4/conf/wlp6s0/forwarding"] = "1"
	if d := w.settle(); d.Want.Has(Element{Set: Closed, In: "wlp6s0"}) {
		t.Error("the card is still closed")
	}
	w.lanes = nil
	d := w.decide()
	if _, set := switches(d.Want.All())["wlp6s0/forwarding"]; set {
		t.Errorf("it is set back:\n%s", shell(d.Ops))
	}
}

// A switch that others have changed since stays as it is, and one that the kernel does not have is not wanted (C31).
func TestSwitchesOfOthers(t *testing.T) {
	w := newWorld(lane("steam", "wlp6s0"))
	w.settle()
	w.host.Sysctls["net/ipv4/conf/wlp6s0/src_valid_mark"] = "0"
	w.lanes = nil
	d := w.decide()
	if got := switches(d.Want.All()); got["wlp6s0/forwarding"] != "0" || got["wlp6s0/src_valid_mark"] != "" {
		t.Errorf("%v", got)
	}

	w = newWorld(lane("steam", "wlp6s0"))
	w.value = func(key string) (string, bool) { return "0", !strings.HasPrefix(key, "net/ipv6/conf/ul-steam/") }
	w.settle()
	delete(w.host.Sysctls, "net/ipv6/conf/ul-steam/disable_ipv6")
	for range 2 {
		if d := w.settle(); len(d.Ops) > 1 || switches(d.Want.All())["net/ipv6/conf/ul-steam/disable_ipv6"] != "" && len(d.Ops) > 0 {
			t.Errorf("\n%s", shell(d.Ops))
		}
	}
}

// What others set a switch to while a lane is up is theirs again when it goes (C32).
func TestSwitchSetMeanwhile(t *testing.T) {
	w := newWorld(lane("steam", "wlp6s0"))
	w.settle()
	key := ipv4Conf("wlp6s0", "src_valid_mark")
	if got := w.memory.Sysctls[key]; got != "0" {
		t.Fatalf("it was %q before the lane", got)
	}
	w.host.Sysctls[key] = "2"
	delete(w.have, Sysctl{key, "1"})
	if d := w.decide(); !strings.Contains(shell(d.Ops), key+"=1") || d.Memory.Sysctls[key] != "2" {
		t.Errorf("it is remembered as %q, and to do is\n%s", d.Memory.Sysctls[key], shell(d.Ops))
	}
}
