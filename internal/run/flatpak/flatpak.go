// Package flatpak keeps Flatpak's programs in the lane in which "flatpak run" is: its processes stay there by
// themselves, but they ask the host for two things. Names: a helper outside of the lane copies the host's
// resolv.conf into every sandbox. And programs: by Flatpak's portal a program can have others started, outside.
//
// Flatpak starts bwrap for each sandbox, and says by a variable which. In a lane that is uplane, which changes what
// Flatpak tells it, and becomes bwrap.
package flatpak

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"uplane/internal/run/nsexec"
)

// variable tells Flatpak which bwrap to start.
const variable = "FLATPAK_BWRAP"

// Environ is an environment in which Flatpak starts this program for bwrap, where there is a Flatpak.
func Environ(environ []string) []string {
	if _, err := exec.LookPath("flatpak"); err != nil {
		return environ
	}
	self, err := os.Executable()
	if err != nil {
		return environ
	}
	return append(slices.DeleteFunc(slices.Clone(environ), func(kv string) bool { return strings.HasPrefix(kv, variable+"=") }), variable+"="+self)
}

// Arguments is bwrap's option with which Flatpak begins: the number of a descriptor that has the others.
const Arguments = "--args"

// Bwrap becomes bwrap, with Flatpak's arguments less what leads out of the lane. It returns an exit code only when that fails.
func Bwrap(args []string, stderr io.Writer) int {
	fmt.Fprintln(stderr, "uplane: flatpak:", become(args))
	return 1 // as bwrap does
}

func become(args []string) error {
	path, err := find()
	if err != nil {
		return err
	}
	if nsexec.InLane() { // the variable may have got out
		if err := change(args); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w", path, syscall.Exec(path, append([]string{path}, args...), os.Environ()))
}

func change(args []string) error {
	if err := edit(args[1], sandbox); err != nil {
		return fmt.Errorf("change bwrap's arguments: %w", err)
	}
	// Before a sandbox there is one for the proxy that stands between it and the buses.
	const more = "--args="
	if at := slices.IndexFunc(args, func(a string) bool { return filepath.Base(a) == "xdg-dbus-proxy" }); at >= 0 {
		for _, a := range args[at+1:] {
			if fd, ok := strings.CutPrefix(a, more); ok {
				if err := edit(fd, proxy); err != nil {
					return fmt.Errorf("change the bus proxy's arguments: %w", err)
				}
			}
		}
	}
	return nil
}

// bwraps are where distributions have it. Flatpak gives us no PATH.
var bwraps = []string{"/usr/bin/bwrap", "/usr/libexec/flatpak-bwrap", "/usr/lib/flatpak-bwrap", "/usr/local/bin/bwrap"}

func find() (path string, err error) {
	for _, path := range bwraps {
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no bwrap is in any of %v", bwraps)
}

// edit changes the arguments in a descriptor, each of which ends with a zero byte.
func edit(descriptor string, change func([]string) []string) error {
	fd, err := strconv.Atoi(descriptor)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err
	}
	changed, err := unix.MemfdCreate("arguments", 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(changed), "arguments")
	defer f.Close()
	if _, err := f.Write(join(change(split(text)))); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return unix.Dup2(changed, fd)
}

func split(text []byte) []string {
	var args []string
	for arg := range bytes.SplitSeq(bytes.TrimSuffix(text, []byte{0}), []byte{0}) {
		args = append(args, string(arg))
	}
	return args
}

func join(args []string) []byte {
	var b bytes.Buffer
	for _, a := range args {
		b.WriteString(a)
		b.WriteByte(0)
	}
	return b.Bytes()
}

// monitor is where a sandbox has the helper's copies of the host's files; /etc/resolv.conf links there.
const monitor = "/run/host/monitor"

// sandbox are bwrap's arguments, in which monitor has the lane's resolv.conf, and of the helper's copies only the rest.
// Not a mount on top of theirs: that would go when the helper makes a new one.
func sandbox(args []string) []string {
	at := slices.Index(args, monitor)
	if at < 2 || !strings.HasSuffix(args[at-2], "bind") {
		return args // no sandbox of a program, or its resolv.conf already is the lane's
	}
	source := args[at-1]
	ours := []string{"--tmpfs", monitor}
	copies, _ := os.ReadDir(source) // without: as if there were none
	for _, c := range copies {
		from := filepath.Join(source, c.Name())
		if c.Name() == "resolv.conf" {
			continue
		}
		ours = append(ours, "--ro-bind-try", from, filepath.Join(monitor, c.Name()))
	}
	ours = append(ours, "--ro-bind", "/etc/resolv.conf", monitor+"/resolv.conf")
	return slices.Replace(slices.Clone(args), at-2, at+1, ours...)
}

// outside start programs outside of the lane for whoever asks.
var outside = []string{"org.freedesktop.Flatpak", "org.freedesktop.portal.Flatpak", "org.freedesktop.systemd1"}

// portals are the others that every sandbox may call.
var portals = []string{
	"org.freedesktop.portal.Desktop", "org.freedesktop.portal.Documents", "org.freedesktop.portal.Fcitx", "org.freedesktop.portal.IBus", "org.freedesktop.portal.Tracker",
}

// proxy are the bus proxy's arguments, by which a sandbox does not reach those.
func proxy(args []string) []string {
	var out []string
	for _, a := range args {
		option, value, _ := strings.Cut(a, "=")
		name, rule, _ := strings.Cut(value, "=")
		switch option {
		case "--call", "--talk", "--own":
		default:
			out = append(out, a)
			continue
		}
		switch {
		case !slices.ContainsFunc(outside, func(o string) bool { return matches(name, o) }):
			out = append(out, a)
		case option == "--call" && name == "org.freedesktop.portal.*":
			for _, p := range portals {
				out = append(out, option+"="+p+"="+rule)
			}
		}
	}
	return out
}

// matches tells whether a proxy's pattern is of a name, or of some below it.
func matches(pattern, name string) bool {
	prefix, all := strings.CutSuffix(pattern, ".*")
	return pattern == name || all && (name == prefix || strings.HasPrefix(name, prefix+"."))
}
