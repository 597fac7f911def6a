package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

// connection is an entry of the kernel's connection tracking.
type connection struct {
	source     netip.Addr // who began it
	answerFrom netip.Addr // who answers, before any translation of ours
	answerTo   netip.Addr // and to whom, which is another than source when that is translated
	protocol   uint8
	status     uint32
	tcpState   uint8
	left       time.Duration // until it expires, if no packet comes, in whole seconds

	family  uint8
	id, key []byte // to delete it: CTA_ID, CTA_TUPLE_ORIG, and CTA_ZONE if it has one
	zone    []byte
}

// Of linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_common.h and nf_conntrack_tcp.h, which package unix has not.
const (
	ctNew, ctGet, ctDelete = 0, 1, 2 // messages

	ctaTupleOrig, ctaTupleReply, ctaStatus, ctaProtoInfo, ctaTimeout, ctaID, ctaZone = 1, 2, 3, 4, 7, 12, 18

	ctaTupleIP, ctaTupleProto                  = 1, 2
	ctaIP4Src, ctaIP4Dst, ctaIP6Src, ctaIP6Dst = 1, 2, 3, 4
	ctaProtoNum                                = 1
	ctaProtoInfoTCP, ctaTCPState               = 1, 1

	ipsSeenReply, ipsAssured, ipsOffload = 1 << 1, 1 << 2, 1 << 14

	sizeofNfGenMsg = 4
)

// tcpStates are the kernel's names of TCP's states in the order of their numbers, as its timeouts have them.
var tcpStates = [...]string{"", "syn_sent", "syn_recv", "established", "fin_wait", "close_wait", "last_ack", "time_wait", "close", "syn_sent"}

const tcpLastAck, tcpTimeWait, tcpClose = 6, 7, 8

// Flush forgets connections of lanes' subnets: those that are not translated, or all. Translated ones go on by
// default: an answer to one that is forgotten would find nobody on the host, who would say so to the internet by
// its own default. It costs one list of all connections, which takes the kernel some 10 ms however few they are.
func (k *Kernel) Flush(flushes []policy.Conntrack) error {
	all := make(map[netip.Prefix]bool, len(flushes))
	var of []netip.Prefix
	for _, c := range flushes {
		all[c.Subnet] = all[c.Subnet] || c.All
		of = append(of, c.Subnet)
	}
	set := newSubnets(of...)
	return k.forget(set, func(e *connection) bool {
		return slices.ContainsFunc(set.of(e), func(p netip.Prefix) bool { return all[p] || p.Contains(e.source) && p.Contains(e.answerTo) })
	})
}

// Tracked tells which of these subnets still have live connections: ones of which a packet may still
// come that the host would answer by itself if it did not know them. It costs one list of all connections.
func (k *Kernel) Tracked(of []netip.Prefix) (map[netip.Prefix]bool, error) {
	set, times := newSubnets(of...), k.readTimeouts()
	out := map[netip.Prefix]bool{}
	err := k.listConnections(set.family(), func(e *connection) {
		for _, subnet := range set.of(e) {
			if !out[subnet] && times.live(e) {
				out[subnet] = true
			}
		}
	})
	return out, err
}

// forget deletes those connections of subnets that which picks.
func (k *Kernel) forget(set subnets, which func(*connection) bool) error {
	var doomed []connection
	if err := k.listConnections(set.family(), func(e *connection) {
		if len(set.of(e)) > 0 && which(e) {
			c := *e
			c.id, c.key, c.zone = slices.Clone(e.id), slices.Clone(e.key), slices.Clone(e.zone)
			doomed = append(doomed, c)
		}
	}); err != nil {
		return err
	}
	var errs []error
	for _, c := range doomed {
		body := []byte{c.family, unix.NFNETLINK_V0, 0, 0}
		body = appendAttr(body, ctaTupleOrig|unix.NLA_F_NESTED, c.key)
		body = appendAttr(body, ctaID, c.id) // so that it is this one, not the next with its ports
		if c.zone != nil {
			body = appendAttr(body, ctaZone, c.zone)
		}
		err := k.connections.do(unix.NFNL_SUBSYS_CTNETLINK<<8|ctDelete, unix.NLM_F_ACK, body, nil)
		if err != nil && err != unix.ENOENT {
			errs = append(errs, fmt.Errorf("forget a connection of %s: %w", c.source, err))
		}
	}
	return errors.Join(errs...)
}

// ErrNoConntrack says that the kernel can't list the connections that it tracks.
var ErrNoConntrack = errors.New("the kernel can't list connections: load the module nf_conntrack_netlink, or use a kernel that has it")

// listConnections hands every connection of a family, or with 0 of all, to each, which must not keep it.
func (k *Kernel) listConnections(af uint8, each func(*connection)) error {
	if k.connections == nil {
		d, err := openDirect(unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNoConntrack, err)
		}
		k.connections = d
	}
	dumps.Add(1)
	err := k.connections.do(unix.NFNL_SUBSYS_CTNETLINK<<8|ctGet, unix.NLM_F_DUMP, []byte{af, unix.NFNETLINK_V0, 0, 0}, func(body []byte) {
		if c, ok := parseConnection(body); ok {
			each(&c)
		}
	})
	if lacksConntrack(err) {
		return fmt.Errorf("%w: %w", ErrNoConntrack, err)
	}
	if err != nil {
		return fmt.Errorf("list connections: %w", err)
	}
	return nil
}

// lacksConntrack tells whether an error is that of a kernel whose netfilter has no such part.
func lacksConntrack(err error) bool { return err == unix.EINVAL || err == unix.EOPNOTSUPP }

// parseConnection reads a message of one connection; false when it is of neither family. It keeps parts of body.
func parseConnection(body []byte) (connection, bool) {
	var c connection
	if len(body) < sizeofNfGenMsg || familiesOf(body[0]) == 0 {
		return c, false
	}
	c.family = body[0]
	for kind, v := range attrs(body[sizeofNfGenMsg:]) {
		switch kind {
		case ctaTupleOrig:
			c.key = v
			c.source, _, c.protocol = parseTuple(v)
		case ctaTupleReply:
			c.answerFrom, c.answerTo, _ = parseTuple(v)
		case ctaStatus:
			c.status = bigNumber(v)
		case ctaTimeout:
			c.left = time.Duration(bigNumber(v)) * time.Second
		case ctaID:
			c.id = v
		case ctaZone:
			c.zone = v
		case ctaProtoInfo:
			for kind, v := range attrs(v) {
				if kind != ctaProtoInfoTCP {
					continue
				}
				for kind, v := range attrs(v) {
					if kind == ctaTCPState && len(v) > 0 {
						c.tcpState = v[0]
					}
				}
			}
		}
	}
	return c, c.source.IsValid() && c.answerFrom.IsValid() && c.answerTo.IsValid()
}

func parseTuple(b []byte) (src, dst netip.Addr, protocol uint8) {
	for kind, v := range attrs(b) {
		switch kind {
		case ctaTupleIP:
			for kind, v := range attrs(v) {
				switch kind {
				case ctaIP4Src, ctaIP6Src:
					src = address(v)
				case ctaIP4Dst, ctaIP6Dst:
					dst = address(v)
				}
			}
		case ctaTupleProto:
			for kind, v := range attrs(v) {
				if kind == ctaProtoNum && len(v) > 0 {
					protocol = v[0]
				}
			}
		}
	}
	return src, dst, protocol
}

// bigNumber is a 32-bit value in network order, as netfilter has them; 0 when it is too short for one.
func bigNumber(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(v)
}

// subnets is a set of lanes' subnets.
type subnets struct {
	set  map[netip.Prefix]bool
	bits []int // the lengths there are
}

func newSubnets(of ...netip.Prefix) subnets {
	s := subnets{set: make(map[netip.Prefix]bool, len(of))}
	for _, p := range of {
		s.set[p.Masked()] = true
		if !slices.Contains(s.bits, p.Bits()) {
			s.bits = append(s.bits, p.Bits())
		}
	}
	return s
}

// family is the one that all of them have; 0 when they have several.
func (s subnets) family() uint8 {
	var all families
	for p := range s.set {
		all |= addrFamily(p.Addr())
	}
	switch all {
	case v4:
		return unix.AF_INET
	case v6:
		return unix.AF_INET6
	}
	return 0
}

// of returns the subnets that a connection is of: that it began in, or whose programs answer, as one that is published.
func (s subnets) of(c *connection) []netip.Prefix {
	var out []netip.Prefix
	for _, bits := range s.bits {
		for _, a := range [...]netip.Addr{c.source, c.answerFrom} {
			if p, err := a.Prefix(bits); err == nil && s.set[p] {
				out = append(out, p)
			}
		}
	}
	return out
}

// timeouts are how long the kernel keeps connections without a packet.
type timeouts struct {
	udp, udpStream   time.Duration
	generic          time.Duration // of other protocols
	tcp              [len(tcpStates)]time.Duration
	unacked, resends time.Duration // TCP's, when the other end does not answer; they only shorten
}

// tcpIdle is how long a TCP connection without a packet counts as live; answers come sooner, or not at all.
const tcpIdle = 5 * time.Minute

// How long answers to a packet of a protocol without connections may take: to one that has had an answer, to one that
// has had none yet.
const answered, unanswered = time.Second, 5 * time.Second

// readTimeouts reads them; what can't be read is 0, and then never shorter than what is left.
func (k *Kernel) readTimeouts() *timeouts {
	read := func(name string) time.Duration {
		v, _ := k.switches.read("net/netfilter/nf_conntrack_" + name)
		seconds, _ := strconv.Atoi(v)
		return time.Duration(seconds) * time.Second
	}
	t := &timeouts{
		udp: read("udp_timeout"), udpStream: read("udp_timeout_stream"), generic: read("generic_timeout"),
		unacked: read("tcp_timeout_unacknowledged"), resends: read("tcp_timeout_max_retrans"),
	}
	for i, name := range tcpStates {
		if name != "" {
			t.tcp[i] = read("tcp_timeout_" + name)
		}
	}
	return t
}

// live tells whether packets of a connection may still come from outside that matter to somebody.
func (t *timeouts) live(c *connection) bool {
	switch {
	case c.answerFrom.IsMulticast():
		return false // nobody answers by this address
	case c.status&ipsOffload != 0:
		return true // a flow table has it, and its time does not tell when the last packet came
	}
	switch c.protocol {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return false // to a late echo reply the host says nothing
	case unix.IPPROTO_TCP:
		switch c.tcpState {
		case tcpLastAck, tcpTimeWait, tcpClose:
			return false // both sides have finished
		}
		if int(c.tcpState) >= len(t.tcp) {
			return true
		}
		return idle(c.left, t.tcp[c.tcpState], t.unacked, t.resends) < tcpIdle
	case unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE:
		switch {
		case c.status&ipsAssured != 0:
			return true // a conversation
		case c.status&ipsSeenReply != 0:
			return idle(c.left, t.udp, t.udpStream) <= answered // a question that has its answer, such as DNS
		}
		return idle(c.left, t.udp) <= unanswered
	}
	return c.status&ipsSeenReply != 0 || idle(c.left, t.generic) <= unanswered
}

// idle is how long no packet of a connection came that expires in left, when the last one set
// its time to one of these: the shortest that can be. The kernel cuts left to whole seconds, which lengthens it
// by up to one.
func idle(left time.Duration, set ...time.Duration) time.Duration {
	out := time.Duration(-1)
	for _, s := range set {
		if since := s - left; since >= 0 && (out < 0 || since < out) {
			out = since
		}
	}
	return max(out, 0) // longer than any: somebody has changed them since
}
