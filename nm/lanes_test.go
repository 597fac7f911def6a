package nm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"uplane/policy"
)

const (
	home1  = managerPath + "/Settings/1"
	steam1 = managerPath + "/Settings/2"
	bridge = managerPath + "/Devices/9"
	first  = managerPath + "/ActiveConnection/91"
	second = managerPath + "/ActiveConnection/92"
)

func steamSettings(keysAndValues ...string) settings {
	data := map[string]string{}
	for i := 0; i < len(keysAndValues); i += 2 {
		data[keysAndValues[i]] = keysAndValues[i+1]
	}
	return settings{
		"connection": {"id": "steam", "uuid": "u-s", "type": "bridge", "interface-name": "ul-steam"},
		"ipv4":       {"method": "manual", "address-data": []map[string]dbus.Variant{v("address", "10.0.1.1", "prefix", uint32(24))}},
		"user":       {"data": data},
	}
}

func TestDecodeProfile(t *testing.T) {
	change := func(section, key string, value any, data ...string) settings {
		s := steamSettings(data...)
		s[section][key] = value
		return s
	}
	long := strings.Repeat("x", maxUserText+1)
	const plain = `"steam" u-s on "ul-steam", lane "steam", 10.0.1.1/24 manual map[]`
	for name, c := range map[string]struct {
		settings settings
		want     string
	}{
		"by its interface":        {steamSettings(), plain},
		"by its key":              {steamSettings("org.uplane.lane", "games", "org.uplane.uplink", "type:wifi"), `"steam" u-s on "ul-steam", lane "games" named, 10.0.1.1/24 manual map[uplink:type:wifi]`},
		"by an empty key":         {steamSettings("org.uplane.lane", ""), `"steam" u-s on "ul-steam", lane "" named, 10.0.1.1/24 manual map[]`},
		"others' keys":            {steamSettings("org.example.lane", "x", "lane", "y"), plain},
		"no lane's interface":     {change("connection", "interface-name", "br0"), `"steam" u-s on "br0", lane "", 10.0.1.1/24 manual map[]`},
		"any bridge with the key": {change("connection", "interface-name", "br0", "org.uplane.lane", "steam"), `"steam" u-s on "br0", lane "steam" named, 10.0.1.1/24 manual map[]`},
		"no bridge":               {change("connection", "type", "ethernet", "org.uplane.lane", "steam"), `"steam" u-s on "", lane "", invalid Prefix  map[]`},
		"another type of value":   {change("connection", "id", 5), `"" u-s on "ul-steam", lane "steam", 10.0.1.1/24 manual map[]`},
		"no address":              {change("ipv4", "address-data", []map[string]dbus.Variant{}), `"steam" u-s on "ul-steam", lane "steam", invalid Prefix manual map[]`},
		"too long":                {steamSettings("org.uplane.uplink", long), plain[:len(plain)-2] + "[uplink:(longer than 4096 bytes)]"},
		"too long a lane":         {steamSettings("org.uplane.lane", long), strings.Replace(plain, `lane "steam"`, `lane "(longer than 4096 bytes)" named`, 1)},
		"limits, too long":        {steamSettings("org.uplane.lanes", long), plain + ` for []`},
		"limits":                  {steamSettings("org.uplane.lanes", " steam, backup;x,"), plain + ` for ["steam" "backup" "x"]`},
		"limits to none":          {steamSettings("org.uplane.lanes", ""), plain + ` for []`},
		"nothing":                 {nil, `"" on "", lane "", invalid Prefix  map[]`},
		"private":                 {change("connection", "permissions", []string{"user:alice:"}), `"steam" u-s on "ul-steam", lane "", 10.0.1.1/24 manual map[] private`},
		"private, by its key":     {change("connection", "permissions", []string{"user:alice:"}, "org.uplane.lane", "games"), `"steam" u-s on "ul-steam", lane "", 10.0.1.1/24 manual map[] private`},
		"private, limits":         {change("connection", "permissions", []string{"user:alice:"}, "org.uplane.lanes", "x"), `"steam" u-s on "ul-steam", lane "", 10.0.1.1/24 manual map[] private for ["x"]`},
		"private, unreadably":     {change("connection", "permissions", "user:alice:"), `"steam" u-s on "ul-steam", lane "", 10.0.1.1/24 manual map[] private`},
		"everybody's":             {change("connection", "permissions", []string{}), plain},
	} {
		t.Run(name, func(t *testing.T) {
			p := decodeProfile(c.settings)
			got := fmt.Sprintf("%s, %v %s %v", strings.TrimSuffix(describeProfile(p.Profile), " down"), p.Address, p.Method, p.Keys)
			if p.private {
				got += " private"
			}
			if p.limited {
				got += fmt.Sprintf(" for %q", p.lanes)
			}
			if got != c.want {
				t.Errorf("%s\nnot\n%s", got, c.want)
			}
		})
	}
}

// Of too many keys the same ones count every time, and what limits a network is among them.
func TestTooManyKeys(t *testing.T) {
	keys := []string{"org.uplane.lanes", "steam", "org.uplane.lane", "games", "org.uplane." + strings.Repeat("k", maxUserText), "x"}
	for i := range 100 {
		keys = append(keys, fmt.Sprintf("org.uplane.a%03d", i), "x")
	}
	for range 20 {
		p := decodeProfile(steamSettings(keys...))
		if !p.limited || fmt.Sprint(p.lanes) != "[steam]" || p.Lane != "games" || len(p.Keys) != maxUserKeys || p.Keys["a000"] != "x" || p.Keys["a031"] != "x" {
			t.Fatalf("%+v", p)
		}
	}
}

func describeProfile(p policy.Profile) string {
	s := fmt.Sprintf("%q", p.Name)
	if p.UUID != "" {
		s += " " + p.UUID
	}
	s += fmt.Sprintf(" on %q, lane %q", p.Interface, p.Lane)
	if p.Named {
		s += " named"
	}
	switch {
	case p.Leaving:
		s += " leaving"
	case p.Active:
		s += " active"
	default:
		s += " down"
	}
	return s
}

// manager is a NetworkManager with the profile steam, which a test leads through its states.
type manager struct {
	*testing.T
	tree *tree
	prev []policy.Profile
}

func newManager(t *testing.T) *manager {
	m := &manager{T: t, tree: newTree()}
	m.tree.add(steam1, map[string]props{ifaceProfile: v("Flags", uint32(0))})
	m.want("")
	*m.tree.profiles[steam1] = decodeProfile(steamSettings())
	m.want("down")
	return m
}

func (m *manager) want(state string) {
	m.Helper()
	m.prev = m.tree.lanes(m.prev)
	var got []string
	for _, p := range m.prev {
		got = append(got, strings.TrimPrefix(describeProfile(p), `"steam" u-s on "ul-steam", lane "steam" `))
	}
	if s := strings.Join(got, "; "); s != state {
		m.Fatalf("%q, not %q", s, state)
	}
}

func (m *manager) activate(path dbus.ObjectPath) {
	m.tree.add(path, map[string]props{ifaceActive: v("Id", "steam", "Uuid", "u-s", "Connection", steam1, "State", uint32(0))})
}

func (m *manager) state(path dbus.ObjectPath, state uint32) {
	m.tree.change(path, ifaceActive, v("State", state))
}

func (m *manager) device(state uint32, real bool) {
	m.tree.add(bridge, map[string]props{ifaceDevice: v("Interface", "ul-steam", "DeviceType", uint32(13), "State", state, "Real", real)})
}

// The sequences are those of NetworkManager 1.42.
func TestLanesFollow(t *testing.T) {
	m := newManager(t)
	m.activate(first)
	m.want("active")
	for _, s := range []uint32{1, 2} {
		m.state(first, s)
		m.want("active")
	}
	m.device(100, true)
	// Activated again.
	m.tree.change(bridge, ifaceDevice, v("ActiveConnection", first))
	m.tree.change(bridge, ifaceDevice, v("State", uint32(110)))
	m.tree.change(bridge, ifaceDevice, v("StateReason", []any{uint32(110), uint32(60)}))
	m.state(first, 3)
	m.want("active")
	m.activate(second)
	m.want("active")
	m.tree.change(bridge, ifaceDevice, v("ActiveConnection", noObject))
	m.state(first, 4)
	m.want("active")
	m.tree.remove(first, []string{ifaceActive})
	m.want("active")
	m.tree.change(bridge, ifaceDevice, v("ActiveConnection", second))
	// Down.
	m.tree.change(bridge, ifaceDevice, v("StateReason", []any{uint32(110), uint32(39)}))
	m.state(second, 3)
	m.want("down")
	m.tree.remove(second, []string{ifaceActive})
	m.want("down")
	// Deleted while it is down.
	m.tree.remove(steam1, []string{ifaceProfile})
	m.want("")
}

func TestLanesLeave(t *testing.T) {
	m := newManager(t)
	m.device(100, true)
	m.activate(first)
	m.state(first, 2)
	m.want("active")
	m.tree.change(first, ifaceActive, v("Connection", noObject))
	m.tree.remove(steam1, []string{ifaceProfile})
	m.want("leaving")
	for _, s := range []uint32{110, 30} {
		m.tree.change(bridge, ifaceDevice, v("State", s))
		m.want("leaving")
	}
	m.state(first, 4)
	m.tree.change(bridge, ifaceDevice, v("State", uint32(10)))
	m.want("")
}

// A bridge that NetworkManager has not made stays, as one that others have set up.
func TestLanesLeaveBridge(t *testing.T) {
	m := newManager(t)
	m.device(100, true)
	m.activate(first)
	m.state(first, 2)
	m.tree.remove(steam1, []string{ifaceProfile})
	m.want("leaving")
	m.tree.remove(first, []string{ifaceActive})
	m.want("leaving")
	m.tree.add(second, map[string]props{ifaceActive: v("Id", "ul-steam", "Uuid", "u-x", "Connection", home1, "State", uint32(2))})
	m.tree.change(bridge, ifaceDevice, v("ActiveConnection", second))
	m.want("")
}

// A NetworkManager that starts finds its profiles, and which are active, bit by bit.
func TestLanesHeld(t *testing.T) {
	m := newManager(t)
	m.activate(first)
	m.want("active")
	m.tree = newTree()
	m.tree.change(managerPath, ifaceManager, v("Startup", true))
	m.want("active")
	m.tree.add(steam1, map[string]props{ifaceProfile: v("Flags", uint32(0))})
	m.want("active")
	*m.tree.profiles[steam1] = decodeProfile(steamSettings())
	m.want("active")
	m.tree.change(managerPath, ifaceManager, v("Startup", false))
	m.want("down") // it did not come up again

	m.tree = newTree()
	m.tree.change(managerPath, ifaceManager, v("Startup", false))
	m.want("") // it was deleted while NetworkManager was away
}

// What NetworkManager makes up for a bridge that others made is no lane's profile.
func TestGeneratedProfile(t *testing.T) {
	m := newManager(t)
	m.tree.change(steam1, ifaceProfile, v("Flags", uint32(1|2|8)))
	m.want("")
	m.tree.change(steam1, ifaceProfile, v("Flags", uint32(0)))
	m.want("down")
}

// A network that may be for other lanes only is for none until that is known.
func TestLimitUnknown(t *testing.T) {
	s := wifi(t)
	*s.tree.profiles[home1] = profile{}
	s.last = nil
	s.want(`wlp6s0: wifi, down, profile "home" u-1, SSID "Home"` + "\n")
	*s.tree.profiles[home1] = decodeProfile(settings{"user": {"data": map[string]string{"org.uplane.lanes": "steam,backup"}}})
	s.want(strings.Replace(home, ` u-1`, ` u-1, for ["steam" "backup"]`, 1))
	// Read again after NetworkManager's restart: as it was.
	*s.tree.profiles[home1] = profile{}
	s.want(strings.Replace(home, ` u-1`, ` u-1, for ["steam" "backup"]`, 1))
	*s.tree.profiles[home1] = decodeProfile(nil)
	s.want(home)
	*s.tree.profiles[home1] = decodeProfile(settings{"connection": {"permissions": []string{"user:alice:"}}})
	s.want(strings.Replace(home, ` u-1`, ` u-1, private`, 1))
	// Of a profile that is not there nobody knows; what was known stays.
	s.tree.remove(home1, []string{ifaceProfile})
	s.want(strings.Replace(home, ` u-1`, ` u-1, private`, 1))
	s.last = nil
	s.want(`wlp6s0: wifi, down, profile "home" u-1, SSID "Home"` + "\n")
}
