package policy

import (
	"maps"
	"net/netip"
	"strings"
	"testing"
)

// profiled is a lane by a profile of the bridge ul-steam, whose profile says address.
func profiled(address string) Lane {
	l := lane("steam", "wlp6s0")
	l.External, l.Bridge = true, "ul-steam"
	if address != "" {
		l.Subnet, l.Gateway = pfx(address).Masked(), pfx(address).Addr()
	}
	return l
}

// bridged puts the lane's bridge on the host, with addresses and NetworkManager's routes to them.
func bridged(h *Host, addresses ...string) {
	link := HostLink{Index: 9, MTU: 1500, Running: true, Bridge: true}
	for _, a := range addresses {
		link.Addrs = append(link.Addrs, pfx(a))
		h.Routes = append(h.Routes, HostRoute{Table: MainTable, Dst: pfx(a).Masked(), Dev: "ul-steam", Metric: 425, Protocol: ProtoKernel})
	}
	h.Links["ul-steam"] = link
}

func TestExternalAddress(t *testing.T) {
	for name, c := range map[string]struct {
		profile string
		bridge  []string
		subnet  string // or what is wrong
		gateway string
		inner   string
		state   LaneState
	}{
		"as it is":                    {"10.0.1.1/24", []string{"10.0.1.1/24"}, "10.0.1.0/24", "10.0.1.1", "10.0.1.2/24", Up},
		"what it has counts":          {"10.0.9.1/24", []string{"10.0.1.1/24"}, "10.0.1.0/24", "10.0.1.1", "10.0.1.2/24", Up},
		"the first":                   {"10.0.1.1/24", []string{"10.0.2.1/24", "10.0.1.1/24"}, "10.0.2.0/24", "10.0.2.1", "10.0.2.2/24", Up},
		"IPv6 is not asked":           {"10.0.1.1/24", []string{"fe80::1/64", "10.0.1.1/24"}, "10.0.1.0/24", "10.0.1.1", "10.0.1.2/24", Up},
		"it has none yet":             {"10.0.1.1/24", nil, "10.0.1.0/24", "10.0.1.1", "10.0.1.2/24", Degraded},
		"any host's":                  {"", []string{"10.0.1.77/24"}, "10.0.1.0/24", "10.0.1.77", "10.0.1.78/24", Up},
		"the last":                    {"", []string{"10.0.1.254/24"}, "10.0.1.0/24", "10.0.1.254", "10.0.1.1/24", Up},
		"of two":                      {"", []string{"10.0.1.2/30"}, "10.0.1.0/30", "10.0.1.2", "10.0.1.1/30", Up},
		"no address at all":           {"", nil, "bridge ul-steam has no IPv4 address: use nmcli connection modify", "", "", Error},
		"the network's own":           {"", []string{"10.0.1.0/24"}, "which is no host's address", "", "", Error},
		"broadcast":                   {"", []string{"10.0.1.255/24"}, "which is no host's address", "", "", Error},
		"too small":                   {"", []string{"10.0.1.1/31"}, "the prefix length must be", "", "", Error},
		"link-local":                  {"", []string{"169.254.1.1/16"}, "not unicast space", "", "", Error},
		"the uplink's network":        {"", []string{"192.168.50.77/24"}, "overlaps with 192.168.50.0/24, which the host uses: give bridge ul-steam another address", "", "", Error},
		"part of the uplink's":        {"", []string{"192.168.50.77/28"}, "overlaps with 192.168.50.0/24", "", "", Error},
		"another's network in it":     {"", []string{"192.168.0.1/16"}, "overlaps with 192.168.", "", "", Error},
		"another one than its routes": {"10.0.1.1/24", []string{"10.0.1.1/25"}, "10.0.1.0/25", "10.0.1.1", "10.0.1.2/25", Up},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(profiled(c.profile))
			bridged(w.host, c.bridge...)
			s, st := w.build()
			if st[0].State != c.state {
				t.Fatalf("%s (%s)", st[0].State, st[0].Reason)
			}
			for o := range s {
				switch o := o.(type) {
				case Bridge:
					t.Errorf("%v is to be ours", o)
				case Addr:
					if o.Netns == "" || o.Prefix != pfx(c.inner) {
						t.Errorf("address %v", o)
					}
				case Veth:
					if o.Bridge != "ul-steam" || c.state == Error {
						t.Errorf("%v", o)
					}
				}
			}
			if c.state == Error {
				if !strings.Contains(st[0].Reason, c.subnet) {
					t.Error(st[0].Reason)
				}
				return
			}
			a := st[0].Alloc
			if a.Subnet != pfx(c.subnet) || a.Bridge != "ul-steam" || a.Veth != "ulv-steam" ||
				!s.Has(Route{Netns: "steam", Table: MainTable, Dst: default4, Via: ipa(c.gateway), Dev: InnerLink}) {
				t.Errorf("%v\n%s", a, s)
			}
			if c.state == Degraded && !strings.Contains(st[0].Reason, "bridge ul-steam does not have its address 10.0.1.1/24: nmcli device reapply ul-steam") {
				t.Error(st[0].Reason)
			}
		})
	}
}

// Without its bridge, and as long as something holds it, a lane keeps its namespace and no more.
func TestExternalWaits(t *testing.T) {
	bare := State{}
	bare.Add("steam", Netns{"steam", true}, resolvConf("steam", nil, nil), nsswitch("steam", ""))
	for name, c := range map[string]struct {
		change func(*world)
		reason string
	}{
		"no bridge": {func(w *world) { delete(w.host.Links, "ul-steam") }, "NetworkManager has not made bridge ul-steam yet"},
		"held":      {func(w *world) { w.held = map[string]bool{"steam": true} }, "its profile steam is down in NetworkManager: nmcli connection up steam"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(profiled("10.0.1.1/24"))
			bridged(w.host, "10.0.1.1/24")
			up, _ := w.build()
			c.change(w)
			s, st := w.build()
			if st[0].State != Waiting || !strings.HasPrefix(st[0].Reason, c.reason) || !same(of("steam", s), bare) {
				t.Errorf("%s (%s)\n%s", st[0].State, st[0].Reason, s)
			}
			ops := Diff(up, s)
			if ops[0].Verb != Remove || ops[0].Object != Object(findVeth(up)) {
				t.Errorf("not the veth first:\n%s", shell(ops))
			}
		})
	}
}

// of returns what of s is a lane's alone.
func of(lane string, s State) State {
	out := maps.Clone(s)
	maps.DeleteFunc(out, func(_ Object, whose string) bool { return whose != lane })
	return out
}

func findVeth(s State) Veth {
	for o := range s {
		if v, ok := o.(Veth); ok {
			return v
		}
	}
	return Veth{}
}

// A profile's numbers are so already: others step aside, also of those that have a file.
func TestExternalFirst(t *testing.T) {
	games, alpha := lane("games", "wlp6s0"), with(lane("alpha", "wlp6s0"), func(l *Lane) { l.Subnet = pfx("10.0.1.0/24") })
	h := hostOf(wifi())
	bridged(h, "10.0.1.1/24")
	have := map[string]Allocation{"games": {pfx("10.0.1.0/24"), 100, "ul-games", "ulv-games"}}
	got, clashes := Allocate([]Lane{alpha, games, profiled("10.0.1.1/24")}, nil, have, h)
	if got["steam"].Subnet != pfx("10.0.1.0/24") || clashes["steam"] != "" || got["games"].Subnet != pfx("10.0.2.0/24") ||
		!strings.Contains(clashes["alpha"], "overlaps with 10.0.1.0/24 of another lane") {
		t.Errorf("%v %v", got, clashes)
	}
	// A profile that is down takes nothing from a lane that is up, and hides nothing of the host; what is new keeps clear of it.
	down := func(bridge, address string) Lane {
		return with(profiled(address), func(l *Lane) { l.Name, l.Bridge = "aaa", bridge })
	}
	had := map[string]Allocation{"games": {pfx("10.0.7.0/24"), 105, "ul-games", "ulv-games"}}
	for _, idle := range []Lane{down("ul-games", "10.0.7.1/24"), down("wlp6s0", ""), down("br7", "10.0.1.1/24"), down("br7", "10.0.2.1/24")} {
		hotel := with(lane("hotel", "wlp6s0"), func(l *Lane) { l.Subnet = pfx("192.168.50.0/25") })
		got, clashes = Allocate([]Lane{alpha, games, hotel, lane("new", "wlp6s0")}, []Lane{idle}, had, hostOf(wifi()))
		fresh := pfx("10.0.2.0/24")
		if idle.Subnet == fresh {
			fresh = pfx("10.0.3.0/24")
		}
		if got["games"] != had["games"] || got["alpha"].Subnet != alpha.Subnet || got["new"].Subnet != fresh || clashes["alpha"] != "" ||
			clashes["games"] != "" || !strings.Contains(clashes["hotel"], "which the host uses") {
			t.Errorf("%v: %v %v", idle, got, clashes)
		}
	}
	// One that is up, on a bridge that a profile which is down names, too.
	_, clashes = Allocate([]Lane{profiled("10.0.1.1/24")}, []Lane{with(profiled("10.0.7.1/24"), func(l *Lane) { l.Name = "aaa" })}, nil, h)
	if clashes["steam"] != "" {
		t.Error(clashes)
	}
	// Two lanes of one bridge: the later is in the wrong.
	other := profiled("")
	other.Name = "work"
	_, clashes = Allocate([]Lane{profiled(""), other}, nil, nil, h)
	if clashes["steam"] != "" || !strings.Contains(clashes["work"], "bridge ul-steam is in use by lane steam") {
		t.Error(clashes)
	}
}

// NetworkManager took the port out, and put its spanning tree in: the veth goes back as it is.
func TestExternalPort(t *testing.T) {
	w := newWorld(profiled("10.0.1.1/24"))
	bridged(w.host, "10.0.1.1/24")
	want, _ := w.build()
	veth := findVeth(want)
	for have, line := range map[Veth]string{
		with2(veth, func(v *Veth) { v.Bridge = "" }):    "ip link set dev ulv-steam alias uplane:steam mtu 1500 master ul-steam up",
		with2(veth, func(v *Veth) { v.Bridge = "br7" }): "ip link del dev ulv-steam", // where no rule drops
	} {
		s := maps.Clone(want)
		delete(s, veth)
		s.Add("steam", have)
		ops := Diff(s, want)
		if lines := strings.Split(shell(ops), "\n"); lines[0] != line || len(ops) != 1 && have.Bridge != "br7" {
			t.Errorf("from %v:\n%s", have, shell(ops))
		}
	}
	on := maps.Clone(want)
	delete(on, Sysctl{stpKey("ul-steam"), "0"})
	on.Add("", Sysctl{stpKey("ul-steam"), "1"})
	if got := shell(Diff(on, want)); !strings.HasPrefix(got, "ip link set dev ul-steam type bridge stp_state 0\nfor p in ") {
		t.Error(got)
	}
	if got := shell(Diff(want, on)); got != "ip link set dev ul-steam type bridge stp_state 1\n" {
		t.Error(got)
	}
}

func with2(v Veth, f func(*Veth)) Veth { f(&v); return v }

// A lane's own bridge becomes NetworkManager's when that activates a profile on it, and ours again when
// no profile has it any more. Nothing of it is taken away meanwhile.
func TestTakeOver(t *testing.T) {
	own := lane("steam", "wlp6s0")
	w := newWorld(own)
	w.settle()
	w.lanes = []Lane{profiled("10.0.5.1/24")}
	for name, held := range map[string]bool{"held": true, "up": false} {
		_, _, ops := takeOver(NewSetup(w.have), w.host, w.lanes, map[string]string{"steam": map[bool]string{true: "x"}[held]})
		if held != (ops == nil) {
			t.Errorf("%s: %v", name, ops)
		}
	}
	d := w.decide()
	lines := shell(d.Ops)
	if !strings.Contains(lines, "ip link set dev ul-steam alias uplane-made:steam group default\n") ||
		strings.Contains(lines, "link del dev ul-steam") || strings.Contains(lines, "addr del 10.0.1.1/24 dev ul-steam") {
		t.Error(lines)
	}
	if w.memory.Sysctls["net/ipv4/conf/ul-steam/forwarding"] != "0" {
		t.Errorf("of its switches %v is remembered", w.memory.Sysctls)
	}

	w.adopt(d.Want.All())
	w.host.Links["ul-steam"] = HostLink{MTU: 1500, Running: true, Bridge: true, Made: true, Addrs: []netip.Prefix{pfx("10.0.1.1/24")}}
	w.lanes = []Lane{own}
	if lines := shell(w.decide().Ops); strings.Contains(lines, "link del") || !strings.Contains(lines, "ip link set dev ul-steam alias uplane:steam mtu 1500 up\n") {
		t.Errorf("back:\n%s", lines)
	}
	w.lanes = nil
	if lines := shell(w.decide().Ops); !strings.Contains(lines, "ip link del dev ul-steam\n") {
		t.Errorf("gone:\n%s", lines)
	}
}

// A user's private profile attracts no lane by its name, and what it says is told to nobody.
func TestPrivate(t *testing.T) {
	for name, c := range map[string]struct {
		uplink  []string
		limited bool
		want    string
	}{
		"by its name":            {[]string{"connection:homewifi"}, false, "no uplink: connection:homewifi matches only a private profile on wlp6s0: select it by uuid:, or nmcli connection modify it with connection.permissions ''"},
		"by its name, then wire": {[]string{"connection:homewifi", "enp7s0"}, false, "enp7s0"},
		"by its card":            {[]string{"wlp6s0"}, false, "wlp6s0"},
		"limited":                {[]string{"wlp6s0"}, true, "no uplink: a private profile on wlp6s0 does not serve it"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(lane("steam", c.uplink...))
			w.uplinks[0].Private, w.uplinks[0].Limited, w.uplinks[0].Lanes = true, c.limited, []string{"secret"}
			st := w.status(t)
			got := st.Reason
			if st.Uplink != nil {
				got = st.Uplink.Interface
			}
			if got != c.want {
				t.Error(got)
			}
		})
	}
}

func TestLimited(t *testing.T) {
	for name, c := range map[string]struct {
		lanes  []string
		uplink []string
		want   string
	}{
		"for it":       {[]string{"backup", "steam"}, []string{"wlp6s0"}, "wlp6s0"},
		"for others":   {[]string{"backup", "games"}, []string{"wlp6s0"}, "no uplink: homewifi on wlp6s0 serves only backup, games"},
		"for none":     {nil, []string{"wlp6s0"}, "no uplink: homewifi on wlp6s0 serves no lane"},
		"the next one": {nil, []string{"wlp6s0", "enp7s0"}, "enp7s0"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(lane("steam", c.uplink...))
			w.uplinks[0].Limited, w.uplinks[0].Lanes = true, c.lanes
			st := w.status(t)
			got := st.Reason
			if st.Uplink != nil {
				got = st.Uplink.Interface
			}
			if got != c.want {
				t.Error(got)
			}
		})
	}
}

// The golden files of lanes on NetworkManager's bridges.
func TestGoldenProfile(t *testing.T) {
	w := newWorld(profiled("10.0.1.1/24"))
	bridged(w.host, "10.0.1.1/24")
	d := w.decide()
	golden(t, "profile", w.header("a lane on the bridge of a NetworkManager profile", d.Lanes)+shell(d.Ops))

	w.settle()
	veth := findVeth(w.have)
	delete(w.have, veth)
	w.have.Add("steam", with2(veth, func(v *Veth) { v.Bridge = "" }))
	d = w.decide()
	golden(t, "profile-again", w.header("NetworkManager activates the profile again, and takes the port out", d.Lanes)+shell(d.Ops))

	w.settle()
	w.rehost()
	bridged(w.host, "10.0.7.254/24")
	d = w.decide()
	golden(t, "profile-renumber", w.header("nmcli connection modify, and reapply: the bridge has another address", d.Lanes)+shell(d.Ops))
}
