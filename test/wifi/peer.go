package wifi

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// peer is what answers calls in JSON: QEMU's monitor and its agent in the guest speak the same.
type peer struct {
	conn     net.Conn
	messages chan message
	asked    int
}

type message struct {
	ID     int // of the question that it answers
	Return json.RawMessage
	Error  *struct{ Desc string }
	Event  string
}

// newPeer returns a peer, and the other end of its connection for QEMU.
func newPeer() (*peer, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "QEMU's")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	p := &peer{conn: conn, messages: make(chan message, 100)}
	go p.read()
	return p, theirs, nil
}

func (p *peer) read() {
	defer close(p.messages)
	for decoder := json.NewDecoder(p.conn); ; {
		var m message
		if decoder.Decode(&m) != nil {
			return
		}
		p.messages <- m
	}
}

// next is the next message that ok accepts; others are dropped.
func (p *peer) next(ctx context.Context, ok func(message) bool) (message, error) {
	for {
		select {
		case m, open := <-p.messages:
			if !open {
				return message{}, net.ErrClosed
			}
			if ok(m) {
				return m, nil
			}
		case <-ctx.Done():
			return message{}, ctx.Err()
		}
	}
}

// ask calls and does not wait for the answer; arguments may be nil.
func (p *peer) ask(name string, arguments any) error {
	p.asked++
	question := map[string]any{"execute": name, "id": p.asked}
	if arguments != nil {
		question["arguments"] = arguments
	}
	if err := json.NewEncoder(p.conn).Encode(question); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// call calls and decodes the answer; result may be nil, too.
func (p *peer) call(ctx context.Context, name string, arguments, result any) error {
	if err := p.ask(name, arguments); err != nil {
		return err
	}
	// An answer to an earlier question, which nobody waits for any more, may still come.
	m, err := p.next(ctx, func(m message) bool { return m.ID == p.asked })
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case m.Error != nil:
		return fmt.Errorf("%s: %s", name, m.Error.Desc)
	case result == nil:
		return nil
	}
	return json.Unmarshal(m.Return, result)
}

// Close ends the connection; who waits for an answer hears of it.
func (p *peer) Close() { _ = p.conn.Close() }
