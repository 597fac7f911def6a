package nsexec

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// FindInLane looks a command's program up, and refuses one that would not be in the lane with all that belongs to it.
func FindInLane(command []string) (path string, err error) {
	path, err = Find(command[0])
	if err == nil && isSnap(path, command[1:]) {
		return "", &Failure{
			Code: ExitFailed,
			Err:  fmt.Errorf("%s is a snap: snapd gives it files of its own, with which names are asked of this machine's servers and not of the lane's", command[0]),
			Next: "the program as a package or a Flatpak",
		}
	}
	return path, err
}

// snapDirs are where the commands of snaps are, all of them links to snap.
var snapDirs = []string{"/snap/bin/", "/var/lib/snapd/snap/bin/"}

// isSnap tells whether a command starts a snap: itself, or as a script that stands in for it, such as Ubuntu's firefox.
func isSnap(path string, args []string) bool {
	if real, err := filepath.EvalSymlinks(path); err == nil && filepath.Base(real) == "snap" {
		if filepath.Base(path) != "snap" {
			return true
		}
		return len(args) > 0 && args[0] == "run" // the others only talk to snapd
	}
	for _, dir := range snapDirs {
		if strings.HasPrefix(path, dir) {
			return true
		}
	}
	text, ok := bytes.CutPrefix(begin(path), []byte("#!"))
	if !ok {
		return false
	}
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if bytes.HasPrefix(line, []byte("#")) {
			continue
		}
		for _, dir := range snapDirs {
			if rest, ok := bytes.CutPrefix(line, []byte("exec ")); ok && bytes.HasPrefix(bytes.Trim(rest, `"' `), []byte(dir)) {
				return true
			}
		}
	}
	return false
}

// begin is how a file begins; one that can't be read shows when it is executed. Without os.File, which has Go's runtime start threads.
func begin(path string) []byte {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	text := make([]byte, maxScript)
	n, _ := unix.Read(fd, text)
	return text[:max(n, 0)]
}

// maxScript is the most that is read of a script, in bytes: those that only stand in for a snap are short.
const maxScript = 4096
