package nsexec

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSnap(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	for name, text := range map[string]string{
		"snap":     "\x7fELF",
		"scripted": "#!/bin/sh\n\nif ! [ -x /snap/bin/firefox ]; then\n  echo missing >&2\n  exit 1\nfi\n\nexec /snap/bin/firefox \"$@\"\n",
		"quoted":   "#!/bin/sh\n\texec \"/snap/bin/chromium\" \"$@\"\n",
		"comment":  "#!/bin/sh\n# exec /snap/bin/firefox\nexec true\n",
		"mentions": "#!/bin/sh\nls /snap/bin/firefox\n",
		"binary":   "\x7fELF\nexec /snap/bin/firefox\n",
		"empty":    "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"firefox": "snap", "linked": "firefox"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for command, snap := range map[string]bool{
		"firefox x": true, "linked": true, "scripted": true, "quoted": true, "snap run firefox": true,
		"snap list": false, "snap": false, "comment": false, "mentions": false, "binary": false, "empty": false,
	} {
		path, err := FindInLane(strings.Fields(command))
		var failure *Failure
		switch {
		case snap && (!errors.As(err, &failure) || failure.Code != ExitFailed || !strings.Contains(err.Error(), "is a snap: ") || failure.Next == ""):
			t.Errorf("%s: %v", command, err)
		case !snap && (err != nil || filepath.Dir(path) != dir):
			t.Errorf("%s: %s, %v", command, path, err)
		}
	}
	if _, err := FindInLane([]string{"nosuch"}); err == nil || strings.Contains(err.Error(), "snap") {
		t.Errorf("nosuch: %v", err)
	}
}
