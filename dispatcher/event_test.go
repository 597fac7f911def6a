package dispatcher

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"uplane/policy"
)

const uuid = "6f7e37c2-5767-498b-ac03-24e7a1f16bf7"

// renewal is what NetworkManager 1.52 sends when a lease brings another router: its gateway
// is still the old one.
var renewal = []string{
	"CONNECTION_UUID=" + uuid, "CONNECTION_ID=homewifi", "DEVICE_IFACE=wlp6s0", "DEVICE_IP_IFACE=wlp6s0",
	"IP4_NUM_ADDRESSES=1", "IP4_ADDRESS_0=192.168.50.4/24 192.168.50.1", "IP4_GATEWAY=192.168.50.1",
	"IP4_NAMESERVERS=192.168.50.1", "DHCP4_ROUTERS=192.168.50.2", "NM_DISPATCHER_ACTION=dhcp4-change",
}

func TestParse(t *testing.T) {
	addr := netip.MustParseAddr
	got, err := Parse([]string{"wlp6s0", "dhcp4-change"}, renewal)
	want := Event{
		Action: DHCP4, Interface: "wlp6s0", UUID: uuid, Profile: "homewifi",
		Told: Told{
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.50.4/24")}, Gateway: addr("192.168.50.1"),
			Routers: []netip.Addr{addr("192.168.50.2")}, DNS: []netip.Addr{addr("192.168.50.1")},
		},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("have %+v, %v\nwant %+v", got, err, want)
	}
	text := `dhcp4-change of wlp6s0 ("homewifi"), said to have address 192.168.50.4/24, gateway 192.168.50.1, router 192.168.50.2, name server 192.168.50.1`
	if got.String() != text {
		t.Errorf("have %s\nwant %s", got, text)
	}
}

func TestParseInterface(t *testing.T) {
	for _, tt := range []struct {
		args []string
		env  []string
		want string
		err  string
	}{
		{[]string{"ppp0", "up"}, []string{"DEVICE_IFACE=ttyUSB0", "DEVICE_IP_IFACE=ppp0"}, "ppp0", ""},
		{[]string{"", "down"}, []string{"DEVICE_IFACE=eth0"}, "eth0", ""},
		{[]string{"none", "down"}, []string{"DEVICE_IP_IFACE=ppp0", "DEVICE_IFACE=ttyUSB0"}, "ppp0", ""},
		{[]string{"a", "up"}, []string{"DEVICE_IFACE=b", "DEVICE_IFACE=c"}, "a", ""},
		{[]string{"", "up"}, []string{"DEVICE_IFACE=b", "DEVICE_IFACE=c"}, "b", ""},
		{[]string{"none", "hostname"}, nil, "", "nothing that concerns lanes"},
		{[]string{"wlp6s0", "connectivity-change"}, renewal, "", "nothing that concerns lanes"},
		{[]string{"wlp6s0", "pre-down"}, renewal, "", "nothing that concerns lanes"},
		{[]string{"wlp6s0", "from-the-future"}, renewal, "", "nothing that concerns lanes"},
		{[]string{"wlp6s0", ""}, renewal, "", "nothing that concerns lanes"},
		{[]string{"ul-steam", "up"}, []string{"CONNECTION_EXTERNAL=1"}, "", "nothing that concerns lanes"},
		{[]string{"ul-work", "up"}, []string{"CONNECTION_ID=work"}, "ul-work", ""},
		{[]string{"wg0", "up"}, []string{"CONNECTION_EXTERNAL=1"}, "wg0", ""},
		{[]string{"", "up"}, nil, "", "invalid interface name"},
		{[]string{"../x", "up"}, nil, "", "invalid interface name"},
		{[]string{"all", "up"}, nil, "", "the kernel keeps it for itself"},
		{[]string{"a b", "up"}, nil, "", "invalid interface name"},
		{[]string{"up"}, nil, "", "not 1 arguments"},
		{nil, nil, "", "not 0 arguments"},
		{[]string{"wlp6s0", "up", "x"}, nil, "", "not 3 arguments"},
	} {
		e, err := Parse(tt.args, tt.env)
		if e.Interface != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q %q: have %q, %v; want %q, %s", tt.args, tt.env, e.Interface, err, tt.want, tt.err)
		}
	}
}

func TestParseMalformed(t *testing.T) {
	for _, env := range []string{
		"CONNECTION_UUID=" + strings.Repeat("x", 36), "CONNECTION_UUID=" + uuid + "0", "CONNECTION_UUID=6f7e37c2_5767_498b_ac03_24e7a1f16bf7",
		"IP4_GATEWAY=192.168.50", "IP4_GATEWAY=0.0.0.0", "IP4_GATEWAY=fe80::1", "IP4_GATEWAY=192.168.50.1 ", "IP4_GATEWAY",
		"IP4_NAMESERVERS=dns,dns", "DHCP4_ROUTERS=\xff\xfe", "=", "==", "",
	} {
		e, err := Parse([]string{"wlp6s0", "up"}, []string{env})
		if want := (Event{Action: Up, Interface: "wlp6s0"}); err != nil || !reflect.DeepEqual(e, want) {
			t.Errorf("%q: have %+v, %v", env, e, err)
		}
	}
	many := []string{"IP4_NUM_ADDRESSES=1000000000", "DHCP4_ROUTERS=" + strings.Repeat("192.0.2.1 ", 1000), "CONNECTION_ID=" + strings.Repeat("\x1b[2J", 100)}
	for i := range "0123456789" {
		many = append(many, "IP4_ADDRESS_"+string(rune('0'+i))+"=192.0.2.7/24 192.0.2.1")
	}
	e, err := Parse([]string{"wlp6s0", "pre-up"}, many)
	if err != nil || len(e.Told.Addresses) != maxTold || len(e.Told.Routers) != maxTold || len(e.Profile) != maxProfile {
		t.Errorf("have %+v, %v", e, err)
	}
	if s := e.String(); strings.ContainsRune(s, '\x1b') || len(s) > 1000 {
		t.Errorf("have %q", s)
	}
}

// Whatever the environment has, only an interface that the kernel could have comes
// out, and a message that no terminal obeys.
func FuzzParse(f *testing.F) {
	f.Add("wlp6s0", "dhcp4-change", strings.Join(renewal, "\n"))
	f.Add("none", "hostname", "")
	f.Add("", "pre-up", "DEVICE_IP_IFACE=\x00\nIP4_NUM_ADDRESSES=-1\nIP4_ADDRESS_0=::/0\nCONNECTION_ID=\x9b2J")
	f.Fuzz(func(t *testing.T, iface, action, environ string) {
		e, err := Parse([]string{iface, action}, strings.Split(environ, "\n"))
		if err != nil {
			if !reflect.DeepEqual(e, Event{}) {
				t.Errorf("an event beside an error: %+v", e)
			}
			return
		}
		if policy.CheckInterfaceName(e.Interface) != nil || e.UUID != "" && !isUUID(e.UUID) || len(e.Told.Addresses) > maxTold {
			t.Errorf("%+v", e)
		}
		for _, r := range e.String() {
			if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 {
				t.Errorf("%q", e.String())
			}
		}
		// The addresses decide nothing.
		bare := slices.DeleteFunc(strings.Split(environ, "\n"), func(kv string) bool {
			return strings.HasPrefix(kv, "IP4_") || strings.HasPrefix(kv, "DHCP4_")
		})
		again, err := Parse([]string{iface, action}, bare)
		e.Told = Told{}
		if err != nil || !reflect.DeepEqual(e, again) {
			t.Errorf("with addresses %+v, without %+v, %v", e, again, err)
		}
	})
}
