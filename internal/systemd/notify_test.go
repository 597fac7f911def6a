package systemd

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

func TestNotify(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), "@uplane-test-" + strconv.Itoa(os.Getpid())} {
		socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		t.Setenv("NOTIFY_SOCKET", name)
		for _, tt := range []struct {
			send func() error
			want string
		}{
			{Ready, `^READY=1$`},
			{Reloading, `^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]+$`},
			{func() error { return Status("one\ntwo") }, `^STATUS=one; two$`},
			{Stopping, `^STOPPING=1$`},
			{Alive, `^WATCHDOG=1$`},
		} {
			if err := tt.send(); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 100)
			n, err := socket.Read(b)
			if err != nil || !regexp.MustCompile(tt.want).Match(b[:n]) {
				t.Errorf("%q, %v; want %s", b[:n], err, tt.want)
			}
		}
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	if err := Ready(); err == nil {
		t.Error("no error with nobody there")
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Ready(); err != nil {
		t.Error(err)
	}
}

func TestWatchdog(t *testing.T) {
	pid := strconv.Itoa(os.Getpid())
	for _, tt := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"", "", 0}, {"x", "", 0}, {"-5", "", 0}, {"0", "", 0},
		{"3000000", "", 3 * time.Second}, {"3000000", pid, 3 * time.Second}, {"3000000", "1", 0},
	} {
		t.Setenv("WATCHDOG_USEC", tt.usec)
		t.Setenv("WATCHDOG_PID", tt.pid)
		if got := Watchdog(); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}
