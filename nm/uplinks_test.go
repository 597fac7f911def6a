package nm

import (
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"uplane/policy"
)

// script is a tree that changes, and what has come of it so far.
type script struct {
	t    *testing.T
	tree *tree
	last []policy.Uplink
}

const (
	dev  = dbus.ObjectPath("/org/freedesktop/NetworkManager/Devices/7")
	conn = dbus.ObjectPath("/org/freedesktop/NetworkManager/ActiveConnection/3")
	ip4  = dbus.ObjectPath("/org/freedesktop/NetworkManager/IP4Config/9")
	ip6  = dbus.ObjectPath("/org/freedesktop/NetworkManager/IP6Config/9")
	ap1  = accessPointPath + "1"
	ap2  = accessPointPath + "2"
)

// wifi is a tree with one Wi-Fi card that is on a network.
func wifi(t *testing.T) *script {
	s := &script{t: t, tree: newTree()}
	s.tree.add(managerPath, map[string]props{ifaceManager: v("Startup", false)})
	s.tree.add(home1, map[string]props{ifaceProfile: {}})
	s.tree.profiles[home1].read, s.tree.unread = true, nil
	s.tree.add(conn, map[string]props{ifaceActive: v("Id", "home", "Uuid", "u-1", "Connection", home1, "SpecificObject", ap1)})
	s.tree.add(ap1, map[string]props{ifaceAccessPoint: v("Ssid", []byte("Home"))})
	s.tree.add(ip4, map[string]props{ifaceIP4: v(
		"AddressData", []props{v("address", "192.0.2.4", "prefix", uint32(24))}, "Gateway", "192.0.2.1",
		"RouteData", []props{route("192.0.2.0", 24), route("0.0.0.0", 0, "next-hop", "192.0.2.1", "metric", uint32(600))},
		"NameserverData", []props{v("address", "192.0.2.53")}, "Searches", []string{"lan.example"})})
	s.tree.add(ip6, map[string]props{ifaceIP6: v(
		"AddressData", []props{v("address", "2001:db8::4", "prefix", uint32(64))},
		"RouteData", []props{route("2001:db8::", 64), route("::", 0, "next-hop", "fe80::1", "metric", uint32(600))},
		"Searches", []string{"lan.example", "six.example"})})
	s.tree.add(dev, map[string]props{ifaceDevice: device7("wlp6s0", 2, 100)})
	s.want(home)
	return s
}

func device7(iface string, kind, state uint32) props {
	return v("Interface", iface, "IpInterface", iface, "DeviceType", kind, "State", state, "Real", true,
		"ActiveConnection", conn, "Ip4Config", ip4, "Ip6Config", ip6)
}

const home = `wlp6s0: wifi, active, profile "home" u-1, SSID "Home"
  address 192.0.2.4/24
  address 2001:db8::4/64
  route 0.0.0.0/0 via 192.0.2.1 metric 600
  route 192.0.2.0/24 metric 0
  route ::/0 via fe80::1 metric 600
  route 2001:db8::/64 metric 0
  nameserver 192.0.2.53
  search lan.example
  search six.example
`

var homeChanging = strings.Replace(home, "active", "changing", 1)

func (s *script) change(path dbus.ObjectPath, iface string, keysAndValues ...any) {
	s.tree.change(path, iface, v(keysAndValues...))
}

func (s *script) state(n uint32) { s.change(dev, ifaceDevice, "State", n) }

func (s *script) want(want string) {
	s.t.Helper()
	s.last = s.tree.uplinks(s.last)
	if got := describe(s.last); got != want {
		s.t.Fatalf("got\n%swant\n%s", got, want)
	}
}

func TestStates(t *testing.T) {
	for state, want := range map[uint32]string{
		0: "", 10: "", 20: "down", 30: "down", 40: "changing", 50: "changing", 60: "changing", 70: "changing",
		80: "changing", 90: "changing", 100: "active", 110: "down", 120: "down", 130: "down",
	} {
		s := wifi(t)
		s.last = nil
		s.state(state)
		first, _, _ := strings.Cut(describe(s.tree.uplinks(nil)), "\n")
		if want != "" {
			want = "wlp6s0: wifi, " + want + `, profile "home" u-1, SSID "Home"`
		}
		if first != want {
			t.Errorf("state %d: %q, want %q", state, first, want)
		}
	}
}

func TestGoingDownForgets(t *testing.T) {
	s := wifi(t)
	s.state(110)
	s.want("wlp6s0: wifi, down, profile \"home\" u-1, SSID \"Home\"\n")
	s.change(dev, ifaceDevice, "ActiveConnection", noObject)
	s.state(30)
	s.want("wlp6s0: wifi, down\n")
	s.change(ip4, ifaceIP4, "AddressData", []props{}, "RouteData", []props{}, "Gateway", "", "NameserverData", []props{}, "Searches", []string{})
	s.change(ip6, ifaceIP6, "AddressData", []props{}, "RouteData", []props{}, "Searches", []string{})
	s.change(dev, ifaceDevice, "ActiveConnection", conn)
	s.state(70)
	s.want("wlp6s0: wifi, changing, profile \"home\" u-1, SSID \"Home\"\n")
}

func TestChangingKeeps(t *testing.T) {
	s := wifi(t)
	s.state(50)
	s.change(dev, ifaceDevice, "Ip4Config", noObject, "Ip6Config", noObject)
	s.want(homeChanging)
	// An address alone is no way out yet.
	s.change(dev, ifaceDevice, "Ip4Config", ip4)
	s.change(ip4, ifaceIP4, "RouteData", []props{}, "Gateway", "", "AddressData", []props{v("address", "192.0.2.5", "prefix", uint32(24))})
	s.want(homeChanging)
	// One family may be new while the other is still the old one.
	s.change(ip4, ifaceIP4, "Gateway", "192.0.2.2", "NameserverData", []props{})
	s.want(`wlp6s0: wifi, changing, profile "home" u-1, SSID "Home"
  address 192.0.2.5/24
  address 2001:db8::4/64
  route 0.0.0.0/0 via 192.0.2.2 metric 0
  route ::/0 via fe80::1 metric 600
  route 2001:db8::/64 metric 0
  nameserver 192.0.2.53
  search lan.example
  search six.example
`)
	// Active is as NetworkManager says, and no more.
	s.state(100)
	s.want(`wlp6s0: wifi, active, profile "home" u-1, SSID "Home"
  address 192.0.2.5/24
  route 0.0.0.0/0 via 192.0.2.2 metric 0
  search lan.example
`)
}

func TestChangingKeepsNothingOfAnotherProfile(t *testing.T) {
	s := wifi(t)
	s.change(conn, ifaceActive, "Id", "cafe", "Uuid", "u-2")
	s.change(dev, ifaceDevice, "State", uint32(70), "Ip4Config", noObject, "Ip6Config", noObject)
	s.want("wlp6s0: wifi, changing, profile \"cafe\" u-2, SSID \"Home\"\n")
}

// restarted is the tree of a NetworkManager that has just come back.
func (s *script) restarted() {
	s.tree = newTree()
	s.tree.add(managerPath, map[string]props{ifaceManager: v("Startup", true)})
}

func TestStartupHolds(t *testing.T) {
	s := wifi(t)
	old := s.tree
	s.restarted()
	s.want(homeChanging) // the card is not found yet
	s.tree.add(dev, map[string]props{ifaceDevice: v("Interface", "wlp6s0", "DeviceType", uint32(2), "State", uint32(10), "ActiveConnection", noObject)})
	s.want(homeChanging)
	for _, state := range []uint32{20, 30} {
		s.state(state)
		s.want(homeChanging)
	}
	s.tree.actives, s.tree.configs, s.tree.ssids = old.actives, old.configs, old.ssids
	s.change(dev, ifaceDevice, "ActiveConnection", conn)
	s.state(40)
	s.want(homeChanging)
	s.change(dev, ifaceDevice, "Ip4Config", ip4, "Ip6Config", ip6)
	s.state(100)
	s.want(home)
	// What happens from now on counts, startup or not.
	s.state(20)
	s.want("wlp6s0: wifi, down, profile \"home\" u-1, SSID \"Home\"\n")
}

func TestStartupEnds(t *testing.T) {
	s := wifi(t)
	s.restarted()
	s.tree.add(dev, map[string]props{ifaceDevice: v("Interface", "wlp6s0", "DeviceType", uint32(2), "State", uint32(20))})
	s.last = append([]policy.Uplink{{Interface: "enp7s0", Phase: policy.PhaseActive}, {Interface: "enp8s0"}}, s.last...)
	s.want("enp7s0: , changing\n" + homeChanging) // what was down needs no holding
	s.change(managerPath, ifaceManager, "Startup", false)
	s.want("wlp6s0: wifi, down\n")
}

func TestRoaming(t *testing.T) {
	s := wifi(t)
	s.change(conn, ifaceActive, "SpecificObject", ap2)
	s.want(home)
	if _, ok := s.tree.missing()[ap2]; !ok {
		t.Error("the access point is not missed")
	}
	s.tree.add(ap2, map[string]props{ifaceAccessPoint: v("Ssid", []byte(""))}) // hidden
	s.want(home)
	if _, ok := s.tree.missing()[ap2]; !ok {
		t.Error("the access point's name is not missed")
	}
	s.tree.add(ap2, map[string]props{ifaceAccessPoint: v("Ssid", []byte("Home"))})
	s.want(home)
	if m := s.tree.missing(); m != nil {
		t.Error(m)
	}
}

func TestMissing(t *testing.T) {
	s := wifi(t)
	other := conn + "0"
	s.change(dev, ifaceDevice, "ActiveConnection", other, "Ip4Config", ip4+"0", "Ip6Config", noObject)
	m := s.tree.missing()
	if len(m) != 2 || m[other] != 100 || m[ip4+"0"] != 100 {
		t.Error(m)
	}
	// Its name is kept until it has been fetched.
	if u := s.tree.uplinks(s.last)[0]; u.Connection != "home" || u.SSID != "Home" {
		t.Error(describe([]policy.Uplink{u}))
	}
	s.state(30)
	if m := s.tree.missing(); m != nil {
		t.Error(m)
	}
}

func TestRemove(t *testing.T) {
	s := wifi(t)
	if !s.tree.remove(dev, []string{ifaceDevice}) {
		t.Error("NetworkManager seems to go on without a device that was active to the end")
	}
	s.want(home)
	s.state(10)
	if s.tree.remove(dev, []string{ifaceDevice + ".Statistics", ifaceDevice}) {
		t.Error("a device that went seems to be the end of NetworkManager")
	}
	s.want("")
	s.tree.remove(conn, []string{ifaceActive})
	s.tree.remove(ip4, []string{ifaceIP4})
	s.tree.remove(ip6, []string{ifaceIP6})
	s.tree.remove(ip6, []string{ifaceIP6})
	if len(s.tree.devices)+len(s.tree.actives)+len(s.tree.configs) != 0 {
		t.Error("not empty")
	}
}

func TestKindsOfDevices(t *testing.T) {
	object := func(p props, more ...any) map[string]props {
		m := map[string]props{ifaceDevice: p}
		for i := 0; i < len(more); i += 2 {
			m[more[i].(string)] = more[i+1].(props)
		}
		return m
	}
	named := func(iface, ipIface string, kind uint32) props {
		return v("Interface", iface, "IpInterface", ipIface, "DeviceType", kind, "State", uint32(30), "Real", true)
	}
	unreal := named("br8", "", 13)
	unreal["Real"] = dbus.MakeVariant(false)
	for _, test := range []struct {
		name   string
		object map[string]props
		want   string
	}{
		{"veth", object(named("enp7s0", "", 20)), "enp7s0: ethernet"},
		{"modem", object(named("cdc-wdm0", "wwan0", 8), ifaceModem, v("CurrentCapabilities", uint32(12))), "wwan0: gsm"},
		{"modem at rest", object(named("cdc-wdm0", "", 8), ifaceModem, v("CurrentCapabilities", uint32(12))), "cdc-wdm0: gsm"},
		{"modem that says nothing", object(named("ttyUSB2", "", 8)), "ttyUSB2: modem"},
		{"PPP over Ethernet", object(named("enp7s0", "ppp0", 1)), "ppp0: ethernet"},
		{"Bluetooth", object(named("00:11:22:33:44:55", "bnep0", 5)), "bnep0: bluetooth"},
		{"Bluetooth at rest has no interface", object(named("00:11:22:33:44:55", "", 5)), ""},
		{"generic", object(named("nlmon0", "", 14), ifaceGeneric, v("TypeDescription", "nlmon")), "nlmon0: nlmon"},
		{"loopback until 1.42", object(named("lo", "lo", 14), ifaceGeneric, v("TypeDescription", "loopback")), ""},
		{"loopback", object(named("lo", "lo", 32)), ""},
		{"p2p", object(named("p2p-dev-wlp6s0", "", 30)), ""},
		{"Open vSwitch port", object(named("ovs0", "", 25)), ""},
		{"not in the kernel", object(unreal), ""},
		{"unknown", object(named("x0", "", 999)), ""},
		{"hostile name", object(named("x;reboot", "", 1)), ""},
		{"empty", object(nil), ""},
		{"not a device", map[string]props{ifaceModem: v("CurrentCapabilities", uint32(4))}, ""},
	} {
		tr := newTree()
		tr.add(dev, test.object)
		want := test.want
		if want != "" {
			want += ", down\n"
		}
		if got := describe(tr.uplinks(nil)); got != want {
			t.Errorf("%s: %q, want %q", test.name, got, want)
		}
	}
}

// A lane's bridge, of which NetworkManager makes a profile of its own, is no uplink, as a bridge of a user's is.
func TestLanesBridge(t *testing.T) {
	bridge := typeNumber(t, "bridge")
	for name, flags := range map[string]uint32{"ul-steam": 0, "ul-games": flagExternal, "br0": flagExternal} {
		s := &script{t: t, tree: newTree()}
		s.tree.add(home1, map[string]props{ifaceProfile: v("Flags", flags)})
		s.tree.add(conn, map[string]props{ifaceActive: v("Id", "b", "Uuid", "u-2", "Connection", home1)})
		s.tree.add(dev, map[string]props{ifaceDevice: device7(name, bridge, 100)})
		if got, want := len(s.tree.uplinks(nil)) > 0, name != "ul-games"; got != want {
			t.Errorf("%s, flags %d: an uplink: %v", name, flags, got)
		}
	}
}

func typeNumber(t *testing.T, word string) uint32 {
	t.Helper()
	for number, name := range typeNames {
		if name == word {
			return uint32(number)
		}
	}
	t.Fatalf("no type %s", word)
	return 0
}

// Of two devices with one name the one that is further counts.
func TestSameName(t *testing.T) {
	s := wifi(t)
	s.tree.add(dev+"0", map[string]props{ifaceDevice: v("Interface", "wlp6s0", "DeviceType", uint32(2), "State", uint32(30))})
	for range 20 {
		s.want(home)
	}
}

func TestEqual(t *testing.T) {
	a, b := wifi(t).last, wifi(t).last
	if !equal(a, b) {
		t.Error("equal ones differ")
	}
	for name, change := range map[string]func(u *policy.Uplink){
		"Interface":  func(u *policy.Uplink) { u.Interface = "x" },
		"Type":       func(u *policy.Uplink) { u.Type = "x" },
		"Connection": func(u *policy.Uplink) { u.Connection = "x" },
		"UUID":       func(u *policy.Uplink) { u.UUID = "x" },
		"SSID":       func(u *policy.Uplink) { u.SSID = "x" },
		"Phase":      func(u *policy.Uplink) { u.Phase = policy.PhaseDown },
		"Addresses":  func(u *policy.Uplink) { u.Addresses = u.Addresses[1:] },
		"Routes":     func(u *policy.Uplink) { u.Routes = u.Routes[1:] },
		"DNS":        func(u *policy.Uplink) { u.DNS = nil },
		"Search":     func(u *policy.Uplink) { u.Search = nil },
	} {
		b := wifi(t).last
		change(&b[0])
		if equal(a, b) {
			t.Errorf("a change of %s goes unseen", name)
		}
	}
}
