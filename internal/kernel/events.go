package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

// events is one netlink socket that hears of changes in the host's namespace
// and in every lane's: NETLINK_LISTEN_ALL_NSID spares a socket for each lane.
// What an event says is not used, only which part it makes stale.
type events struct {
	file *os.File
}

// eventBuffer is the socket's receive buffer, bytes: a thousand lanes built at
// once make some 20 000 events. When it overflows all is read again.
const eventBuffer = 4 << 20

var eventGroups = []int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_NSID, unix.RTNLGRP_IPV6_IFINFO,
}

func watchEvents(stale *stale, fresh *freshness, changed func()) (*events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open event socket: %w", err)
	}
	e := &events{os.NewFile(uintptr(fd), "rtnetlink events")}
	if err := e.listen(fd); err != nil {
		e.file.Close()
		return nil, fmt.Errorf("listen to rtnetlink: %w", err)
	}
	conn, err := e.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	go func() {
		buf, oob := make([]byte, 64<<10), make([]byte, 256)
		for {
			any, err := false, error(nil)
			if cerr := conn.Read(func(fd uintptr) bool {
				any, err = receive(int(fd), buf, oob, stale, fresh)
				return any || err != nil
			}); cerr != nil {
				return // closed
			}
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			if err != nil {
				stale.all()
			}
			changed()
		}
	}()
	return e, nil
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
func receive(fd int, buf, oob []byte, stale *stale, fresh *freshness) (any bool, err error) {
	for {
		n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return any, nil
		}
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return true, err
		}
		any = true
		note(buf[:n], nsid(oob[:oobn]), stale, fresh)
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
		if len(body) > 0 && body[0] == unix.AF_INET6 {
			// IPv6 came up on a link; NetworkManager lets it when it takes up a profile. See forgetBridges.
			p.links = true
			return
		}
		// A link that goes down takes routes with it without an event for them.
		p.links, p.addrs, p.allRoutes = true, true, true
		if len(body) >= unix.SizeofIfInfomsg {
			fresh.note(int((*unix.IfInfomsg)(unsafe.Pointer(&body[0])).Index))
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		p.addrs, p.allRoutes = true, true
		if len(body) >= unix.SizeofIfAddrmsg {
			fresh.note(int((*unix.IfAddrmsg)(unsafe.Pointer(&body[0])).Index))
		}
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
		if table == unix.RT_TABLE_LOCAL {
			return
		}
		p.table(table)
		if link, ok := attr(attrs, unix.RTA_OIF); ok && m.Protocol != policy.Protocol {
			fresh.note(int(link))
		}
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		p.rules = true
	case unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
		p.sysctls = true
	case unix.RTM_NEWNSID, unix.RTM_DELNSID:
		p.netnsList = true
	}
}

// attr returns a 32-bit attribute of a message.
func attr(b []byte, kind uint16) (uint32, bool) {
	for len(b) >= unix.SizeofRtAttr {
		a := (*unix.RtAttr)(unsafe.Pointer(&b[0]))
		size := int(a.Len)
		if size < unix.SizeofRtAttr || size > len(b) {
			return 0, false
		}
		if a.Type == kind && size >= unix.SizeofRtAttr+4 {
			return binary.NativeEndian.Uint32(b[unix.SizeofRtAttr:]), true
		}
		b = b[min(len(b), (size+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1)):]
	}
	return 0, false
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
