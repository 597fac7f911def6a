package firewall

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// dataType is a type of nft's, as its listing needs it: the kernel only keeps it.
type dataType struct {
	id, size uint32 // size in bytes
	order    uint32 // of bytes: 0 none, 1 the host's, 2 the network's
}

var (
	typeFamily  = dataType{2, 1, 0}
	typeAddress = dataType{7, 4, 2}
	typeMark    = dataType{19, 4, 1}
	typeIfname  = dataType{41, 16, 1}
)

func typeOf(f policy.Field) dataType {
	switch f {
	case policy.FieldFamily:
		return typeFamily
	case policy.FieldIn, policy.FieldOut:
		return typeIfname
	}
	return typeAddress
}

// fieldSize is a field's size in a key, bytes: a multiple of a register's.
func fieldSize(f policy.Field) int { return (int(typeOf(f).size) + 3) &^ 3 }

const (
	concatBits   = 6    // of each type in the type of a concatenation
	setConcat    = 0x80 // NFT_SET_CONCAT: ranges in every field
	descConcat   = 2    // NFTA_SET_DESC_CONCAT
	elemKeyEnd   = 10   // NFTA_SET_ELEM_KEY_END
	fieldLen     = 1    // NFTA_SET_FIELD_LEN
	setExpr      = 17   // NFTA_SET_EXPR
	keyOrderTag  = 0    // NFTNL_UDATA_SET_KEYBYTEORDER
	dataOrderTag = 1    // NFTNL_UDATA_SET_DATABYTEORDER
)

func setPayload(name policy.SetName) payload {
	s := policy.Sets[name]
	key, size, order := uint32(0), 0, uint32(0)
	var fields payload
	for _, f := range s.Fields {
		t := typeOf(f)
		key, size, order = key<<concatBits|t.id, size+fieldSize(f), t.order
		fields = fields.nest(unix.NFTA_LIST_ELEM, payload{}.number(fieldLen, t.size))
	}
	if len(s.Fields) == 1 {
		size = int(typeOf(s.Fields[0]).size)
	} else {
		order = 0
	}
	flags := uint32(0)
	if s.Interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	if s.Value != policy.NoValue {
		flags |= unix.NFT_SET_MAP
	}
	p := payload{}.text(unix.NFTA_SET_TABLE, policy.TableName).text(unix.NFTA_SET_NAME, string(name))
	userData := appendNumber(nil, keyOrderTag, order)
	if s.Interval && len(s.Fields) > 1 {
		flags |= setConcat
		p = p.nest(unix.NFTA_SET_DESC, payload{}.nest(descConcat, fields))
	}
	if flags != 0 {
		p = p.number(unix.NFTA_SET_FLAGS, flags)
	}
	p = p.number(unix.NFTA_SET_KEY_TYPE, key).number(unix.NFTA_SET_KEY_LEN, uint32(size))
	switch s.Value {
	case policy.ValueVerdict:
		p = p.number(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT).number(unix.NFTA_SET_DATA_LEN, 0)
		userData = appendNumber(userData, dataOrderTag, 0)
	case policy.ValueMark:
		p = p.number(unix.NFTA_SET_DATA_TYPE, typeMark.id).number(unix.NFTA_SET_DATA_LEN, typeMark.size)
		userData = appendNumber(userData, dataOrderTag, typeMark.order)
	}
	if s.Counted {
		p = p.nest(setExpr, payload{}.text(unix.NFTA_EXPR_NAME, "counter").nest(unix.NFTA_EXPR_DATA, nil))
	}
	return p.bytes(unix.NFTA_SET_USERDATA, userData)
}

// appendNumber adds to what nft keeps beside an object, for its own listing.
func appendNumber(userData []byte, tag byte, n uint32) []byte {
	return appendUserData(userData, tag, native(n))
}

func appendUserData(userData []byte, tag byte, data []byte) []byte {
	return append(append(userData, tag, byte(len(data))), data...)
}

// isSet compares what the kernel has with what we would make.
func isSet(have attributes, name policy.SetName) bool {
	want, err := parseAttributes(setPayload(name))
	if err != nil {
		return false
	}
	counts := func(a attributes) string {
		e, _ := parseAttributes(a[setExpr])
		return e.text(unix.NFTA_EXPR_NAME)
	}
	return counts(want) == counts(have) && same(want, have, unix.NFTA_SET_NAME, unix.NFTA_SET_FLAGS,
		unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN, unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_TIMEOUT)
}

// entry is an element as the kernel has it. An interval is two of them, its first address and the one behind its last;
// with several fields it is one with two keys, the first and the last of every field.
type entry struct {
	key, last []byte
	end       bool // of an interval
	chain     string
	mark      []byte
}

// entries is an element for the kernel.
func entries(e policy.Element) ([]entry, error) {
	s := policy.Sets[e.Set]
	var one entry
	var err error
	if one.key, err = keyOf(e, e.Net.Addr()); err != nil {
		return nil, err
	}
	switch s.Value {
	case policy.ValueVerdict:
		one.chain = e.Chain
	case policy.ValueMark:
		one.mark = native(e.Mark)
	}
	if !s.Interval {
		return []entry{one}, nil
	}
	last := lastAddress(e.Net)
	if len(s.Fields) > 1 {
		one.last, err = keyOf(e, last)
		return []entry{one}, err
	}
	if behind := last.Next(); behind.IsValid() {
		return []entry{one, {key: behind.AsSlice(), end: true}}, nil
	}
	return []entry{one}, nil // to the last address of all
}

// keyOf is the element's key, with addr for its network.
func keyOf(e policy.Element, addr netip.Addr) ([]byte, error) {
	var key []byte
	for _, f := range policy.Sets[e.Set].Fields {
		part := make([]byte, fieldSize(f))
		switch f {
		case policy.FieldFamily:
			if e.Family != policy.IPv4 && e.Family != policy.IPv6 {
				return nil, fmt.Errorf("element of set %s: no family", e.Set)
			}
			part[0] = protocolFamily(e.Family)
		case policy.FieldIn, policy.FieldOut:
			name := e.In
			if f == policy.FieldOut {
				name = e.Out
			}
			if name == "" || len(name) >= unix.IFNAMSIZ {
				return nil, fmt.Errorf("element of set %s: invalid interface name %.40q", e.Set, name)
			}
			copy(part, name)
		default:
			if !e.Net.IsValid() || !e.Net.Addr().Is4() || e.Net != e.Net.Masked() {
				return nil, fmt.Errorf("element of set %s: %v is no IPv4 network", e.Set, e.Net)
			}
			copy(part, addr.AsSlice())
		}
		key = append(key, part...)
	}
	return key, nil
}

func lastAddress(p netip.Prefix) netip.Addr {
	if !p.IsValid() || !p.Addr().Is4() {
		return p.Addr()
	}
	a := p.Addr().As4()
	host := uint32(1)<<(32-p.Bits()) - 1
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(a[:])|host)))
}

// network is the prefix from first to last, if there is one.
func network(first, last netip.Addr) (netip.Prefix, bool) {
	a, b := first.As4(), last.As4()
	differ := binary.BigEndian.Uint32(a[:]) ^ binary.BigEndian.Uint32(b[:])
	p := netip.PrefixFrom(first, 32-bits.Len32(differ))
	return p, p == p.Masked() && lastAddress(p) == last
}

// elements turns entries into elements. pure is false when some are of no shape that we write.
func elements(name policy.SetName, list []entry) (out []policy.Element, pure bool) {
	s := policy.Sets[name]
	pure = true
	var ends []netip.Addr // of plain intervals
	if s.Interval && len(s.Fields) == 1 {
		for _, e := range list {
			if addr, ok := netip.AddrFromSlice(e.key); ok && e.end {
				ends = append(ends, addr)
			}
		}
		slices.SortFunc(ends, netip.Addr.Compare)
	}
	for _, e := range list {
		if e.end {
			continue
		}
		element, ok := elementOf(name, e, ends)
		if ok {
			out = append(out, element)
		}
		pure = pure && ok
	}
	return out, pure
}

func elementOf(name policy.SetName, e entry, ends []netip.Addr) (policy.Element, bool) {
	s := policy.Sets[name]
	el := policy.Element{Set: name, Chain: e.chain}
	if len(e.mark) == 4 {
		el.Mark = binary.NativeEndian.Uint32(e.mark)
	}
	at := 0
	for _, f := range s.Fields {
		to := at + fieldSize(f)
		if to > len(e.key) || e.last != nil && to > len(e.last) {
			return el, false
		}
		part := e.key[at:to]
		switch f {
		case policy.FieldFamily:
			switch part[0] {
			case unix.NFPROTO_IPV4:
				el.Family = policy.IPv4
			case unix.NFPROTO_IPV6:
				el.Family = policy.IPv6
			}
		case policy.FieldIn:
			el.In = string(bytes.TrimRight(part, "\x00"))
		case policy.FieldOut:
			el.Out = string(bytes.TrimRight(part, "\x00"))
		default:
			first := netip.AddrFrom4([4]byte(part))
			last := netip.AddrFrom4([4]byte{255, 255, 255, 255})
			if e.last != nil {
				last = netip.AddrFrom4([4]byte(e.last[at:to]))
			} else if i := slices.IndexFunc(ends, func(end netip.Addr) bool { return first.Less(end) }); i >= 0 {
				last = ends[i].Prev()
			}
			var ok bool
			if el.Net, ok = network(first, last); !ok {
				return el, false
			}
		}
		at = to
	}
	// Whatever else is in e is in no element of ours.
	want, err := entries(el)
	return el, err == nil && bytes.Equal(want[0].key, e.key) && bytes.Equal(want[0].last, e.last) &&
		want[0].chain == e.chain && bytes.Equal(want[0].mark, e.mark)
}

// readElements lists a set.
func readElements(conn *netlink.Conn, name policy.SetName) (out []policy.Element, pure bool, err error) {
	answers, err := ask(conn, unix.NFT_MSG_GETSETELEM, netlink.Dump, unix.NFPROTO_INET, payload{}.
		text(unix.NFTA_SET_ELEM_LIST_TABLE, policy.TableName).text(unix.NFTA_SET_ELEM_LIST_SET, string(name)))
	if err != nil {
		return nil, false, err
	}
	var list []entry
	pure = true
	for _, a := range answers {
		items, err := parseList(a[unix.NFTA_SET_ELEM_LIST_ELEMENTS])
		if err != nil {
			return nil, false, err
		}
		for _, item := range items {
			e, ok := parseEntry(item)
			list = append(list, e)
			pure = pure && ok
		}
	}
	out, ok := elements(name, list)
	return out, pure && ok, nil
}

// parseEntry reads one element of the kernel's answer. What else it may carry, such as a counter, a comment or a timeout,
// does not matter: it is the set that allows it, and the set has been looked at.
func parseEntry(data []byte) (e entry, ok bool) {
	flags := number(find(data, unix.NFTA_SET_ELEM_FLAGS))
	e.end = flags == unix.NFT_SET_ELEM_INTERVAL_END
	e.key = find(find(data, unix.NFTA_SET_ELEM_KEY), unix.NFTA_DATA_VALUE)
	e.last = find(find(data, elemKeyEnd), unix.NFTA_DATA_VALUE)
	value := find(data, unix.NFTA_SET_ELEM_DATA)
	e.mark = find(value, unix.NFTA_DATA_VALUE)
	if verdict := find(value, unix.NFTA_DATA_VERDICT); verdict != nil {
		e.chain = text(find(verdict, unix.NFTA_VERDICT_CHAIN))
		if int32(number(find(verdict, unix.NFTA_VERDICT_CODE))) != unix.NFT_GOTO {
			return e, false
		}
	}
	return e, e.key != nil && (flags == 0 || e.end)
}

// messageSize bounds the elements of one message: an attribute cannot be longer than 64 KiB.
const messageSize = 32 << 10 // bytes

// addElements adds messages that make or delete elements of one set.
func addElements(b *batch, kind uint16, flags netlink.HeaderFlags, name policy.SetName, list []policy.Element) error {
	var items payload
	send := func() {
		if len(items) > 0 {
			b.add(kind, flags, unix.NFPROTO_INET, payload{}.
				text(unix.NFTA_SET_ELEM_LIST_TABLE, policy.TableName).
				text(unix.NFTA_SET_ELEM_LIST_SET, string(name)).
				nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, items))
		}
		items = nil
	}
	for _, e := range list {
		all, err := entries(e)
		if err != nil {
			return err
		}
		for _, one := range all {
			items = items.nest(unix.NFTA_LIST_ELEM, one.payload(kind == unix.NFT_MSG_NEWSETELEM))
		}
		if len(items) > messageSize {
			send()
		}
	}
	send()
	return nil
}

// payload is the entry for the kernel. To delete it, its key is enough.
func (e entry) payload(withValue bool) payload {
	var p payload
	if e.end {
		p = p.number(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	p = p.nest(unix.NFTA_SET_ELEM_KEY, payload{}.bytes(unix.NFTA_DATA_VALUE, e.key))
	if e.last != nil {
		p = p.nest(elemKeyEnd, payload{}.bytes(unix.NFTA_DATA_VALUE, e.last))
	}
	switch {
	case !withValue:
	case e.chain != "":
		code := int32(unix.NFT_GOTO)
		p = p.nest(unix.NFTA_SET_ELEM_DATA, payload{}.nest(unix.NFTA_DATA_VERDICT, payload{}.
			number(unix.NFTA_VERDICT_CODE, uint32(code)).text(unix.NFTA_VERDICT_CHAIN, e.chain)))
	case e.mark != nil:
		p = p.nest(unix.NFTA_SET_ELEM_DATA, payload{}.bytes(unix.NFTA_DATA_VALUE, e.mark))
	}
	return p
}
