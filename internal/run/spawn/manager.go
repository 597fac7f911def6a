// Package spawn is the daemon's part in running programs in lanes for users
// who are not root: it has systemd start them, lists them and ends them.
//
// What root does here is little. It looks at who asks (caller.go), and has
// systemd start uplane as that user in the lane's namespace (unit.go). Where
// there is no systemd the daemon does that itself (fork.go, child.go).
// Descriptors, environment and working directory of the caller never come here:
// what "uplane run" has started is uplane again, which fetches them from its
// other half, as the user (package shim).
package spawn

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
)

// Manager starts, lists and ends programs.
type Manager struct {
	// Uplane is the installed uplane, the only program that is ever started.
	Uplane string
	// Address is the bus; empty: the system bus.
	Address string

	scanning sync.Mutex
	starting queue
	children children
}

// Beside is where uplane is when uplaned is at that path: in Debian's sbin it has its uplane in bin.
func Beside(uplaned string) string {
	dir := filepath.Dir(uplaned)
	if filepath.Base(dir) == "sbin" {
		dir = filepath.Join(filepath.Dir(dir), "bin")
	}
	return filepath.Join(dir, "uplane")
}

// maxSocket is the longest path that a socket can have: the kernel's sun_path, less its end.
const maxSocket = 107

// CheckSocket returns nil if systemd may be given that path of a keeper's socket.
func CheckSocket(path string) error {
	if len(path) > maxSocket {
		return fmt.Errorf("the path of a socket has no more than %d bytes", maxSocket)
	}
	return checkPath(path)
}

// checkPath lets only paths through that mean the same to everybody who reads them on their way: systemd
// writes them into a unit's file, and reads that again, where a line's end, %, $, quotes and backslashes say something.
func checkPath(path string) error {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._+-", r)
	}
	switch {
	case !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/":
		return fmt.Errorf("path %.120q is not absolute, or not in its shortest form", path)
	case strings.ContainsFunc(path, func(r rune) bool { return !plain(r) }):
		return fmt.Errorf("path %.120q has other characters than letters, digits and / . _ + -", path)
	}
	return nil
}
