package bus

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

var full = Lane{
	Name: "steam", State: "degraded", Reason: "because",
	Uplink:    Uplink{Interface: "wlp6s0", Connection: "homewifi", UUID: "11111111-aaaa", SSID: "Häuschen"},
	Namespace: "/run/netns/steam", Bridge: "ul-steam", Subnet: "10.0.1.0/24", Table: 100, Mark: 4294967295,
	IPv4: Family{[]string{"192.168.50.4/24"}, "192.168.50.1"},
	IPv6: Family{[]string{"2001:db8::4/64", "fe80::1/64"}, "fe80::2"},
	DNS:  []string{"9.9.9.9", "1.1.1.1"}, Since: "2026-11-23T20:00:00Z",
}

var empty = Lane{IPv4: Family{Addresses: []string{}}, IPv6: Family{Addresses: []string{}}, DNS: []string{}}

// overTheWire encodes and decodes a value as the bus does.
func overTheWire(t testing.TB, d dict) dict {
	t.Helper()
	m := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath: dbus.MakeVariant(Path), dbus.FieldInterface: dbus.MakeVariant(Interface), dbus.FieldMember: dbus.MakeVariant("X"),
		dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(d)),
	}, Body: []any{d}}
	var buf bytes.Buffer
	if err := m.EncodeTo(&buf, binary.LittleEndian); err != nil {
		t.Fatal(err)
	}
	got, err := dbus.DecodeMessage(&buf)
	if err != nil {
		t.Fatal(err)
	}
	var out dict
	if err := dbus.Store(got.Body, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDictRoundTrip(t *testing.T) {
	for _, l := range []Lane{full, empty} {
		if got := fromDict(overTheWire(t, l.dict())); !reflect.DeepEqual(got, l) {
			t.Errorf("have %+v\nwant %+v", got, l)
		}
	}
	// A field that dict forgot would be empty again.
	for i, v := 0, reflect.ValueOf(full); i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Errorf("%s is empty in the test's lane", v.Type().Field(i).Name)
		}
	}
}

// JSON has lists and never null, whatever comes from the bus.
func TestNoNull(t *testing.T) {
	for _, d := range []dict{nil, {}, {"DNS": dbus.MakeVariant("x")}, {"Addresses4": dbus.MakeVariant([]int32{1})}, Lane{}.dict(), overTheWire(t, Lane{}.dict())} {
		text, err := json.Marshal(fromDict(d))
		if err != nil || strings.Contains(string(text), "null") || strings.Count(string(text), "[]") != 3 {
			t.Errorf("%v is %s: %v", d, text, err)
		}
	}
}

func TestSinceTime(t *testing.T) {
	if got := SinceTime(time.Time{}); got != "" {
		t.Errorf("no time is %q", got)
	}
	at := time.Date(2026, 11, 23, 21, 0, 0, 5e8, time.FixedZone("CET", 3600))
	if got := SinceTime(at); got != "2026-11-23T20:00:00Z" {
		t.Errorf("have %q", got)
	}
}

// FuzzFromDict gives values of any type for keys of any name.
func FuzzFromDict(f *testing.F) {
	f.Add("Name", "s", []byte("steam"))
	f.Add("DNS", "as", []byte("9.9.9.9"))
	f.Add("Table", "u", []byte{1, 2, 3, 4})
	f.Add("Mark", "x", []byte{1})
	f.Add("Addresses4", "v", []byte{})
	f.Fuzz(func(t *testing.T, key, kind string, data []byte) {
		text := strings.ToValidUTF8(strings.ReplaceAll(string(data), "\x00", ""), "")
		var value any
		switch kind {
		case "s":
			value = text
		case "as":
			value = strings.Split(text, ",")
		case "u":
			value = uint32(len(data))
		case "x":
			value = int64(len(data))
		case "v":
			value = dbus.MakeVariant(text)
		case "a{sv}":
			value = dict{"Name": dbus.MakeVariant(text)}
		default:
			value = data
		}
		d := full.dict()
		d[strings.ToValidUTF8(strings.ReplaceAll(key, "\x00", ""), "")] = dbus.MakeVariant(value)
		l := fromDict(overTheWire(t, d))
		again := fromDict(l.dict())
		if !reflect.DeepEqual(again, l) {
			t.Errorf("have %+v\nwant %+v", again, l)
		}
		if out, err := json.Marshal(l); err != nil || bytes.Contains(out, []byte(":null")) {
			t.Errorf("%s: %v", out, err)
		}
	})
}
