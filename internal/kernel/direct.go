package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// direct is an rtnetlink socket for the two requests that lie between an event
// and a lane's new default: list a table, replace a route. The library needs
// twice the time for them, as it clears 64 KiB for every answer and has Go's
// poller watch the socket, whose thread then wants a processor.
type direct struct {
	fd  int
	seq uint32
	buf []byte
}

// directTimeout is for a kernel that does not answer, which it does while it is asked.
const directTimeout = 10 // seconds

func openDirect() (*direct, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	d := &direct{fd: fd, buf: make([]byte, 64<<10)}
	// Strict: the kernel filters a list by table.
	err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: directTimeout})
	}
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) // the kernel, and nobody else
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *direct) close() { unix.Close(d.fd) }

// routes lists the IPv4 routes of one table; none when there is no such table.
func (d *direct) routes(table uint32) ([]route, error) {
	out, err := dump("routes", func() ([]route, error) {
		var out []route
		body := appendRtMsg(nil, unix.RtMsg{Family: unix.AF_INET}, table)
		err := d.do(unix.RTM_GETROUTE, unix.NLM_F_DUMP, body, func(body []byte) {
			if r, ok := parseRoute(body); ok {
				out = append(out, r)
			}
		})
		if err == unix.ENOENT {
			return nil, nil
		}
		return out, err
	})
	return out, err
}

// replace puts r in the place of the route with the same table, destination and metric.
func (d *direct) replace(r route) error {
	m := unix.RtMsg{
		Family: unix.AF_INET, Dst_len: uint8(r.dst.Bits()), Protocol: uint8(r.protocol),
		Scope: unix.RT_SCOPE_LINK, Type: uint8(r.kind),
	}
	if r.via.IsValid() || r.link == 0 {
		m.Scope = unix.RT_SCOPE_UNIVERSE
	}
	if r.onLink {
		m.Flags = unix.RTNH_F_ONLINK
	}
	body := appendRtMsg(nil, m, r.table)
	if r.dst.Bits() > 0 {
		body = appendAttr(body, unix.RTA_DST, r.dst.Addr().As4())
	}
	if r.via.IsValid() {
		body = appendAttr(body, unix.RTA_GATEWAY, r.via.As4())
	}
	if r.link != 0 {
		body = appendAttr(body, unix.RTA_OIF, native(uint32(r.link)))
	}
	if r.metric != 0 {
		body = appendAttr(body, unix.RTA_PRIORITY, native(r.metric))
	}
	return d.do(unix.RTM_NEWROUTE, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body, nil)
}

// do sends a request and hands each message of the answer to each.
func (d *direct) do(kind, flags uint16, body []byte, each func(body []byte)) error {
	d.seq++
	request := binary.NativeEndian.AppendUint32(make([]byte, 0, unix.NLMSG_HDRLEN+len(body)), uint32(unix.NLMSG_HDRLEN+len(body)))
	request = binary.NativeEndian.AppendUint16(request, kind)
	request = binary.NativeEndian.AppendUint16(request, unix.NLM_F_REQUEST|flags)
	request = binary.NativeEndian.AppendUint32(request, d.seq)
	request = binary.NativeEndian.AppendUint32(request, 0) // the kernel fills in who we are
	if _, err := unix.Write(d.fd, append(request, body...)); err != nil {
		return err
	}
	var interrupted error
	for {
		n, err := unix.Read(d.fd, d.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		for b := d.buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
			h := (*unix.NlMsghdr)(unsafe.Pointer(&b[0]))
			size := int(h.Len)
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				return fmt.Errorf("a message of %d bytes in %d", size, len(b))
			}
			body := b[unix.NLMSG_HDRLEN:size]
			b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
			if h.Seq != d.seq {
				continue // of a request whose answer nobody waited for
			}
			if h.Flags&unix.NLM_F_DUMP_INTR != 0 {
				interrupted = netlink.ErrDumpInterrupted
			}
			switch h.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				if len(body) >= 4 {
					if code := int32(binary.NativeEndian.Uint32(body)); code != 0 {
						return unix.Errno(-code)
					}
				}
				return interrupted
			}
			if each != nil {
				each(body)
			}
		}
	}
}

// parseRoute reads a route message; false for the local table and for what is no IPv4 route.
func parseRoute(body []byte) (route, bool) {
	if len(body) < unix.SizeofRtMsg {
		return route{}, false
	}
	m := (*unix.RtMsg)(unsafe.Pointer(&body[0]))
	attrs := body[unix.SizeofRtMsg:]
	r := route{
		table: uint32(m.Table), protocol: int(m.Protocol), kind: int(m.Type), onLink: m.Flags&unix.RTNH_F_ONLINK != 0,
	}
	if table, ok := attr(attrs, unix.RTA_TABLE); ok {
		r.table = table
	}
	r.metric, _ = attr(attrs, unix.RTA_PRIORITY)
	link, _ := attr(attrs, unix.RTA_OIF)
	r.link = int(link)
	dst, _ := attr(attrs, unix.RTA_DST)
	r.dst = netip.PrefixFrom(netip.AddrFrom4(native(dst)), int(m.Dst_len))
	if via, ok := attr(attrs, unix.RTA_GATEWAY); ok {
		r.via = netip.AddrFrom4(native(via))
	}
	return r, m.Family == unix.AF_INET && r.dst.IsValid() && r.table != unix.RT_TABLE_LOCAL
}

// appendRtMsg appends m for a table of any number.
func appendRtMsg(b []byte, m unix.RtMsg, table uint32) []byte {
	if table < 256 {
		m.Table = uint8(table)
	}
	b = append(b, (*[unix.SizeofRtMsg]byte)(unsafe.Pointer(&m))[:]...)
	return appendAttr(b, unix.RTA_TABLE, native(table))
}

func appendAttr(b []byte, kind uint16, value [4]byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, unix.SizeofRtAttr+4)
	b = binary.NativeEndian.AppendUint16(b, kind)
	return append(b, value[:]...)
}

// native is v as the kernel has it in memory.
func native(v uint32) (b [4]byte) {
	binary.NativeEndian.PutUint32(b[:], v)
	return b
}

// toRoute is the host's route that a policy.Route stands for.
func toRoute(r policy.Route, link int) route {
	return route{
		table: r.Table, metric: r.Metric, dst: r.Dst, via: r.Via, link: link,
		protocol: policy.Protocol, kind: routeKinds[r.Type], onLink: r.OnLink,
	}
}
