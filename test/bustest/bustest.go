// Package bustest gives a test a message bus of its own, with the rules of the
// system bus and Uplane's policy on it, so that no test meets the machine's.
package bustest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// config is a system bus in what matters here; the first %s is a name for the socket,
// the second Uplane's policy and more.
const config = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
  "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <auth>EXTERNAL</auth>
  <listen>unix:abstract=%s</listen>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
  </policy>
  <policy user="root">
    <allow own="org.freedesktop.PolicyKit1"/>
    <allow own="org.freedesktop.login1"/>
  </policy>
  <policy context="default">
    <allow send_destination="org.freedesktop.PolicyKit1"/>
  </policy>
  %s
</busconfig>
`

// Forbid makes sure that tests which forget to say which bus they mean find
// none. It is for TestMain.
func Forbid() {
	os.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/the-tests-use-their-own-bus")
}

var started atomic.Uint32

// Start starts a bus for a test and returns its address. extra is further
// configuration, such as limits.
func Start(t testing.TB, extra string) (address string) {
	t.Helper()
	policy := filepath.Join(moduleRoot(t), "packaging/dbus/org.uplane.Uplane1.conf")
	file := filepath.Join(t.TempDir(), "bus.conf")
	text := fmt.Sprintf(config, fmt.Sprintf("/tmp/uplane-test-%d-%d", os.Getpid(), started.Add(1)), "<include>"+policy+"</include>"+extra)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("dbus-daemon", "--config-file="+file, "--nofork", "--nopidfile", "--nosyslog", "--print-address")
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); errors.Is(err, exec.ErrNotFound) {
		t.Skip("needs dbus-daemon")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	})
	address, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address = strings.TrimSpace(address)
	if strings.Contains(address, "/run/dbus/") {
		t.Fatalf("%s is the machine's", address)
	}
	return address
}

// moduleRoot is the folder with go.mod above the test's.
func moduleRoot(t testing.TB) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test's folder")
		}
		dir = filepath.Dir(dir)
	}
}

// Connect connects to a bus until the test ends.
func Connect(t testing.TB, address string, options ...dbus.ConnOption) *dbus.Conn {
	t.Helper()
	conn, err := dbus.Connect(address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ConnectAs connects as another user, which takes root.
func ConnectAs(t testing.TB, address string, uid int) *dbus.Conn {
	t.Helper()
	var conn *dbus.Conn
	err := as(uid, func() (err error) {
		conn, err = dbus.Connect(address, dbus.WithAuth(dbus.AuthExternal(fmt.Sprint(uid))))
		return err
	})
	if err != nil {
		t.Fatalf("connect as user %d: %v", uid, err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// as runs f as another user. The bus asks the kernel who connected, and that is
// the thread's user. The thread is not unlocked, so it ends with its goroutine.
func as(uid int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), ^uintptr(0)); errno != 0 {
			done <- errno
			return
		}
		done <- f()
	}()
	return <-done
}

// Raw is a program on the bus that does no more than a test tells it: it reads
// nothing by itself.
type Raw struct {
	net.Conn
	serial uint32
}

// ConnectRaw connects as another user, which takes root.
func ConnectRaw(t testing.TB, address string, uid int) *Raw {
	t.Helper()
	path, _, _ := strings.Cut(strings.TrimPrefix(address, "unix:abstract="), ",")
	r := &Raw{}
	err := as(uid, func() (err error) {
		r.Conn, err = net.Dial("unix", "@"+path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	fmt.Fprintf(r, "\x00AUTH EXTERNAL %x\r\nBEGIN\r\n", fmt.Sprint(uid))
	if err := r.Send(Call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")); err != nil {
		t.Fatal(err)
	}
	return r
}

// Call is a method call.
func Call(name string, path dbus.ObjectPath, iface, member string, args ...any) *dbus.Message {
	m := &dbus.Message{Type: dbus.TypeMethodCall, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(name), dbus.FieldPath: dbus.MakeVariant(path),
		dbus.FieldInterface: dbus.MakeVariant(iface), dbus.FieldMember: dbus.MakeVariant(member),
	}, Body: args}
	if len(args) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(args...))
	}
	return m
}

// Send sends a message.
func (r *Raw) Send(m *dbus.Message) error {
	var b bytes.Buffer
	if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
		return err
	}
	return r.Again(b.Bytes())
}

// Again sends an encoded message with a new serial number.
func (r *Raw) Again(encoded []byte) error {
	r.serial++
	binary.LittleEndian.PutUint32(encoded[8:], r.serial)
	_, err := r.Write(encoded)
	return err
}
