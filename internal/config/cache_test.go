package config

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestCache changes files in all the ways that there are, and compares what a cache makes of them with what a first look does.
func TestCache(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(lane string) string { return filepath.Join(dir, lanesDir, lane+suffix) }
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, lanesDir), 0o755); err != nil {
		t.Fatal(err)
	}
	cache := NewCache()
	long := time.Now().Add(-time.Hour)
	for i, change := range []func(){
		func() { write(file("steam"), "uplink = \"wlp6s0\"\n"); write(file("games"), "table = 7\n") },
		func() { write(filepath.Join(dir, defaultsFile), "uplink = \"eth0\"\n") },
		func() {},
		func() { write(file("steam"), "uplink = \"wlp7s0\"\n") }, // as long as it was
		func() { write(file("steam"), "uplink = \"wlp8s0\"\n"); _ = os.Chtimes(file("steam"), long, long) },
		func() { write(file("games"), "table = 8\nrubbish\n") },
		func() { _ = os.Rename(file("games"), file("other")) },
		func() { _ = os.Chmod(file("other"), 0o666) }, // nobody but root may write to it
		func() { _ = os.Chmod(file("other"), 0o644) },
		func() { _ = os.Remove(filepath.Join(dir, defaultsFile)) },
		func() { write(file("steam"), "") },
	} {
		change()
		for _, pause := range []time.Duration{0, settled + 10*time.Millisecond} { // before it is kept, and after
			time.Sleep(pause)
			for range 2 {
				got, gotErrs := Load(Dirs{Etc: dir, Cache: cache})
				want, wantErrs := Load(Dirs{Etc: dir})
				if fmt.Sprint(got, gotErrs) != fmt.Sprint(want, wantErrs) {
					t.Fatalf("after change %d: %v %v\nnot %v %v", i, got, gotErrs, want, wantErrs)
				}
			}
		}
	}
	if len(cache.files) == 0 {
		t.Error("nothing is kept")
	}
	if cache.files[file("games")] != nil {
		t.Error("a file that is gone is kept")
	}
}
