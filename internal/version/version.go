// Package version says which build of Uplane this is.
package version

import (
	"fmt"
	"runtime"
)

// Stamped by the Makefile. A build by "go build" alone, as tests make, has neither.
var (
	Number = "devel"
	commit = "unknown"
)

// Text is one line for a program: its version, its commit and what built it.
func Text(program string) string {
	return fmt.Sprintf("%s %s (commit %s, %s, %s/%s)", program, Number, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
