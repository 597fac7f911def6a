package lab

import (
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Capture records packets on one interface of a node.
type Capture struct {
	name   string
	file   *os.File
	filter func(Packet) bool
	done   chan struct{}
	buf    []byte // of record, and of Stop after it

	mu      sync.Mutex
	packets []Packet
}

// Capture starts to record the IP and ARP packets on an interface, in both directions, that the
// filter accepts; nil is all. From its return on none is missed. Close of the world ends it too.
func (n *Node) Capture(iface string, filter func(Packet) bool) (*Capture, error) {
	c := &Capture{name: n.Name + "/" + iface, filter: filter, done: make(chan struct{}), buf: make([]byte, 65536)}
	err := n.Do(func() error {
		link, err := net.InterfaceByName(iface)
		if err != nil {
			return fmt.Errorf("%s: %w", iface, err)
		}
		// Without a protocol it receives nothing until bind names the interface.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		c.file = os.NewFile(uintptr(fd), c.name)
		// Room for a burst that comes while this process does not run.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: link.Index})
	})
	if err != nil {
		if c.file != nil {
			_ = c.file.Close()
		}
		return nil, fmt.Errorf("capture on %s: %w", c.name, err)
	}
	n.world.keep(c.file)
	go c.record()
	return c, nil
}

// Packets are the packets seen so far, oldest first.
func (c *Capture) Packets() []Packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Packet(nil), c.packets...)
}

// Stop ends the capture and returns what it saw. It errs when the kernel had to drop packets, for
// then nothing is proved. What was sent before the call is seen: Stop waits for packets in flight.
func (c *Capture) Stop() ([]Packet, error) {
	time.Sleep(20 * time.Millisecond)
	if err := c.file.SetReadDeadline(time.Now()); err != nil {
		return nil, fmt.Errorf("stop the capture on %s: %w", c.name, err)
	}
	<-c.done
	defer c.file.Close()
	var stats *unix.TpacketStats
	err := c.control(func(fd int) (err error) {
		c.drain(fd)
		stats, err = unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("stop the capture on %s: %w", c.name, err)
	}
	if stats.Drops > 0 {
		return c.Packets(), fmt.Errorf("capture on %s: the kernel dropped %d packets", c.name, stats.Drops)
	}
	return c.Packets(), nil
}

func (c *Capture) control(fn func(fd int) error) error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	if ctlErr := raw.Control(func(fd uintptr) { err = fn(int(fd)) }); ctlErr != nil {
		return ctlErr
	}
	return err
}

// record reads until the deadline of Stop or until the socket is closed.
func (c *Capture) record() {
	defer close(c.done)
	raw, err := c.file.SyscallConn()
	if err != nil {
		return
	}
	for {
		err := raw.Read(func(fd uintptr) bool { return c.drain(int(fd)) > 0 })
		if err != nil {
			return
		}
	}
}

// drain reads what is there and returns how many packets it was.
func (c *Capture) drain(fd int) int {
	for count := 0; ; count++ {
		// With MSG_DONTWAIT no signal can interrupt it: an error means that nothing is there.
		size, from, err := unix.Recvfrom(fd, c.buf, unix.MSG_DONTWAIT)
		if err != nil {
			return count
		}
		p, ok := parsePacket(c.buf[:size])
		if !ok {
			continue
		}
		p.Time = time.Now()
		if link, ok := from.(*unix.SockaddrLinklayer); ok {
			p.Outgoing = link.Pkttype == unix.PACKET_OUTGOING
		}
		if c.filter != nil && !c.filter(p) {
			continue
		}
		p.Frame = nil
		c.mu.Lock()
		c.packets = append(c.packets, p)
		c.mu.Unlock()
	}
}

func bigEndian(v uint16) uint16 { return v<<8 | v>>8 }
