package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newDirs makes the three root folders under a temporary one, which it returns
// too, and puts files there, keyed by their path below it.
func newDirs(t testing.TB, files map[string]string) (Dirs, string) {
	t.Helper()
	top := t.TempDir()
	for file, content := range files {
		put(t, filepath.Join(top, file), content)
	}
	return Dirs{Etc: top + "/etc", Run: top + "/run", Lib: top + "/lib"}, top
}

// put writes a file with the modes that a root daemon accepts, whatever the
// umask is.
func put(t testing.TB, file, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(content), 0o644))
	must(t, os.Chmod(file, 0o644))
	must(t, os.Chmod(filepath.Dir(file), 0o755))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// texts prints errors one a line, without the temporary folder.
func texts(errs []error, top string) string {
	var b strings.Builder
	for _, err := range errs {
		b.WriteString(strings.ReplaceAll(err.Error(), top+"/", "") + "\n")
	}
	return b.String()
}

// names lists the sound lanes.
func names(cfg Config) string {
	var all []string
	for _, l := range cfg.Lanes {
		all = append(all, l.Name)
	}
	return strings.Join(all, " ")
}
