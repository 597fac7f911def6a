package lab

import (
	"os"
	"path/filepath"
	"testing"
)

// TestUnfinishedImages: who makes an image removes those whose makers were stopped, and no other's.
func TestUnfinishedImages(t *testing.T) {
	RequireRoot(t)
	RequireProgram(t, "mmdebstrap")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	cache := filepath.Join(os.Getenv("XDG_CACHE_HOME"), "uplane")
	for _, name := range []string{"stopped.new/root", "working.new/root", "old"} {
		if err := os.MkdirAll(filepath.Join(cache, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := lockImage(filepath.Join(cache, "working"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	image, err := Bookworm.Image(t.Context(), `mkdir "$2"`)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		image: true, image + ".new": false,
		filepath.Join(cache, "stopped.new"): false,
		filepath.Join(cache, "working.new"): true,
		filepath.Join(cache, "old"):         true,
	} {
		if exists(path) != want {
			t.Errorf("%s: there is %v", path, !want)
		}
	}
	if _, err := Bookworm.Image(t.Context(), `mkdir "$2"; exit 1`); err == nil {
		t.Error("a recipe that fails makes an image")
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "bookworm-*.new")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
