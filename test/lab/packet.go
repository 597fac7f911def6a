package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Packet is what a [Capture] saw of an IP or ARP packet.
type Packet struct {
	Time     time.Time
	Outgoing bool // sent by the node, as seen on the captured interface

	SrcMAC, DstMAC string
	EtherType      uint16 // unix.ETH_P_IP, ETH_P_IPV6 or ETH_P_ARP
	ARPRequest     bool

	Src, Dst         netip.Addr // of ARP the sender's and the target's
	Proto            uint8      // unix.IPPROTO_*; 0 for ARP
	SrcPort, DstPort uint16     // of UDP and TCP; 0 otherwise
	ICMPType         uint8      // of ICMP and ICMPv6, as is ICMPCode; 0 otherwise
	ICMPCode         uint8
	Size             int // of the whole frame

	Frame []byte // for a filter only, which must not keep it
}

// IsARP tells whether the packet is ARP, which is there on any network.
func (p Packet) IsARP() bool { return p.EtherType == unix.ETH_P_ARP }

// Touches tells whether the packet comes from or goes to an address in the prefix.
func (p Packet) Touches(prefix netip.Prefix) bool {
	return prefix.Contains(p.Src) || prefix.Contains(p.Dst)
}

func (p Packet) String() string {
	direction := "in"
	if p.Outgoing {
		direction = "out"
	}
	if p.IsARP() {
		return fmt.Sprintf("%s ARP %s (%s) for %s, request %t", direction, p.Src, p.SrcMAC, p.Dst, p.ARPRequest)
	}
	if p.Proto == unix.IPPROTO_ICMP || p.Proto == unix.IPPROTO_ICMPV6 {
		return fmt.Sprintf("%s %s > %s ICMP type %d code %d, %d bytes", direction, p.Src, p.Dst, p.ICMPType, p.ICMPCode, p.Size)
	}
	return fmt.Sprintf("%s %s > %s proto %d, %d bytes", direction,
		netip.AddrPortFrom(p.Src, p.SrcPort), netip.AddrPortFrom(p.Dst, p.DstPort), p.Proto, p.Size)
}

// parsePacket reads an Ethernet frame; false when it is neither IP nor ARP, or cut short.
func parsePacket(frame []byte) (Packet, bool) {
	const ethernet = 14
	if len(frame) < ethernet {
		return Packet{}, false
	}
	p := Packet{
		DstMAC:    net.HardwareAddr(frame[:6]).String(),
		SrcMAC:    net.HardwareAddr(frame[6:12]).String(),
		EtherType: binary.BigEndian.Uint16(frame[12:]),
		Size:      len(frame),
		Frame:     frame,
	}
	body := frame[ethernet:]
	var payload []byte
	switch {
	case p.EtherType == unix.ETH_P_IP && len(body) >= 20:
		p.Proto = body[9]
		p.Src, p.Dst = addrFrom(body[12:16]), addrFrom(body[16:20])
		if binary.BigEndian.Uint16(body[6:])&0x1fff == 0 { // only the first fragment has ports
			payload = body[min(len(body), int(body[0]&0xf)*4):]
		}
	case p.EtherType == unix.ETH_P_IPV6 && len(body) >= 40:
		p.Proto = body[6]
		p.Src, p.Dst = addrFrom(body[8:24]), addrFrom(body[24:40])
		payload = body[40:]
	case p.EtherType == unix.ETH_P_ARP && len(body) >= 28:
		p.ARPRequest = binary.BigEndian.Uint16(body[6:]) == 1
		p.Src, p.Dst = addrFrom(body[14:18]), addrFrom(body[24:28])
	default:
		return Packet{}, false
	}
	if (p.Proto == unix.IPPROTO_UDP || p.Proto == unix.IPPROTO_TCP) && len(payload) >= 4 {
		p.SrcPort, p.DstPort = binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])
	}
	if (p.Proto == unix.IPPROTO_ICMP || p.Proto == unix.IPPROTO_ICMPV6) && len(payload) >= 2 {
		p.ICMPType, p.ICMPCode = payload[0], payload[1]
	}
	return p, true
}

func addrFrom(b []byte) netip.Addr {
	addr, _ := netip.AddrFromSlice(b)
	return addr
}
