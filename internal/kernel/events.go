package kernel

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

// events is one netlink socket that hears of changes in the host's namespace
// and in every lane's: NETLINK_LISTEN_ALL_NSID spares a socket for each lane.
// What an event says is not used, only which part it makes stale.
type events struct {
	file  *os.File
	conn  syscall.RawConn
	stale *stale
	fresh *freshness

	mu       sync.Mutex // held while the socket is read
	buf, oob []byte
}

// eventBuffer is the socket's receive buffer, bytes: a thousand lanes built at
// once make some 20 000 events. When it overflows all is read again.
const eventBuffer = 4 << 20

var eventGroups = []int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_NSID, unix.RTNLGRP_IPV6_IFINFO,
	unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV6_NETCONF,
}

func watchEvents(stale *stale, fresh *freshness, changed func()) (*events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open event socket: %w", err)
	}
	e := &events{
		file: os.NewFile(uintptr(fd), "rtnetlink events"), stale: stale, fresh: fresh,
		buf: make([]byte, 64<<10), oob: make([]byte, 256),
	}
	if err := e.listen(fd); err != nil {
		e.file.Close()
		return nil, fmt.Errorf("listen to rtnetlink: %w", err)
	}
	if e.conn, err = e.file.SyscallConn(); err != nil {
		e.file.Close()
		return nil, err
	}
	go func() {
		for {
			var any bool
			var err error
			if cerr := e.conn.Read(func(fd uintptr) bool {
				any, err = e.receive(int(fd))
				return any || err != nil
			}); cerr != nil {
				return // closed
			}
			if err != nil {
				return
			}
			changed()
		}
	}()
	return e, nil
}

// catchUp notes what has happened so far. The kernel queues its events before it answers who made
// the change, so all that we have applied is among them.
func (e *events) catchUp() {
	_ = e.conn.Control(func(fd uintptr) { _, _ = e.receive(int(fd)) })
}

func (e *events) listen(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, eventBuffer); err != nil {
		// Without CAP_NET_ADMIN over the initial user namespace: the default must do.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, eventBuffer)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for _, g := range eventGroups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the watching.
func (e *events) Close() { e.file.Close() }

// receive drains the socket; any is false when nothing was there.
func (e *events) receive(fd int) (any bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		n, oobn, _, _, err := unix.Recvmsg(fd, e.buf, e.oob, unix.MSG_DONTWAIT)
		switch err {
		case nil:
			note(e.buf[:n], nsid(e.oob[:oobn]), e.stale, e.fresh)
		case unix.EAGAIN:
			return any, nil
		case unix.EINTR:
			continue
		case unix.ENOBUFS: // some are lost
			e.stale.all()
		default:
			return true, err
		}
		any = true
	}
}

// nsid returns which namespace a message came from; -1 is our own.
func nsid(oob []byte) int {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == unix.NETLINK_LISTEN_ALL_NSID && len(m.Data) >= 4 {
			return int(int32(binary.NativeEndian.Uint32(m.Data)))
		}
	}
	return -1
}

// note marks what the messages in b make stale.
func note(b []byte, nsid int, stale *stale, fresh *freshness) {
	stale.mark(func(p *parts) {
		for len(b) >= unix.NLMSG_HDRLEN {
			h := (*unix.NlMsghdr)(unsafe.Pointer(&b[0]))
			size := int(h.Len)
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				return
			}
			if nsid >= 0 {
				p.nsid(nsid)
			} else {
				noteOne(h.Type, b[unix.NLMSG_HDRLEN:size], p, fresh)
			}
			b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
		}
	})
}

func noteOne(kind uint16, body []byte, p *parts, fresh *freshness) {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(body) < unix.SizeofIfInfomsg {
			return
		}
		m := (*unix.IfInfomsg)(unsafe.Pointer(&body[0]))
		p.links.index(int(m.Index))
		if m.Family == unix.AF_INET6 {
			return // IPv6 came up on a link; NetworkManager lets it when it takes up a profile, and sets its switches
		}
		if m.Flags&unix.IFF_UP == 0 || kind == unix.RTM_DELLINK {
			put(&p.down, int(m.Index))
		}
		fresh.note(int(m.Index))
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(body) < unix.SizeofIfAddrmsg {
			return
		}
		m := (*unix.IfAddrmsg)(unsafe.Pointer(&body[0]))
		p.addrs.index(int(m.Index))
		if m.Family == unix.AF_INET6 {
			put(&p.switches, int(m.Index))
		}
		if kind == unix.RTM_DELADDR && m.Family == unix.AF_INET {
			p.addrGone = true
			put(&p.down, int(m.Index)) // with the last one all routes by the link go
		}
		fresh.note(int(m.Index))
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(body) < unix.SizeofRtMsg {
			return
		}
		m := (*unix.RtMsg)(unsafe.Pointer(&body[0]))
		table := uint32(m.Table)
		attrs := body[unix.SizeofRtMsg:]
		if v, ok := attr(attrs, unix.RTA_TABLE); ok {
			table = v
		}
		link, ok := attr(attrs, unix.RTA_OIF)
		if ok && m.Family == unix.AF_INET6 && m.Protocol != policy.Protocol {
			// A link whose disable_ipv6 is set loses its multicast route, and gets it again, which is all that the kernel tells.
			put(&p.switches, int(link))
		}
		if table == unix.RT_TABLE_LOCAL || familiesOf(m.Family) == 0 {
			return
		}
		p.table(m.Family, table)
		if ok && m.Protocol != policy.Protocol {
			fresh.note(int(link))
		}
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		if r, ok := parseRule(body); ok {
			p.rule(ruleEvent{r, kind == unix.RTM_DELRULE})
		} else if len(body) > 0 {
			p.rules |= familiesOf(body[0])
		}
	case unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
		if link := netconfLink(body); link == netconfAll {
			p.allSwitch = true
		} else {
			put(&p.switches, link)
		}
	case unix.RTM_NEWNSID:
		p.newNetns = true
	case unix.RTM_DELNSID:
		if id, ok := attr(body[min(len(body), sizeofNetMsg):], netnsaNSID); ok {
			p.nsid(int(id))
		}
	}
}

// Of linux/netconf.h and linux/net_namespace.h, which package unix has not. Both messages
// begin with the family, padded.
const (
	sizeofNetMsg    = 4
	netconfaIfindex = 1  // NETCONFA_IFINDEX
	netconfAll      = -1 // NETCONFA_IFINDEX_ALL
	netconfDefault  = -2 // NETCONFA_IFINDEX_DEFAULT: of links to come
	netnsaNSID      = 1  // NETNSA_NSID
)

// netconfLink returns the link whose switches a message is about, netconfAll or netconfDefault.
func netconfLink(body []byte) int {
	if len(body) >= sizeofNetMsg {
		if v, ok := attr(body[sizeofNetMsg:], netconfaIfindex); ok {
			return int(int32(v))
		}
	}
	return netconfAll
}

// freshness remembers which links the kernel changed in the last moments.
type freshness struct {
	mu   sync.Mutex
	when map[int]time.Time // by index
}

// Grace is how long after a change the kernel's word on an uplink's address and default goes
// before NetworkManager's. NetworkManager's follows within 0.5 to 1.5 ms
// (measured); an overloaded machine may take a thousand times as long.
const Grace = 2 * time.Second

func newFreshness() *freshness { return &freshness{when: map[int]time.Time{}} }

func (f *freshness) note(link int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.when[link] = time.Now()
}

func (f *freshness) has(link int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, ok := f.when[link]
	if ok && time.Since(t) >= Grace {
		delete(f.when, link)
		return false
	}
	return ok
}
