// Package bustest gives a test a message bus of its own, with the rules of the
// system bus and Uplane's policy on it, so that no test meets the machine's.
package bustest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// config is a system bus in what matters here; %s is Uplane's policy and more.
const config = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
  "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <auth>EXTERNAL</auth>
  <listen>unix:tmpdir=/tmp</listen>
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

// Start starts a bus for a test and returns its address. extra is further
// configuration, such as limits.
func Start(t testing.TB, extra string) (address string) {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	policy := filepath.Join(filepath.Dir(here), "../../packaging/dbus/org.uplane.Uplane1.conf")
	file := filepath.Join(t.TempDir(), "bus.conf")
	text := fmt.Sprintf(config, "<include>"+policy+"</include>"+extra)
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
	type result struct {
		conn *dbus.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		// The bus asks the kernel who connected, and that is the thread's user. The
		// thread is not unlocked, so it ends with this goroutine.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), ^uintptr(0)); errno != 0 {
			done <- result{nil, errno}
			return
		}
		conn, err := dbus.Connect(address, dbus.WithContext(context.Background()), dbus.WithAuth(dbus.AuthExternal(fmt.Sprint(uid))))
		done <- result{conn, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatalf("connect as user %d: %v", uid, r.err)
	}
	t.Cleanup(func() { r.conn.Close() })
	return r.conn
}
