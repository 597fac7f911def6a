package kernel

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// direct is a netlink socket for what the library can't ask or reads wrong, and for the two
// requests that lie between an event and a lane's new default: list a table, replace a route.
// The library needs twice the time for them, as it clears 64 KiB for every answer and has Go's
// poller watch the socket, whose thread then wants a processor.
type direct struct {
	fd  int
	seq uint32
	buf []byte
}

// directTimeout is for a kernel that does not answer, which it does while it is asked.
const directTimeout = 10 // seconds

// openDirect opens a socket of one of the NETLINK_* families in the calling thread's namespace.
func openDirect(family int) (*direct, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	if err != nil {
		return nil, err
	}
	d := &direct{fd: fd, buf: make([]byte, 64<<10)}
	// Strict: the kernel filters a list by table or link.
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
