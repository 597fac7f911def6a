package api

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/godbus/dbus/v5"
)

var full = Lane{
	Name: "steam", State: "up", Reason: "r", Uplink: Uplink{"wlp6s0", "homewifi", "u-1", "Home"}, Profile: "my lane",
	Namespace: "/run/netns/steam", Bridge: "ul-steam", Subnet: "10.0.1.0/24", Table: 100, Mark: 7,
	IPv4: Family{[]string{"192.168.50.4/24"}, "192.168.50.1"}, IPv6: Family{[]string{"2001:db8::4/64"}, "fe80::1"},
	DNS: []string{"203.0.113.53"}, Since: "2026-01-02T03:04:05Z",
	Conditions: []Condition{{"DNS", "True", "ServerLeftOut", "10.0.1.1 is left out", "h"}},
}

var empty = Lane{Name: "old", State: "down", IPv4: Family{Addresses: []string{}}, IPv6: Family{Addresses: []string{}}, DNS: []string{}, Conditions: []Condition{}}

// crossed is what arrives when values are sent.
func crossed(t *testing.T, v values) values {
	t.Helper()
	var wire bytes.Buffer
	m := dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(uint32(1)), dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(v)),
	}, Body: []any{v}}
	if err := m.EncodeTo(&wire, binary.LittleEndian); err != nil {
		t.Fatal(err)
	}
	got, err := dbus.DecodeMessage(&wire)
	if err != nil {
		t.Fatal(err)
	}
	return got.Body[0].(values)
}

func TestLaneCrossesTheBus(t *testing.T) {
	for _, l := range []Lane{full, empty} {
		if got := laneFrom(crossed(t, l.values())); !reflect.DeepEqual(got, l) {
			t.Errorf("%+v\nbecomes\n%+v", l, got)
		}
		for _, p := range laneProperties {
			if got := dbus.SignatureOf(p.of(&l)).String(); got != p.signature {
				t.Errorf("%s is %s, not %s", p.name, got, p.signature)
			}
		}
	}
	// What a newer or broken daemon leaves out or sends otherwise stays empty, and JSON has lists.
	got := laneFrom(values{"Name": dbus.MakeVariant("old"), "State": dbus.MakeVariant("down"), "Table": dbus.MakeVariant("x"), "Conditions": dbus.MakeVariant([]string{"x"}), "New": dbus.MakeVariant(1)})
	if !reflect.DeepEqual(got, empty) {
		t.Errorf("%+v", got)
	}
}

// The form of --json is a promise.
func TestJSON(t *testing.T) {
	got, err := json.Marshal(full)
	want := `{"name":"steam","state":"up","reason":"r","uplink":{"interface":"wlp6s0","connection":"homewifi","uuid":"u-1","ssid":"Home"},"profile":"my lane",` +
		`"namespace":"/run/netns/steam","bridge":"ul-steam","subnet":"10.0.1.0/24","table":100,"mark":7,` +
		`"ipv4":{"addresses":["192.168.50.4/24"],"gateway":"192.168.50.1"},"ipv6":{"addresses":["2001:db8::4/64"],"gateway":"fe80::1"},` +
		`"dns":["203.0.113.53"],"since":"2026-01-02T03:04:05Z",` +
		`"conditions":[{"type":"DNS","status":"True","reason":"ServerLeftOut","message":"10.0.1.1 is left out","hint":"h"}]}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v\nwant\n%s", got, err, want)
	}
}

// Names from the air must not spoil a whole answer.
func TestOddText(t *testing.T) {
	l := full
	l.Uplink.SSID, l.Reason, l.Profile = "a\x00b\xff", "\xc3", "\xc3"
	l.Conditions = []Condition{{Message: "\xff", Hint: "a\x00"}}
	for name, v := range l.values() {
		if err := (&dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(uint32(1)), dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(v)),
		}, Body: []any{v}}).IsValid(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
