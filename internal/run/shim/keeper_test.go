package shim

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uplane/internal/nsthread"
	"uplane/test/lab"
)

// nobody is a user who is not this one.
const nobody = 65534

// server listens as a user, sends the first that comes a request for a program that leaves a mark, and returns what
// it was answered.
func server(t *testing.T, uid int, lane string) (socket, mark string, answer chan event) {
	t.Helper()
	dir, err := os.MkdirTemp("", "keeper")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	socket, mark = filepath.Join(dir, "socket"), filepath.Join(dir, "mark")
	listening, answer := make(chan error), make(chan event, 1)
	go func() {
		// The kernel has who listens from the thread, which is not unlocked and so ends with this.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), ^uintptr(0)); errno != 0 {
			listening <- errno
			return
		}
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
		listening <- err
		if err != nil {
			return
		}
		defer l.Close()
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		root, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return
		}
		defer unix.Close(root)
		conn := newConn(c)
		_ = conn.sendRequest(request{Lane: lane, Command: raw([]string{"/bin/touch", mark}), Umask: 0o22, Slave: -1, Screen: -1}, []int{root})
		var e event
		_ = conn.in.Decode(&e)
		answer <- e
	}()
	if err := <-listening; err != nil {
		t.Fatal(err)
	}
	return socket, mark, answer
}

func notThere(t *testing.T, mark string) {
	t.Helper()
	time.Sleep(100 * time.Millisecond) // a program that was started takes a moment
	if _, err := os.Stat(mark); err == nil {
		t.Error("the program ran")
	}
}

// TestForeignServer: the keeper does nothing for another user, who may have made that socket to have it.
func TestForeignServer(t *testing.T) {
	lab.RequireRoot(t)
	socket, mark, answer := server(t, nobody, "steam")
	var said strings.Builder
	if code := Keep(socket, noLogin, &said); code != 125 || !strings.Contains(said.String(), "user 65534") {
		t.Errorf("exit code %d: %s", code, said.String())
	}
	if e := <-answer; e != (event{}) {
		t.Errorf("it told %+v", e)
	}
	notThere(t, mark)
}

// TestForeignNamespace: nothing starts where the lane is not.
func TestForeignNamespace(t *testing.T) {
	for lane, words := range map[string]string{"keeper-test-no": "no such file", "": "invalid", "../../proc/self/ns/net": "invalid"} {
		socket, mark, answer := server(t, os.Getuid(), lane)
		if code := Keep(socket, noLogin, os.Stderr); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if e := <-answer; e.Code != 125 || !strings.Contains(e.Error, words) {
			t.Errorf("in %q: it told %+v", lane, e)
		}
		notThere(t, mark)
	}
}

// TestLogin: whichever thread starts the program, the program has the login.
func TestLogin(t *testing.T) {
	lab.RequireRoot(t)
	var got []byte
	err := nsthread.Run(func() (err error) { // never the first thread
		if err := logIn("1001"); err != nil {
			return err
		}
		got, err = exec.Command("cat", "/proc/self/loginuid").Output()
		return err
	})
	if err != nil || string(got) != "1001" {
		t.Errorf("its login is %q: %v", got, err)
	}
}

// TestNoLogin: who waits at the socket is told that the login can't be had.
func TestNoLogin(t *testing.T) {
	socket, mark, answer := server(t, os.Getuid(), "steam")
	if code := Keep(socket, "nobody's", os.Stderr); code != 0 {
		t.Fatalf("exit code %d, and nothing told", code)
	}
	if e := <-answer; e.Code != 125 || !strings.Contains(e.Error, "tell audit of the login of user") {
		t.Errorf("it told %+v", e)
	}
	notThere(t, mark)
}
