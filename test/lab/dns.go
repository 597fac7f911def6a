package lab

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Query is a question that one of the internet's name servers was asked.
type Query struct {
	Name   string         // without the last dot, lower case
	Server netip.Addr     // WireDNS or WifiDNS
	From   netip.AddrPort // as the server saw it: a gateway's public address
	TCP    bool
}

// SplitDomain is where every name is its server's own address, which so tells who was asked: by IPv4 WireDNS or
// WifiDNS, by IPv6 the one of [SplitIPv6]. Answers to names that begin with "long" come by TCP only. They are good for a minute.
const SplitDomain = "split.test"

// SplitIPv6 is what a server answers by IPv6 for names in SplitDomain.
func SplitIPv6(server netip.Addr) netip.Addr {
	addr := netip.MustParseAddr("2001:db8::").As16()
	v4 := server.As4()
	copy(addr[12:], v4[:])
	return netip.AddrFrom16(addr)
}

// Queries are the questions asked so far.
func (i *Inet) Queries() []Query {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.queries)
}

// serveDNS answers for whoami.test, example.org and those in SplitDomain; other names do not exist.
func (i *Inet) serveDNS(server netip.Addr) error {
	answer := func(question []byte, from netip.AddrPort, tcp bool) []byte {
		name, reply := answerDNS(question, server, tcp)
		if reply != nil {
			i.mu.Lock()
			i.queries = append(i.queries, Query{name, server, from, tcp})
			i.mu.Unlock()
		}
		return reply
	}
	address := netip.AddrPortFrom(server, 53).String()
	conn, err := i.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	i.world.keep(conn)
	go serveDatagrams(conn, func(question []byte, from netip.AddrPort) []byte { return answer(question, from, false) })
	streams, err := i.Listen("tcp", address)
	if err != nil {
		return err
	}
	i.world.keep(streams)
	go serveStreams(streams, func(conn net.Conn) {
		from := netip.MustParseAddrPort(conn.RemoteAddr().String())
		for {
			var size [2]byte
			if _, err := io.ReadFull(conn, size[:]); err != nil {
				return
			}
			question := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(conn, question); err != nil {
				return
			}
			reply := answer(question, from, true)
			if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); reply == nil || err != nil {
				return
			}
		}
	})
	return nil
}

// answerDNS reads the one question of a message and makes the reply; nil when there is none.
func answerDNS(question []byte, server netip.Addr, tcp bool) (name string, reply []byte) {
	const header = 12
	if len(question) < header || binary.BigEndian.Uint16(question[4:]) != 1 {
		return "", nil
	}
	var labels []string
	rest := question[header:]
	for len(rest) > 0 && rest[0] != 0 {
		n := int(rest[0])
		if n > 63 || len(rest) < 1+n {
			return "", nil
		}
		labels = append(labels, string(rest[1:1+n]))
		rest = rest[1+n:]
	}
	if len(rest) < 5 { // the root label, type and class
		return "", nil
	}
	kind := binary.BigEndian.Uint16(rest[1:])
	name = strings.ToLower(strings.Join(labels, "."))

	const typeA, typeAAAA, noSuchName, truncated = 1, 28, 3, 2
	reply = slices.Clone(question[:len(question)-len(rest)+5])
	reply[2], reply[3] = 0x85, 0x80 // an authoritative reply, recursion asked for and available
	copy(reply[6:header], make([]byte, 6))
	split := strings.HasSuffix(name, "."+SplitDomain)
	one := func(address []byte, seconds byte) { // answers with the same name
		reply[7] = 1
		reply = append(reply, 0xc0, header, 0, byte(kind), 0, 1, 0, 0, 0, seconds, 0, byte(len(address)))
		reply = append(reply, address...)
	}
	switch {
	case !split && name != "whoami.test" && name != "example.org":
		reply[3] |= noSuchName
	case split && strings.HasPrefix(name, "long") && !tcp:
		reply[2] |= truncated
	case split && kind == typeA:
		one(server.AsSlice(), 60)
	case split && kind == typeAAAA:
		one(SplitIPv6(server).AsSlice(), 60)
	case kind == typeA:
		one(WhoamiAddr.AsSlice(), 5)
	}
	return name, reply
}
