package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs fn on an OS thread of its own, which dies with all that fn did to its namespaces.
func onThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime then ends the thread and no other goroutine gets it.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread can't end, and its namespaces are what /proc/self shows. While
			// it is locked here, the next goroutine is given another one.
			result <- onThread(fn)
			runtime.UnlockOSThread()
			return
		}
		err := errors.New("goexit in a namespace: use Fatal outside of it")
		defer func() { result <- err }()
		err = fn()
	}()
	return <-result
}

// newNetns makes a network namespace that lives as long as the returned file is open.
func newNetns() (*os.File, error) {
	var ns *os.File
	err := onThread(func() error {
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
