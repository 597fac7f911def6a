package lab

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
)

// Query is a question that one of the internet's name servers was asked.
type Query struct {
	Name   string         // without the last dot, lower case
	Server netip.Addr     // WireDNS or WifiDNS
	From   netip.AddrPort // as the server saw it: a gateway's public address
}

// Queries are the questions asked so far.
func (i *Inet) Queries() []Query {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.queries)
}

// serveDNS answers for whoami.test and example.org; other names do not exist.
func (i *Inet) serveDNS(server netip.Addr) error {
	conn, err := i.ListenPacket("udp", netip.AddrPortFrom(server, 53).String())
	if err != nil {
		return err
	}
	i.world.keep(conn)
	go serveDatagrams(conn, func(question []byte, from netip.AddrPort) []byte {
		name, reply := answerDNS(question)
		if reply != nil {
			i.mu.Lock()
			i.queries = append(i.queries, Query{Name: name, Server: server, From: from})
			i.mu.Unlock()
		}
		return reply
	})
	return nil
}

// answerDNS reads the one question of a message and makes the reply; nil when there is none.
func answerDNS(question []byte) (name string, reply []byte) {
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

	const typeA, noSuchName = 1, 3
	reply = slices.Clone(question[:len(question)-len(rest)+5])
	reply[2], reply[3] = 0x85, 0x80 // an authoritative reply, recursion asked for and available
	copy(reply[6:header], make([]byte, 6))
	switch {
	case name != "whoami.test" && name != "example.org":
		reply[3] |= noSuchName
	case kind == typeA:
		reply[7] = 1                                                          // one answer:
		reply = append(reply, 0xc0, header, 0, typeA, 0, 1, 0, 0, 0, 5, 0, 4) // the same name, five seconds
		reply = append(reply, WhoamiAddr.AsSlice()...)
	}
	return name, reply
}
