package lab

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"uplane/internal/nsthread"
)

// newNetns makes a network namespace that lives as long as the returned file is open.
func newNetns() (*os.File, error) {
	var ns *os.File
	err := nsthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare a network namespace: %w", err)
		}
		var err error
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

// setns moves the calling thread into a namespace.
func setns(ns *os.File, kind int) error {
	if err := unix.Setns(int(ns.Fd()), kind); err != nil {
		return fmt.Errorf("enter %s: %w", ns.Name(), err)
	}
	return nil
}
