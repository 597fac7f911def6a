package kernel

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attrs goes through the attributes in b, and ends where they make no sense.
func attrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			a := (*unix.RtAttr)(unsafe.Pointer(&b[0]))
			size := int(a.Len)
			if size < unix.SizeofRtAttr || size > len(b) {
				return
			}
			if !yield(a.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:size]) {
				return
			}
			b = b[min(len(b), (size+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1)):]
		}
	}
}

// attr returns a 32-bit attribute of a message.
func attr(b []byte, kind uint16) (uint32, bool) {
	for k, v := range attrs(b) {
		if k == kind && len(v) >= 4 {
			return number(v), true
		}
	}
	return 0, false
}

// number is a 32-bit value; 0 when it is too short for one.
func number(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}

// address is a value of 4 or 16 bytes; the zero Addr when it is neither.
func address(v []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(v)
	return a
}

// text is a value that ends with a zero byte.
func text(v []byte) string { return unix.ByteSliceToString(v) }

func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

func appendNumber(b []byte, kind uint16, value uint32) []byte {
	var v [4]byte
	binary.NativeEndian.PutUint32(v[:], value)
	return appendAttr(b, kind, v[:])
}
