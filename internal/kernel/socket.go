package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"uplane/internal/nsthread"
)

// ErrNoDestroy says that this kernel can't end sockets of programs. They then find out by themselves,
// which may take them minutes.
var ErrNoDestroy = errors.New("the kernel can't end programs' connections (it lacks CONFIG_INET_DIAG_DESTROY)")

// Of linux/sock_diag.h, inet_diag.h and net/tcp_states.h, which package unix has not.
const (
	sockDiagByFamily, sockDestroy = 20, 21

	sizeofSocketID   = 48 // struct inet_diag_sockid
	sizeofDiagReq    = 8 + sizeofSocketID
	sizeofDiagAnswer = 4 + sizeofSocketID // what is read of struct inet_diag_msg

	// States. Listening sockets and those that no program has any more are of no interest.
	tcpEstablished, tcpSynSent, tcpSynRecv, tcpFinWait1, tcpFinWait2, tcpCloseWait, tcpClosing, tcpNewSynRecv = 1, 2, 3, 4, 5, 8, 11, 12

	connectedStates = 1<<tcpEstablished | 1<<tcpSynSent | 1<<tcpSynRecv | 1<<tcpFinWait1 | 1<<tcpFinWait2 |
		1<<tcpCloseWait | 1<<tcpClosing | 1<<tcpNewSynRecv
)

// socketID identifies a socket to the kernel.
type socketID [sizeofSocketID]byte

// destroySockets ends a lane's TCP and UDP sockets that are connected to somewhere outside: their
// programs get ECONNABORTED at once.
func destroySockets(name string) error {
	ns, err := openNetns(name)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := ns.do(func(h *netlink.Handle) error { return requireOurs(h, name) }); err != nil {
		return err
	}
	idle := false
	var d *direct
	err = nsthread.Run(func() (err error) {
		if err := unix.Setns(int(ns), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace: %w", err)
		}
		if idle = noSockets(); !idle {
			d, err = openDirect(unix.NETLINK_SOCK_DIAG)
		}
		return err
	})
	if err != nil || idle {
		return err
	}
	defer d.close()
	// All are listed before the first ends: a program that hears of it makes a new one at once, which is to live.
	var doomed []socket
	var errs []error
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		_ = bothFamilies.each(func(af uint8) error {
			sockets, err := d.connected(af, protocol)
			doomed, errs = append(doomed, sockets...), append(errs, err)
			return nil
		})
	}
	for _, s := range doomed {
		err := d.destroy(s)
		errs = append(errs, err)
		if err == ErrNoDestroy {
			break
		}
	}
	return errors.Join(errs...)
}

// noSockets tells whether the calling thread's namespace has no TCP and UDP sockets, as the kernel counts them. To list
// them takes it 5 ms, for it goes through those of all namespaces.
func noSockets() bool {
	for _, file := range []string{"sockstat", "sockstat6"} {
		data, err := os.ReadFile("/proc/thread-self/net/" + file)
		if errors.Is(err, os.ErrNotExist) && file == "sockstat6" {
			continue // no IPv6
		}
		if err != nil || used(data) {
			return false
		}
	}
	return true
}

// used tells whether one of the counts in a sockstat file is not 0.
func used(sockstat []byte) bool {
	for line := range strings.Lines(string(sockstat)) {
		words := strings.Fields(line)
		if len(words) < 3 || words[1] != "inuse" {
			continue
		}
		switch protocol := strings.TrimSuffix(words[0], ":"); strings.TrimSuffix(protocol, "6") {
		case "TCP", "UDP", "UDPLITE":
			if words[2] != "0" {
				return true
			}
		}
	}
	return false
}

// socket is one that is connected.
type socket struct {
	af, protocol uint8
	id           socketID
}

// connected lists the sockets of a family and protocol that are connected to somewhere outside.
func (d *direct) connected(af, protocol uint8) (out []socket, err error) {
	dumps.Add(1)
	request := socketRequest(socket{af: af, protocol: protocol})
	err = d.do(sockDiagByFamily, unix.NLM_F_DUMP, request, func(body []byte) {
		if id, ok := parseSocket(body); ok {
			out = append(out, socket{af, protocol, id})
		}
	})
	if err == unix.ENOENT || err == unix.EAFNOSUPPORT {
		return nil, nil // no such family or protocol, and so no sockets
	}
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	return out, nil
}

func (d *direct) destroy(s socket) error {
	switch err := d.do(sockDestroy, unix.NLM_F_ACK, socketRequest(s), nil); err {
	case nil, unix.ENOENT: // it is gone
		return nil
	case unix.EOPNOTSUPP:
		return ErrNoDestroy
	default:
		return fmt.Errorf("end a socket: %w", err)
	}
}

// socketRequest is a struct inet_diag_req_v2.
func socketRequest(s socket) []byte {
	states := uint32(connectedStates)
	if s.protocol == unix.IPPROTO_UDP {
		states = 1 << tcpEstablished // connected
	}
	b := make([]byte, 4, sizeofDiagReq)
	b[0], b[1] = s.af, s.protocol
	b = binary.NativeEndian.AppendUint32(b, states)
	return append(b, s.id[:]...)
}

// parseSocket reads a struct inet_diag_msg; false for a socket that is connected to nobody, or to
// somebody in its own namespace.
func parseSocket(body []byte) (id socketID, outside bool) {
	if len(body) < sizeofDiagAnswer || familiesOf(body[0]) == 0 {
		return id, false
	}
	copy(id[:], body[4:])
	size := 16
	if body[0] == unix.AF_INET {
		size = 4
	}
	// Ports come first, then room for two addresses of IPv6.
	local, peer := address(id[4:][:size]).Unmap(), address(id[20:][:size]).Unmap()
	return id, !peer.IsUnspecified() && !peer.IsLoopback() && peer != local && peer.IsValid()
}
