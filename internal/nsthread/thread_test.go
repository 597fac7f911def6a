package nsthread

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRun: never on the first thread, also when that is idle, as it is in a test.
func TestRun(t *testing.T) {
	want := errors.New("an error")
	for range 100 {
		if err := Run(func() error {
			if unix.Gettid() == os.Getpid() {
				t.Error("on the first thread")
			}
			return want
		}); err != want {
			t.Fatal(err)
		}
	}
	if err := Run(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("a goroutine that ended")
	}
}
