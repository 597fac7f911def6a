package config

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"uplane/internal/state/safefile"
	"uplane/policy"
)

// New writes the file of a lane that there is none of, to dirs.Etc, and returns
// its path. keys are as Edit's changes. It refuses, and writes nothing, under
// the same conditions as Edit, and if the file exists ([fs.ErrExist]).
func New(dirs Dirs, lane string, keys map[string]any) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("create lane %s: %w", lane, err) }
	if err := policy.CheckLaneName(lane); err != nil {
		return fail(&Refused{err})
	}
	file := laneFile(dirs.Etc, lane)
	if _, err := os.Lstat(file); err == nil { // a mask, too
		return fail(fmt.Errorf("%s: %w", file, fs.ErrExist))
	}
	data, err := editText(file, header(lane), keys)
	if err != nil {
		return fail(&Refused{err})
	}
	if err := read(dirs).try(lane, source{file: file, data: data}); err != nil {
		return fail(&Refused{err})
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fail(err)
	}
	if err := safefile.Write(file, data, 0o644); err != nil {
		return fail(err)
	}
	return file, nil
}
