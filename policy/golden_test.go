package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each golden file is a scene: the lane files and uplinks as comments, and the
// lines that Diff comes to. UPDATE_GOLDEN=1 writes them anew; read what changed.
func TestGolden(t *testing.T) {
	recipe := lane("steam", "wlp6s0")
	recipe.Mark, recipe.Bridge, recipe.Table, recipe.Subnet = 100, "br0", 100, pfx("10.0.1.0/24")
	plain := lane("steam", "type:wifi")
	noBridge := plain
	noBridge.NoBridge = true
	allow := plain
	allow.Allow = []netip.Prefix{pfx("192.168.1.0/24")}
	moved := plain
	moved.Subnet = pfx("10.9.0.0/24")
	other := lane("work", "enp7s0")
	other.DNS = []netip.Addr{ipa("9.9.9.9")}
	either := lane("steam", "type:wifi", "type:ethernet")

	for _, scene := range []struct {
		name, about string
		lanes       []Lane
		then        func(*world) // what changes once the lanes are up; nil: they come up
	}{
		{"recipe", "the hand recipe, with our own table", []Lane{recipe}, nil},
		{"recipe-iptables", "the hand recipe, object for object", []Lane{recipe}, nil},
		{"plain", "a lane with nothing but an uplink", []Lane{plain}, nil},
		{"no-bridge", "the address goes on the veth's host end", []Lane{noBridge}, nil},
		{"allow", "a network beside the uplink", []Lane{allow}, nil},
		{"two-lanes", "a lane for each uplink", []Lane{plain, other}, nil},
		{"point-to-point", "an uplink without a subnet: the gateway is on-link", []Lane{plain}, func(w *world) {
			w.uplinks[0].Addresses = []netip.Prefix{pfx("192.168.50.4/32")}
			w.uplinks[0].Routes = []UplinkRoute{{Dst: default4, Via: ipa("192.168.50.1")}}
		}},
		{"siblings", "both cards in one subnet: only the uplink answers ARP for itself", []Lane{plain}, func(w *world) {
			w.uplinks[1].Addresses = []netip.Prefix{pfx("192.168.50.10/24")}
			w.uplinks[1].Routes = []UplinkRoute{{Dst: default4, Via: ipa("192.168.50.1"), Metric: 100}}
			w.rehost()
		}},
		{"waiting", "the Wi-Fi goes away, and with it what leads there; the floor stays", []Lane{plain}, func(w *world) {
			w.uplinks[0].Phase = PhaseDown
		}},
		{"gateway", "DHCP brings another gateway", []Lane{plain}, func(w *world) {
			w.uplinks[0].Routes[0].Via = ipa("192.168.50.254")
		}},
		{"address", "DHCP brings another network", []Lane{plain}, func(w *world) {
			w.uplinks[0].Addresses = []netip.Prefix{pfx("172.20.0.9/16")}
			w.uplinks[0].Routes = []UplinkRoute{{Dst: default4, Via: ipa("172.20.0.1"), Metric: 600}}
			w.rehost()
		}},
		{"switch", "the Wi-Fi goes away and the lane may leave by the wired card", []Lane{either}, func(w *world) {
			w.uplinks[0].Phase = PhaseDown
		}},
		{"renumber", "a hotel's network takes the lane's subnet", []Lane{plain}, func(w *world) {
			w.uplinks[0].Addresses = []netip.Prefix{pfx("10.0.0.77/16")}
			w.uplinks[0].Routes = []UplinkRoute{{Dst: default4, Via: ipa("10.0.0.1"), Metric: 600}}
			w.rehost()
		}},
		{"bridge", "the lane file now names the bridge", []Lane{plain}, func(w *world) {
			w.lanes[0].Bridge = "br0"
		}},
		{"subnet", "the lane file now names the subnet", []Lane{plain}, func(w *world) {
			w.lanes = []Lane{moved}
		}},
		{"firewall-flushed", "somebody ran nft flush ruleset", []Lane{plain}, func(w *world) {
			w.meddle = func(s State) {
				maps.DeleteFunc(s, func(o Object, _ string) bool { return part(o) == TamperedFirewall })
			}
		}},
		{"firewall-flushed-iptables", "somebody ran iptables -F, and -t nat -F", []Lane{plain}, func(w *world) {
			w.meddle = func(s State) {
				for o := range s {
					switch o := o.(type) {
					case Chain:
						delete(s, o)
						s.Add("", Chain{Table: o.Table, Name: o.Name, Hook: o.Hook})
					case ChainRule:
						delete(s, o)
					}
				}
			}
		}},
		{"door", "Docker starts, and its FORWARD chain drops what it does not know", []Lane{plain}, func(w *world) {
			w.host.Drops = map[string]bool{IPTables: true}
			w.host.Forwards = true
		}},
		{"mtu", "the uplink's MTU is smaller now", []Lane{plain}, func(w *world) {
			l := w.host.Links["wlp6s0"]
			l.MTU = 1420
			w.host.Links["wlp6s0"] = l
		}},
		{"links-down", "somebody set every link down, which takes their routes", []Lane{plain}, func(w *world) {
			w.meddle = func(s State) {
				for o := range s {
					delete(s, o)
					switch x := o.(type) {
					case Netns:
						x.Up = false
						o = x
					case Bridge:
						x.Up = false
						o = x
					case Veth:
						x.Up, x.InnerUp = false, false
						o = x
					case Route:
						if x.Dev == "ul-steam" || x.Dev == InnerLink {
							continue
						}
					}
					s.Add("steam", o)
				}
			}
		}},
		{"netns-deleted", "somebody ran ip netns del; programs still hold the namespace", []Lane{plain}, func(w *world) {
			w.meddle = func(s State) {
				for o := range s {
					switch x := o.(type) {
					case Netns:
						delete(s, o)
					case Veth:
						delete(s, o)
						x.Netns, x.Inner, x.InnerUp = "", "", false
						s.Add("steam", x)
					case Addr, Route:
						if inNetns(o) != "" {
							delete(s, o)
						}
					}
				}
			}
		}},
		{"one-of-two-down", "one of two lanes goes", []Lane{plain, other}, func(w *world) {
			w.lanes = w.lanes[1:]
		}},
		{"down", "the lane goes; saved switches come back", []Lane{recipe}, func(w *world) {
			w.lanes = nil
		}},
		{"down-iptables", "the lane goes; saved switches come back", []Lane{recipe}, func(w *world) {
			w.lanes = nil
		}},
		{"drained", "the last connection of a lane that has gone is over", []Lane{plain}, func(w *world) {
			w.lanes = nil
			w.settle()
			w.host.Tracked = map[netip.Prefix]bool{pfx("10.0.1.0/24"): false}
		}},
	} {
		t.Run(scene.name, func(t *testing.T) {
			w := newWorld(scene.lanes...)
			if strings.HasSuffix(scene.name, "-iptables") {
				w.firewall = IPTablesChains
			}
			if scene.then != nil {
				w.settle()
				scene.then(w)
			}
			if w.meddle != nil {
				w.meddle(w.have)
			}
			d := w.decide()
			golden(t, scene.name, w.header(scene.about, d.Lanes)+shell(d.Ops))
		})
	}
}

// header tells what decides over the lines, as comments.
func (w *world) header(about string, statuses []LaneStatus) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n#\n", about)
	if w.firewall != Nftables {
		fmt.Fprintf(&b, "# firewall = %s\n", w.firewall)
	}
	for _, st := range statuses {
		l := st.Lane
		fmt.Fprintf(&b, "# [lane %s] uplink = %q", l.Name, l.Uplink)
		for _, kv := range []struct {
			key   string
			value any
			set   bool
		}{
			{"subnet", l.Subnet, l.Subnet.IsValid()}, {"table", l.Table, l.Table != 0}, {"mark", l.Mark, l.Mark != 0},
			{"bridge", l.Bridge, l.Bridge != ""}, {"bridge", false, l.NoBridge},
			{"dns", l.DNS, len(l.DNS) > 0}, {"allow", l.Allow, len(l.Allow) > 0},
		} {
			if kv.set {
				fmt.Fprintf(&b, ", %s = %v", kv.key, kv.value)
			}
		}
		fmt.Fprintf(&b, "\n#   is %s", st.State)
		if st.Reason != "" {
			fmt.Fprintf(&b, " (%s)", st.Reason)
		}
		if st.Uplink != nil {
			fmt.Fprintf(&b, " by %s", st.Uplink.Interface)
		}
		fmt.Fprintf(&b, ": %v, table %d\n", st.Alloc.Subnet, st.Alloc.Table)
	}
	for i := range w.uplinks {
		u := &w.uplinks[i]
		gw, _ := u.Gateway()
		fmt.Fprintf(&b, "# [uplink %s] %v via %v, dns %v", u.Interface, u.Addresses, gw, u.DNS)
		if u.Phase == PhaseDown {
			b.WriteString(", not connected")
		}
		b.WriteByte('\n')
	}
	return b.String() + "\n"
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (UPDATE_GOLDEN=1 writes it anew):\n%s", path, got)
	}
}
