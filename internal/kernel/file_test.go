package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
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

// TestOverwrite reads a file without pause while it is changed: it says one thing or the other, as a whole.
func TestOverwrite(t *testing.T) {
	texts := []string{
		"# uplane:steam: x\nnameserver 203.0.113.54\n",
		"# uplane:steam: x\nsearch example.org lan\nnameserver 192.168.50.1\nnameserver 192.168.50.2\n",
	}
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := createFile(path, padded(texts[0], 0), 0o644); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	read := make(chan error)
	go func() {
		for !stop.Load() {
			data, err := os.ReadFile(path)
			if err == nil && unpadded(string(data)) != texts[0] && unpadded(string(data)) != texts[1] {
				err = errors.New("it says\n" + string(data))
			}
			if err != nil {
				read <- err
				return
			}
		}
		read <- nil
	}()
	for i := range 20_000 {
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := overwrite(file, texts[i%2]); err != nil {
			t.Fatal(err)
		}
		file.Close()
		after, err := os.Stat(path)
		if err != nil || after.ModTime().Equal(before.ModTime()) || after.Size() != before.Size() {
			t.Fatalf("%v and %v, %d and %d bytes: %v", before.ModTime(), after.ModTime(), before.Size(), after.Size(), err)
		}
	}
	stop.Store(true)
	if err := <-read; err != nil {
		t.Error(err)
	}
}
