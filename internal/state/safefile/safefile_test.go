package safefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestReadLimits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if _, err := Read(path, 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("have %v", err)
	}
	must(t, os.WriteFile(path, make([]byte, 2048), 0o600))
	if data, err := Read(path, 2048); err != nil || len(data) != 2048 {
		t.Errorf("have %d bytes, %v", len(data), err)
	}
	if _, err := Read(path, 2047); err == nil || err.Error() != "larger than 1 KiB" {
		t.Errorf("have %v", err)
	}
}

func TestWriteMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, mode := range []fs.FileMode{0o600, 0o644} {
		must(t, Write(path, []byte("x"), mode))
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("have %v, %v, want %v", info.Mode(), err, mode)
		}
	}
}

// A write that fails leaves nothing beside the old file.
func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	must(t, os.MkdirAll(filepath.Join(path, "full"), 0o755)) // no rename replaces a folder
	if err := Write(path, []byte("x"), 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// A reader beside a writer sees one content or the other, whole.
func TestWriteIsAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	contents := []string{strings.Repeat("a", 5000), strings.Repeat("b", 9000)}
	must(t, Write(path, []byte(contents[0]), 0o600))
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for i := range 100 {
			if err := Write(path, []byte(contents[i%2]), 0o600); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			data, err := Read(path, 1<<20)
			if err != nil || string(data) != contents[0] && string(data) != contents[1] {
				t.Errorf("read %d bytes, %v", len(data), err)
				return
			}
		}
	})
	wg.Wait()
}
