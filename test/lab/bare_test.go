package lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestBareIsPrivate(t *testing.T) {
	t.Parallel()
	_, w := Start(t, Bare, Options{RPFilter: 1})
	out, err := w.Host.Run("sh", "-c", `
		touch /etc/lab-was-here /usr/lab-was-here /var/lab-was-here /run/lab-was-here
		cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/all/rp_filter
		ls /sys/class/net
		ip netns add steam && ip -n steam link show lo | grep -c LOOPBACK`)
	if err != nil {
		t.Fatal(err)
	}
	if want := "0\n1\nlo\n1"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	for _, path := range []string{"/etc/lab-was-here", "/usr/lab-was-here", "/var/lab-was-here", "/run/lab-was-here", "/run/netns/steam"} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is on the machine (%v)", path, err)
		}
		if _, err := os.Stat(w.Host.Path(path)); err != nil {
			t.Errorf("in the host: %v", err)
		}
	}
	lane, err := w.Host.Namespace("steam")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := lane.Run("ls", "/proc/sys/net/ipv4/conf"); err != nil || out != "all\ndefault\nlo" {
		t.Errorf("in the lane: %q, %v", out, err)
	}
}

func TestInside(t *testing.T) {
	t.Parallel()
	if !Inside(t) {
		return
	}
	if err := exec.Command("ip", "netns", "add", "steam").Run(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob("/run/netns/*")
	if err != nil || len(names) != 1 {
		t.Errorf("namespaces: %q, %v", names, err)
	}
	if _, err := os.Stat("bare_test.go"); err != nil {
		t.Error("not in the folder of the test:", err)
	}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	_, w := Start(t, Bare, Options{})

	t.Run("signals and exit codes pass", func(t *testing.T) {
		cmd := w.Host.Command("sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
			t.Errorf("got %v, want SIGTERM", err)
		}
		if err := w.Host.Command("sh", "-c", "exit 7").Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("got %v, want exit code 7", err)
		}
	})
	t.Run("a context kills", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if out, err := w.Host.RunContext(ctx, "sleep", "60"); err == nil {
			t.Errorf("no error: %s", out)
		}
	})
	t.Run("the error says what failed", func(t *testing.T) {
		_, err := w.Host.Run("sh", "-c", "echo because; exit 3")
		for _, part := range []string{"host", "sh -c", "exit status 3", "because"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("no %q in %v", part, err)
			}
		}
		if _, err := w.Host.Run("no-such-program"); !errors.Is(err, exec.ErrNotFound) {
			t.Errorf("got %v, want %v", err, exec.ErrNotFound)
		}
	})
	t.Run("it sees the host's processes and D-Bus only", func(t *testing.T) {
		out, err := w.Host.Run("sh", "-c", `echo "$DBUS_SESSION_BUS_ADDRESS"; cat /proc/1/comm`)
		if err != nil || out != "\ncat" {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("Fatal in Do does not hang", func(t *testing.T) {
		if err := w.Host.Do(func() error { new(testing.T).FailNow(); return nil }); err == nil {
			t.Error("no error")
		}
	})
}

func TestNewSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	if _, err := New(context.Background(), Plain, Options{RenewEvery: time.Second}); err == nil {
		t.Error("renewals every second are more than the server can do")
	}
	if _, err := lookPath("no-such-program"); !errors.Is(err, exec.ErrNotFound) {
		t.Error(err)
	}
}
