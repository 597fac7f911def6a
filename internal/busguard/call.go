package busguard

import (
	"strings"

	"github.com/godbus/dbus/v5"
)

// Call is a method call that somebody sent to this process.
type Call struct {
	*dbus.Message        // nil when Err is set
	Err           error  // why it can't be understood
	Sender        string // its unique name, which the bus vouches for; empty: not by a bus
	Serial        uint32
	NoReply       bool

	conn *dbus.Conn
}

// Reply answers the call. It waits for the bus to take the message.
func (c *Call) Reply(body ...any) { c.send(dbus.TypeMethodReply, nil, body) }

// Fail answers the call with an error.
func (c *Call) Fail(name, text string) {
	c.send(dbus.TypeError, map[dbus.HeaderField]dbus.Variant{dbus.FieldErrorName: dbus.MakeVariant(name)}, []any{Text(text)})
}

func (c *Call) send(kind dbus.Type, headers map[dbus.HeaderField]dbus.Variant, body []any) {
	if c.NoReply {
		return
	}
	if headers == nil {
		headers = map[dbus.HeaderField]dbus.Variant{}
	}
	headers[dbus.FieldReplySerial] = dbus.MakeVariant(c.Serial)
	if c.Sender != "" {
		headers[dbus.FieldDestination] = dbus.MakeVariant(c.Sender)
	}
	if len(body) > 0 {
		headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
	}
	c.conn.Send(&dbus.Message{Type: kind, Headers: headers, Body: body}, nil)
}

// Text makes of s what a string on the bus may be: UTF-8 without NUL.
func Text(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "�"), "�")
}
