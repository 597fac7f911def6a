package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"uplane/test/lab"
)

// observer is one socket that hears what changes in the host's network
// namespace. Both ends of a reaction are stamped by it, so its own delay
// cancels out; and its thread has real-time priority, so it stamps the first
// event before anybody has reacted to it.
type observer struct {
	mu      sync.Mutex
	events  []event
	closing chan struct{}
	closed  chan struct{}
}

// event is one rtnetlink message.
type event struct {
	at    time.Time
	kind  uint16 // unix.RTM_*
	route route  // of RTM_NEWROUTE and RTM_DELROUTE
}

// route is what tells routes apart here.
type route struct {
	table    uint32
	isDef    bool // 0.0.0.0/0, unicast
	via      netip.Addr
	metric   uint32
	protocol uint8
	link     int
}

var observed = []int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV4_NETCONF,
}

// observe listens in the host of w until close.
func observe(w *lab.World) (*observer, error) {
	o := &observer{closing: make(chan struct{}), closed: make(chan struct{})}
	ready := make(chan error, 1)
	go func() {
		defer close(o.closed)
		err := w.Host.Do(func() error {
			fd, err := listenRoutes(observed)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := realTime(); err != nil {
				return err
			}
			ready <- nil
			o.record(fd)
			return nil
		})
		if err != nil {
			ready <- fmt.Errorf("observe routes: %w", err)
		}
	}()
	return o, <-ready
}

// listenRoutes opens an rtnetlink socket in the calling thread's namespace. A
// receive on it returns after some time, whatever happens.
func listenRoutes(groups []int) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
	)
	for _, g := range groups {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g))
	}
	if err != nil {
		unix.Close(fd)
	}
	return fd, err
}

// realTime makes the calling thread run before every ordinary one.
func realTime() error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 10}
	return unix.SchedSetAttr(0, &attr, 0)
}

func (o *observer) record(fd int) {
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		now := time.Now()
		select {
		case <-o.closing:
			return
		default:
		}
		if err != nil {
			continue // nothing for a second, or an overflow, which a missing event will tell
		}
		o.mu.Lock()
		for kind, body := range messages(buf[:n]) {
			e := event{at: now, kind: kind}
			if kind == unix.RTM_NEWROUTE || kind == unix.RTM_DELROUTE {
				e.route = parseRoute(body)
			}
			o.events = append(o.events, e)
		}
		o.mu.Unlock()
	}
}

// messages ranges over the messages of a datagram.
func messages(b []byte) func(yield func(kind uint16, body []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.NLMSG_HDRLEN {
			h := (*unix.NlMsghdr)(unsafe.Pointer(&b[0]))
			size := int(h.Len)
			if size < unix.NLMSG_HDRLEN || size > len(b) || !yield(h.Type, b[unix.NLMSG_HDRLEN:size]) {
				return
			}
			b = b[min(len(b), (size+3)&^3):]
		}
	}
}

// parseRoute reads what route has from a route message.
func parseRoute(b []byte) route {
	if len(b) < unix.SizeofRtMsg {
		return route{}
	}
	m := (*unix.RtMsg)(unsafe.Pointer(&b[0]))
	r := route{table: uint32(m.Table), isDef: m.Dst_len == 0 && m.Type == unix.RTN_UNICAST, protocol: m.Protocol}
	b = b[unix.SizeofRtMsg:]
	for len(b) >= unix.SizeofRtAttr {
		a := (*unix.RtAttr)(unsafe.Pointer(&b[0]))
		size := int(a.Len)
		if size < unix.SizeofRtAttr || size > len(b) {
			break
		}
		value := b[unix.SizeofRtAttr:size]
		switch {
		case a.Type == unix.RTA_GATEWAY:
			r.via, _ = netip.AddrFromSlice(value)
		case len(value) != 4:
		case a.Type == unix.RTA_TABLE:
			r.table = binary.NativeEndian.Uint32(value)
		case a.Type == unix.RTA_PRIORITY:
			r.metric = binary.NativeEndian.Uint32(value)
		case a.Type == unix.RTA_OIF:
			r.link = int(binary.NativeEndian.Uint32(value))
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return r
}

// reset forgets what was seen.
func (o *observer) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = nil
}

// seen returns what was seen since reset.
func (o *observer) seen() []event {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]event(nil), o.events...)
}

// gets tells whether e gives table a default by gateway.
func (e event) gets(table uint32, gateway netip.Addr) bool {
	return e.kind == unix.RTM_NEWROUTE && e.route.isDef && e.route.table == table && e.route.via == gateway
}

// wait returns when table got a default by gateway since reset; false if it does not within limit.
// It looks rarely, so as not to be in the contenders' way.
func (o *observer) wait(table uint32, gateway netip.Addr, limit time.Duration) (time.Time, bool) {
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		for _, e := range o.seen() {
			if e.gets(table, gateway) {
				return e.at, true
			}
		}
		if time.Since(start) > limit {
			return time.Time{}, false
		}
	}
}

// close ends the watching.
func (o *observer) close() {
	close(o.closing)
	<-o.closed
}
