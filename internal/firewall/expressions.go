package firewall

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Offsets in an IPv4 header, bytes.
const (
	offsetSource      = 12
	offsetDestination = 16
)

// expressions is the rule for the kernel, as nft itself would compile it.
func (r rule) expressions() []expr.Any {
	var out []expr.Any
	add := func(e ...expr.Any) { out = append(out, e...) }
	if r.in.set {
		add(interfaceMatch(expr.MetaKeyIIFNAME, r.in)...)
	}
	if r.out.set {
		add(interfaceMatch(expr.MetaKeyOIFNAME, r.out)...)
	}
	if r.source.set {
		add(prefixMatch(offsetSource, r.source)...)
	}
	if r.destination.set {
		add(prefixMatch(offsetDestination, r.destination)...)
	}
	if r.established {
		states := native(expr.CtStateBitRELATED | expr.CtStateBitESTABLISHED)
		add(&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: states, Xor: native(0)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native(0)})
	}
	add(&expr.Counter{})
	switch r.target {
	case "ACCEPT":
		add(&expr.Verdict{Kind: expr.VerdictAccept})
	case "DROP":
		add(&expr.Verdict{Kind: expr.VerdictDrop})
	case "MASQUERADE":
		add(&expr.Masq{})
	case "MARK":
		add(&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(^r.mask), Xor: native(r.mark)},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1})
	}
	return out
}

func interfaceMatch(key expr.MetaKey, m match[string]) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ) // the kernel compares the whole, padded name
	copy(name, m.value)
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: equality(m.not), Register: 1, Data: name},
	}
}

func prefixMatch(offset uint32, m match[netip.Prefix]) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.CIDRMask(m.value.Bits(), 32), Xor: native(0)},
		&expr.Cmp{Op: equality(m.not), Register: 1, Data: m.value.Addr().AsSlice()},
	}
}

func equality(not bool) expr.CmpOp {
	if not {
		return expr.CmpOpNeq
	}
	return expr.CmpOpEq
}

func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// sameExpressions compares what a packet meets: counts do not matter.
func sameExpressions(a, b []expr.Any) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, errX := wire(a[i])
		y, errY := wire(b[i])
		if errX != nil || errY != nil || !bytes.Equal(x, y) {
			return false
		}
	}
	return true
}

func wire(e expr.Any) ([]byte, error) {
	if _, ok := e.(*expr.Counter); ok {
		e = &expr.Counter{}
	}
	return expr.Marshal(byte(nftables.TableFamilyIPv4), e)
}
