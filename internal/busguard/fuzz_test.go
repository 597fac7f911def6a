package busguard

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// FuzzGuard sends bytes as messages. Whatever they are, the guard neither panics nor
// waits for more than there is, and godbus can decode what it hands on.
func FuzzGuard(f *testing.F) {
	add := func(kind dbus.Type, order binary.ByteOrder, headers map[dbus.HeaderField]dbus.Variant, body ...any) {
		m := &dbus.Message{Type: kind, Headers: headers, Body: body}
		m.Headers[dbus.FieldSender] = dbus.MakeVariant(":1.7")
		if len(body) > 0 {
			m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
		}
		var b bytes.Buffer
		if err := m.EncodeTo(&b, order); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:b.Len()-1])
		f.Add(twice(b.Bytes()))
	}
	path := dbus.MakeVariant(dbus.ObjectPath("/x"))
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		add(dbus.TypeMethodCall, order, map[dbus.HeaderField]dbus.Variant{dbus.FieldPath: path, dbus.FieldMember: dbus.MakeVariant("M")},
			"name", map[string]dbus.Variant{"a": dbus.MakeVariant([]string{"b"})})
		add(dbus.TypeMethodCall, order, map[dbus.HeaderField]dbus.Variant{dbus.FieldPath: path, dbus.FieldMember: dbus.MakeVariant("M")},
			strings.Repeat("x", MaxCall))
		add(dbus.TypeSignal, order, map[dbus.HeaderField]dbus.Variant{dbus.FieldPath: path, dbus.FieldMember: dbus.MakeVariant("M"),
			dbus.FieldInterface: dbus.MakeVariant("a.b"), dbus.FieldDestination: dbus.MakeVariant(":1.1")}, deep())
		add(dbus.TypeMethodReply, order, map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(uint32(5))}, []uint32{1})
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		calls := 0
		g := &guard{in: bufio.NewReader(bytes.NewReader(data)), calls: func(c *Call) {
			calls++
			if (c.Message == nil) == (c.Err == nil) {
				t.Fatalf("a call with message %v and error %v", c.Message, c.Err)
			}
		}}
		for {
			msg, err := dbus.DecodeMessage(g)
			if err == nil && (msg.Type == dbus.TypeMethodCall || msg.Type == dbus.TypeSignal && direct(msg)) {
				t.Fatalf("handed on %v", msg)
			}
			if err != nil {
				if err != io.EOF && err != io.ErrUnexpectedEOF && err != errNoMessage {
					t.Fatalf("handed on what can't be decoded: %v", err)
				}
				return
			}
		}
	})
}

func twice(b []byte) []byte { return append(bytes.Clone(b), b...) }
