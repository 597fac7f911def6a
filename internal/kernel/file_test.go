package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestPadded(t *testing.T) {
	for n := range 600 {
		content := strings.Repeat("x", n) + "\n"
		for _, size := range []int{0, 10, 256, 1000} {
			got := padded(content, size)
			if len(got) < size || len(got) < len(content) || size < len(content) && len(got)%block != 0 || unpadded(got) != content {
				t.Fatalf("%d bytes become %d, and %d again", len(content), len(got), len(unpadded(got)))
			}
			if cut := padded(content, 0) + "\x00\x00"; unpadded(cut) != content {
				t.Fatalf("%q becomes %q", cut, unpadded(cut))
			}
		}
	}
}

func FuzzUnpadded(f *testing.F) {
	f.Add("# uplane:steam: x\nnameserver 1.1.1.1\n#   \n")
	f.Fuzz(func(t *testing.T, content string) {
		if got := unpadded(content); !strings.HasPrefix(content, got) {
			t.Errorf("%q becomes %q", content, got)
		}
		text := unpadded("a\n" + strings.Trim(content, "\n\x00# ") + "\n")
		if got := unpadded(padded(text, 0)); got != text {
			t.Errorf("%q comes back as %q", text, got)
		}
	})
}

// TestOverwrite has a file change under a reader that reads it again when its date has changed, as the C library and Go
// do. (The kernel copies without a lock: of some 300 000 changes under a reader without pause one was read half done. Its date was then another's.)
func TestOverwrite(t *testing.T) {
	texts := []string{
		"# uplane:steam: x\nnameserver 203.0.113.54\n",
		"# uplane:steam: x\nsearch example.org lan\nnameserver 192.168.50.1\nnameserver 192.168.50.2\n",
	}
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := createFile(path, padded(texts[0], 0), 0o644); err != nil {
		t.Fatal(err)
	}
	type reading struct {
		date time.Time
		text string
	}
	var last atomic.Pointer[reading]
	var stop atomic.Bool
	done := make(chan error)
	go func() {
		for !stop.Load() {
			info, err := os.Stat(path)
			if r := last.Load(); err == nil && r != nil && r.date.Equal(info.ModTime()) {
				continue
			}
			data, err2 := os.ReadFile(path)
			if err = errors.Join(err, err2); err == nil && len(data) != block {
				err = errors.New("it is cut off:\n" + string(data))
			}
			if err != nil {
				done <- err
				return
			}
			last.Store(&reading{info.ModTime(), string(data)})
		}
		done <- nil
	}()
	for i := range 2000 {
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		want := texts[i%2]
		if err := overwrite(file, want); err != nil {
			t.Fatal(err)
		}
		file.Close()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		for r := last.Load(); r == nil || !r.date.Equal(info.ModTime()); r = last.Load() {
			select {
			case err := <-done:
				t.Fatal(err)
			default:
				runtime.Gosched()
			}
		}
		if got := unpadded(last.Load().text); got != want {
			t.Fatalf("with change %d it keeps\n%s\nnot\n%s", i, got, want)
		}
	}
	stop.Store(true)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
