package busguard

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const (
	// MaxCall is the longest method call that is taken, in bytes with its header.
	// Decoded, one can become ten times as long.
	MaxCall = 16 << 10
	// maxMessage is the specification's.
	maxMessage = 128 << 20
	// writeTimeout is for a bus that does not read: dbus-daemon stops reading from
	// those whose messages fill the queues of programs that don't read. A new
	// connection begins with nothing in queues.
	writeTimeout = 5 * time.Second
	// lookAfter is how long after a write the bus should have read it.
	lookAfter = 3 * time.Second
)

// guard is a connection to the bus that hands on what it has checked. godbus
// takes it for a plain stream.
type guard struct {
	net.Conn
	conn  *dbus.Conn // that reads this
	calls func(*Call)

	in    *bufio.Reader // from the end of the authentication on
	frame []byte        // the message that is being read
	rest  []byte        // what of it is still to be handed on

	looking atomic.Bool // a timer for look is set
}

// Read is for the one goroutine of godbus that reads.
func (g *guard) Read(p []byte) (int, error) {
	if g.in == nil {
		return g.Conn.Read(p)
	}
	for len(g.rest) == 0 {
		if err := g.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// Write writes p or closes the connection: half a message can't be taken back.
func (g *guard) Write(p []byte) (int, error) {
	if g.in == nil && bytes.Equal(p, []byte("BEGIN\r\n")) {
		g.in = bufio.NewReader(g.Conn) // godbus starts reading messages after this
	}
	if err := g.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	n, err := g.Conn.Write(p)
	if err != nil {
		_ = g.Close()
	} else if g.in != nil && g.looking.CompareAndSwap(false, true) {
		time.AfterFunc(lookAfter, g.look)
	}
	return n, err
}

// look closes the connection if the bus has stopped reading it. What is written
// then waits in the socket, which takes so much of it that Write alone would not tell.
func (g *guard) look() {
	g.looking.Store(false)
	if unread(g.Conn) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	if err := g.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0).Err; errors.Is(err, context.DeadlineExceeded) {
		_ = g.Close()
	}
}

// unread is how much of what was written the other end has not read.
func unread(conn net.Conn) (n int) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	return n
}

// next reads one message and hands it to whom it is for.
func (g *guard) next() error {
	head, err := g.in.Peek(headSize)
	if err != nil {
		return err
	}
	h, err := parseHead(head)
	if err != nil {
		return err
	}
	if h.kind == dbus.TypeMethodCall && h.size() > MaxCall {
		return g.tooLong(h)
	}
	if err := g.read(h.size()); err != nil {
		return err
	}
	msg, err := decode(g.frame)
	switch {
	case h.kind == dbus.TypeMethodCall:
		g.call(h, msg, err)
	case err != nil:
	case h.kind == dbus.TypeSignal && direct(msg):
	default:
		g.rest = g.frame
	}
	return nil
}

// read reads n bytes into the frame.
func (g *guard) read(n int) error {
	const keep = 64 << 10 // a longer frame is not kept for the next message
	if n > keep {
		var long bytes.Buffer // grows with what comes, whatever was announced
		_, err := io.CopyN(&long, g.in, int64(n))
		g.frame = long.Bytes()
		return err
	}
	if n > cap(g.frame) || cap(g.frame) > keep {
		g.frame = make([]byte, n)
	}
	g.frame = g.frame[:n]
	_, err := io.ReadFull(g.in, g.frame)
	return err
}

// tooLong refuses a call without reading it as a whole.
func (g *guard) tooLong(h head) error {
	n := min(h.size(), headSize+h.fields, MaxCall)
	if err := g.read(n); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, g.in, int64(h.size()-n)); err != nil {
		return err
	}
	g.call(h, nil, fmt.Errorf("the call has %d bytes; %d are the most", h.size(), MaxCall))
	return nil
}

func (g *guard) call(h head, msg *dbus.Message, err error) {
	if g.calls == nil {
		return
	}
	c := &Call{Message: msg, Err: err, Serial: h.serial, NoReply: h.flags&dbus.FlagNoReplyExpected != 0, conn: g.conn}
	if msg != nil {
		c.Sender, _ = msg.Headers[dbus.FieldSender].Value().(string)
	} else {
		c.Sender = sender(g.frame, h.order)
	}
	g.calls(c)
}

// direct tells whether somebody sent a signal to this process alone.
func direct(signal *dbus.Message) bool {
	_, direct := signal.Headers[dbus.FieldDestination]
	return direct && signal.Headers[dbus.FieldSender].Value() != "org.freedesktop.DBus"
}

// decode decodes a message; what godbus panics over is an error.
func decode(frame []byte) (msg *dbus.Message, err error) {
	defer func() {
		if p := recover(); p != nil {
			msg, err = nil, fmt.Errorf("the message can't be decoded: %v", p)
		}
	}()
	return dbus.DecodeMessage(bytes.NewReader(frame))
}

// headSize is the size of a message's fixed part, with the length of its fields.
const headSize = 16

// head is a message's fixed part.
type head struct {
	order  binary.ByteOrder
	kind   dbus.Type
	flags  dbus.Flags
	body   int
	serial uint32
	fields int // with the padding that follows
}

func (h head) size() int { return headSize + h.fields + h.body }

var errNoMessage = errors.New("the bus sent what is no message")

func parseHead(b []byte) (head, error) {
	h := head{kind: dbus.Type(b[1]), flags: dbus.Flags(b[2])}
	switch b[0] {
	case 'l':
		h.order = binary.LittleEndian
	case 'B':
		h.order = binary.BigEndian
	default:
		return h, errNoMessage
	}
	body, fields := h.order.Uint32(b[4:]), h.order.Uint32(b[12:])
	if body > maxMessage || fields > maxMessage {
		return h, errNoMessage
	}
	h.body, h.serial, h.fields = int(body), h.order.Uint32(b[8:]), int(fields+7)&^7
	return h, nil
}

// sender finds the sender in the fields of a message that can't be decoded, or
// is not read as a whole. It is good for an answer, and for nothing else.
func sender(frame []byte, order binary.ByteOrder) string {
	if len(frame) < headSize {
		return ""
	}
	end := headSize + int(min(order.Uint32(frame[12:]), maxMessage))
	b := frame[:min(end, len(frame))]
	at := headSize
	// take returns the next n bytes after padding to align.
	take := func(align, n int) []byte {
		at = (at + align - 1) / align * align
		if n < 0 || at+n > len(b) {
			at = len(b)
			return nil
		}
		at += n
		return b[at-n : at]
	}
	for at < len(b) {
		field := take(8, 2) // code, length of the signature
		if field == nil {
			return ""
		}
		code, signature := dbus.HeaderField(field[0]), take(1, int(field[1])+1)
		var value []byte
		switch string(signature) {
		case "s\x00", "o\x00":
			if n := take(4, 4); n != nil {
				value = take(1, int(min(order.Uint32(n), maxMessage))+1)
			}
		case "g\x00":
			if n := take(1, 1); n != nil {
				value = take(1, int(n[0])+1)
			}
		case "u\x00":
			value = take(4, 4)
		}
		if len(value) == 0 {
			return ""
		}
		if code == dbus.FieldSender {
			return string(value[:len(value)-1])
		}
	}
	return ""
}
