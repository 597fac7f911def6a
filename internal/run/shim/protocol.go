package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"uplane/internal/run/spawn"
)

// request is what the keeper makes of itself, and starts.
type request struct {
	Lane             string   // where the keeper shall be
	Command, Environ [][]byte // neither has to be UTF-8
	Umask            int
	OpenFiles        uint64 // soft limit; 0: as it is
	Ignored          []syscall.Signal

	// Of the descriptors that are passed along:
	Dir    int    // the working directory
	Slave  int    // the program's terminal; -1: it has none
	Screen int    // the user's, if the program has one; else -1
	Files  []file // the program's

	Foreground bool // the program has its terminal's input from the start
}

// file is a descriptor of the program, and which of those that were passed it is.
type file struct{ Number, Passed int }

// order is for the keeper.
type order struct {
	Signal   syscall.Signal // to be sent to the program
	Group    bool           // and to all of its job
	Continue bool           // it was stopped and shall go on,
	// with its terminal's input.
	Foreground bool
}

// event is what the keeper tells. The first is empty, or an error.
type event struct {
	Error   string         // why the program does not run
	Next    string         // what to do about that
	Stopped syscall.Signal // by which it was stopped
	Signal  syscall.Signal // by which it was ended
	Code    int            // with which it ended
	Name    string         // of what had become of it by then
}

// maxPassed is the kernel's SCM_MAX_FD.
const maxPassed = 253

// conn is either end.
type conn struct {
	*net.UnixConn
	in  *json.Decoder
	out *json.Encoder
}

func newConn(c *net.UnixConn) *conn { return &conn{c, json.NewDecoder(c), json.NewEncoder(c)} }

// send tells the other end. One that is gone shows where it is read from.
func (c *conn) send(v any) { _ = c.out.Encode(v) }

// sendRequest sends the descriptors with a byte of their own, for the request may be long.
func (c *conn) sendRequest(r request, pass []int) error {
	if _, _, err := c.WriteMsgUnix([]byte{0}, unix.UnixRights(pass...), nil); err != nil {
		return err
	}
	return c.out.Encode(r)
}

func (c *conn) receiveRequest() (r request, passed []int, err error) {
	var head [1]byte
	rights := make([]byte, unix.CmsgSpace(maxPassed*4))
	_, n, _, _, err := c.ReadMsgUnix(head[:], rights) // which closes them on exec
	if err != nil {
		return r, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return r, nil, errors.Join(errors.New("no descriptors came"), err)
	}
	if passed, err = unix.ParseUnixRights(&messages[0]); err != nil {
		return r, nil, err
	}
	return r, passed, c.in.Decode(&r)
}

// listener is where the keeper comes to.
type listener struct {
	*net.UnixListener
	path string
}

// listen makes a socket that only this user reaches. It has a path: in the lane
// abstract names are others.
func listen() (*listener, error) {
	var dir string
	var err error
	for _, parent := range []string{os.Getenv("XDG_RUNTIME_DIR"), "/tmp"} { // TMPDIR may be too long for a socket
		if spawn.CheckSocket(filepath.Join(parent, spawn.KeeperSocket, "0123456789", "socket")) != nil {
			continue // the daemon would not take it
		}
		if dir, err = os.MkdirTemp(parent, spawn.KeeperSocket[1:]); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make a socket to the lane: %w", err)
	}
	path := filepath.Join(dir, "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		os.Remove(dir)
		return nil, fmt.Errorf("make a socket to the lane: %w", err)
	}
	return &listener{l, path}, nil
}

func (l *listener) close() {
	l.Close()
	os.Remove(filepath.Dir(l.path))
}

func (l *listener) accept() (*conn, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("wait for the lane's half of uplane: %w", err)
	}
	if uid, err := peer(c); err != nil || uid != os.Getuid() {
		c.Close()
		return nil, fmt.Errorf("user %d came instead of the lane's half of uplane: %w", uid, err)
	}
	return newConn(c), nil
}

// peer is the user at the other end.
func peer(c *net.UnixConn) (uid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	var ucred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { ucred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(cerr, err); err != nil {
		return -1, err
	}
	return int(ucred.Uid), nil
}

func raw(all []string) [][]byte {
	out := make([][]byte, len(all))
	for i, s := range all {
		out[i] = []byte(s)
	}
	return out
}

func cooked(all [][]byte) []string {
	out := make([]string, len(all))
	for i, b := range all {
		out[i] = string(b)
	}
	return out
}
