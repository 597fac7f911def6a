// Package nsthread runs functions on threads of their own, for to the kernel namespaces are a thread's, not a process's.
package nsthread

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// Run runs f on a thread that ends with it, whatever f did to its namespaces.
func Run(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and no other gets it
		if unix.Gettid() == unix.Getpid() {
			// But for the first one, which Go only puts aside: it would stay where f has left it, and so would all of
			// /proc/self. While it is locked here, another is given to the next.
			result <- Run(f)
			runtime.UnlockOSThread()
			return
		}
		err := errors.New("the goroutine ended") // as a failing test's does
		defer func() { result <- err }()
		err = f()
	}()
	return <-result
}
