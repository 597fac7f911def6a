package handover

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

// Process is one of this user's, in a lane or outside of all.
type Process struct {
	PID     int
	Name    string // the kernel's, of 15 bytes at most
	Lane    string // empty: it is where we are
	Args    []string
	Windows bool   // it can have some
	App     string // Flatpak's name of it
}

// byName are all processes of the machine, by their names.
type byName map[string][]int

// list looks at all processes, but no further than at their names: there are many.
func list() byName {
	all := byName{}
	entries, err := os.Open("/proc")
	if err != nil {
		return all
	}
	defer entries.Close()
	numbers, _ := entries.Readdirnames(-1)
	for _, number := range numbers {
		if pid, err := strconv.Atoi(number); err == nil {
			name := processName(pid)
			all[name] = append(all[name], pid)
		}
	}
	return all
}

// look returns those of these names that still have them.
func (all byName) look(names []string) (found []Process) {
	lanes := lanesByNetns()
	for _, name := range names {
		name = short(name)
		for _, pid := range all[name] {
			if r, ok := describe(pid, name, lanes); ok && name != "" && processName(pid) == name {
				found = append(found, r)
			}
		}
	}
	return found
}

// lookFlatpak returns the processes with which Flatpak runs an app.
func lookFlatpak(app string) (found []Process) {
	lanes := lanesByNetns()
	for _, pid := range instances(app) {
		if r, ok := describe(pid, app, lanes); ok {
			r.App = app
			found = append(found, r)
		}
	}
	return found
}

// processName is the kernel's name of a process; empty: it has gone.
func processName(pid int) string {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/comm", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var buf [64]byte
	n, _ := unix.Read(fd, buf[:])
	return strings.TrimSuffix(string(buf[:max(n, 0)]), "\n")
}

// lanesByNetns returns the lanes, and ourselves, by the inode of the network namespace. A process in another one is in a sandbox
// of its own, such as a browser makes for its pages.
func lanesByNetns() map[uint64]string {
	lanes := map[uint64]string{}
	paths, _ := filepath.Glob(policy.NetnsPath("*"))
	for _, path := range append(paths, "/proc/self/ns/net") {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			lanes[st.Ino] = filepath.Base(path)
			if path == "/proc/self/ns/net" {
				lanes[st.Ino] = ""
			}
		}
	}
	return lanes
}

// describe looks at a process, if it is this user's and the kernel lets us.
func describe(pid int, name string, lanes map[uint64]string) (r Process, ok bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil || int(st.Uid) != os.Getuid() || unix.Stat(dir+"/ns/net", &st) != nil {
		return r, false
	}
	lane, ok := lanes[st.Ino]
	if !ok {
		return r, false
	}
	r = Process{PID: pid, Name: name, Lane: lane}
	line, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return r, false
	}
	r.Args = strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	maps, err := os.ReadFile(dir + "/maps")
	r.Windows = err == nil && slices.ContainsFunc(windowLibraries, func(l string) bool { return bytes.Contains(maps, []byte(l)) })
	return r, true
}

// windowLibraries are in every program that shows windows, whatever it is made with.
var windowLibraries = []string{"/libX11.so", "/libxcb.so", "/libwayland-client.so"}

// instances are the numbers of those that Flatpak has written down.
func instances(app string) (pids []int) {
	runtime := os.Getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(runtime) {
		return nil
	}
	infos, _ := filepath.Glob(filepath.Join(runtime, ".flatpak", "*", "info"))
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if err != nil || !slices.Contains(strings.Split(string(text), "\n"), "name="+app) {
			continue
		}
		if text, err = os.ReadFile(filepath.Join(filepath.Dir(info), "pid")); err != nil {
			continue
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
