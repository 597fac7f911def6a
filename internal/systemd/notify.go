// Package systemd tells the service manager how this service is, see
// sd_notify(3) and sd_watchdog_enabled(3). Without one it does nothing.
package systemd

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Ready tells that the service does what it is for, at the start or after a reload.
func Ready() error { return notify("READY=1") }

// Reloading tells that the configuration is being read again.
func Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	return notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}

// Status tells in words how the service is: the unit's StatusText.
func Status(words string) error { return notify("STATUS=" + strings.ReplaceAll(words, "\n", "; ")) }

// Stopping tells that the service is about to end.
func Stopping() error { return notify("STOPPING=1") }

// Alive tells the watchdog that all is well.
func Alive() error { return notify("WATCHDOG=1") }

// Watchdog is how often, at least, the service manager wants to hear from
// Alive; 0: never.
func Watchdog() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}

// notify sends a message to the service manager. The net package knows about
// the @ of abstract sockets.
func notify(message string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(message)); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}
