package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The errors of files in testdata, as a user sees them. Each file there is a
// lane, or uplane.toml if it is called default-*; UPDATE=1 rewrites errors.golden.
func TestErrorTexts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.toml")
	must(t, err)
	if len(files) == 0 {
		t.Fatal("no testdata")
	}
	var got strings.Builder
	for _, file := range files {
		data, err := os.ReadFile(file)
		must(t, err)
		name := filepath.Base(file)
		in := map[string]string{"etc/lanes.d/" + name: string(data)}
		if strings.HasPrefix(name, "default-") {
			in = map[string]string{"etc/uplane.toml": string(data)}
		}
		dirs, top := newDirs(t, in)
		cfg, errs := Load(dirs)
		if len(errs) == 0 {
			t.Errorf("%s: no error, lanes %q", name, names(cfg))
		}
		got.WriteString("# " + name + "\n" + texts(errs, top))
	}
	golden(t, "testdata/errors.golden", got.String())
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("UPDATE") != "" {
		must(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	wantLines, gotLines := strings.Split(string(want), "\n"), strings.Split(got, "\n")
	for i := range max(len(wantLines), len(gotLines)) {
		var w, g string
		if i < len(wantLines) {
			w = wantLines[i]
		}
		if i < len(gotLines) {
			g = gotLines[i]
		}
		if w != g {
			t.Fatalf("%s:%d:\n have %s\n want %s", file, i+1, g, w)
		}
	}
}
