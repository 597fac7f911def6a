package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// google/nftables v0.3.0 writes and reads the expressions of rules here, and no more: of a rule it drops the expressions
// that it does not know, of a map the verdicts, and a batch that the kernel refuses as a whole makes it wait for ever.

// replyWait bounds every wait for the kernel, which answers at once.
const replyWait = 10 * time.Second

// dial opens a socket to nf_tables in the calling thread's network namespace.
func dial() (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	if err := conn.SetDeadline(time.Now().Add(replyWait)); err != nil {
		conn.Close()
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return conn, nil
}

// payload is a run of netlink attributes to send.
type payload []byte

func (p payload) bytes(kind uint16, data []byte) payload {
	p = binary.NativeEndian.AppendUint16(p, uint16(unix.SizeofNlAttr+len(data)))
	p = binary.NativeEndian.AppendUint16(p, kind)
	p = append(p, data...)
	for len(p)%unix.NLA_ALIGNTO != 0 {
		p = append(p, 0)
	}
	return p
}

func (p payload) text(kind uint16, s string) payload { return p.bytes(kind, append([]byte(s), 0)) }

func (p payload) number(kind uint16, n uint32) payload {
	return p.bytes(kind, binary.BigEndian.AppendUint32(nil, n))
}

func (p payload) nest(kind uint16, inner payload) payload {
	return p.bytes(kind|unix.NLA_F_NESTED, inner)
}

// attributes are those that came, by type.
type attributes map[uint16][]byte

const typeMask = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER

func parseAttributes(data []byte) (attributes, error) {
	list, err := netlink.UnmarshalAttributes(data)
	if err != nil {
		return nil, err
	}
	out := make(attributes, len(list))
	for _, a := range list {
		out[a.Type&typeMask] = a.Data
	}
	return out, nil
}

// parseList reads a list of nests.
func parseList(data []byte) ([][]byte, error) {
	list, err := netlink.UnmarshalAttributes(data)
	if err != nil {
		return nil, err
	}
	out := make([][]byte, len(list))
	for i, a := range list {
		out[i] = a.Data
	}
	return out, nil
}

// find is the attribute of a type, nil if there is none before the data ends or makes no sense. Elements come by the
// thousand, and a map for each would take most of the time.
func find(data []byte, kind uint16) []byte {
	for len(data) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(data))
		if size < unix.SizeofNlAttr || size > len(data) {
			return nil
		}
		if binary.NativeEndian.Uint16(data[2:])&typeMask == kind {
			return data[unix.SizeofNlAttr:size]
		}
		data = data[min(len(data), (size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
	return nil
}

func (a attributes) text(kind uint16) string { return text(a[kind]) }

// number is 0 where there is none: so the kernel leaves out flags that are not set.
func (a attributes) number(kind uint16) uint32 { return number(a[kind]) }

func text(data []byte) string { return string(bytes.TrimSuffix(data, []byte{0})) }

func number(data []byte) uint32 {
	if len(data) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(data)
}

// ask sends one request and returns the attributes of every answer. What does not exist is no answer.
func ask(conn *netlink.Conn, kind uint16, flags netlink.HeaderFlags, family uint8, p payload) ([]attributes, error) {
	replies, err := conn.Execute(message(kind, flags, family, p))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, refusal(err)
	}
	out := make([]attributes, len(replies))
	for i, r := range replies {
		if len(r.Data) < 4 {
			return nil, fmt.Errorf("answer of %d bytes", len(r.Data))
		}
		if out[i], err = parseAttributes(r.Data[4:]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func message(kind uint16, flags netlink.HeaderFlags, family uint8, p payload) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | flags,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, p...),
	}
}

// batch is a transaction: all of it happens, or nothing.
type batch []netlink.Message

func (b *batch) add(kind uint16, flags netlink.HeaderFlags, family uint8, p payload) {
	*b = append(*b, message(kind, flags, family, p))
}

// writeBuffer lets a transaction of any size through: at the default 208 KiB one of 500 rules fails with EMSGSIZE. It
// is a limit, not an allocation.
const writeBuffer = 64 << 20 // bytes

// commit does all that is in the batch. Only the last message asks for an acknowledgement: errors come unasked and before
// it, and ten thousand acknowledgements would not fit into the socket's buffer. With at not 0 it fails with ERESTART when
// the generation is another by then.
func (b batch) commit(at uint32) error {
	if len(b) == 0 {
		return nil
	}
	conn, err := dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteBuffer(writeBuffer); err != nil {
		return err
	}
	if err := conn.SetOption(netlink.CapAcknowledge, true); err != nil { // errors without the message that they are about
		return err
	}
	begin := batchMessage(unix.NFNL_MSG_BATCH_BEGIN)
	if at != 0 {
		begin.Data = append(begin.Data, payload{}.number(unix.NFNL_BATCH_GENID, at)...)
	}
	all := append(batch{begin}, b...)
	last := len(all) - 1
	all[last].Header.Flags |= netlink.Acknowledge
	sent, err := conn.SendMessages(append(all, batchMessage(unix.NFNL_MSG_BATCH_END)))
	if err != nil {
		return err
	}
	for {
		replies, err := conn.Receive()
		if err != nil {
			return refusal(err)
		}
		for _, r := range replies {
			if r.Header.Type == netlink.Error && r.Header.Sequence == sent[last].Header.Sequence {
				return nil
			}
		}
	}
}

// refusal is the kernel's answer without "netlink receive".
func refusal(err error) error {
	var refused *netlink.OpError
	if errors.As(err, &refused) {
		return refused.Err
	}
	return err
}

func batchMessage(kind netlink.HeaderType) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
	}
}
