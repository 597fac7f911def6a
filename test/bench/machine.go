package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// preface says where this was measured; each chapter says when.
func preface() string {
	var b strings.Builder
	b.WriteString("Written by `make bench`; do not edit. Times are wall-clock, medians unless they say p95 (nearest rank).\n")
	b.WriteString("Everything runs in lab worlds (`test/lab`): network namespaces with a real NetworkManager, veths as cards\n")
	b.WriteString("and dnsmasq as DHCP servers. Ratios travel to other machines, absolute times do not.\n\n")
	t := table{{"", ""}}
	t.row("machine", fmt.Sprintf("%s, %d CPUs, %d GiB", processor(), runtime.NumCPU(), memoryGiB()))
	t.row("kernel", kernelRelease())
	t.row("system", firstMatch("/etc/os-release", "PRETTY_NAME="))
	t.row("NetworkManager", said("NetworkManager", "--version"))
	t.row("iptables", said("iptables", "--version"))
	t.row("Go", runtime.Version())
	t.row("command", "`make bench`")
	b.WriteString(t.markdown())
	return b.String()
}

func processor() string {
	_, name, _ := strings.Cut(firstMatch("/proc/cpuinfo", "model name"), ":")
	return strings.TrimSpace(name)
}

// firstMatch is what follows a prefix in the first line that has it.
func firstMatch(file, prefix string) string {
	data, _ := os.ReadFile(file)
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return strings.Trim(strings.TrimSpace(rest), `"`)
		}
	}
	return "unknown"
}

func memoryGiB() uint64 {
	var info unix.Sysinfo_t
	_ = unix.Sysinfo(&info)
	return info.Totalram * uint64(info.Unit) >> 30
}

// load is how busy the machine is, this program's own work of the minutes before included.
func load() string {
	text, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(text))
	if len(fields) < 3 {
		return "unknown"
	}
	if busy, _ := strconv.ParseFloat(fields[0], 64); busy > float64(runtime.NumCPU()) {
		return strings.Join(fields[:3], " ") + ", **so other programs took the processors in between**"
	}
	return strings.Join(fields[:3], " ")
}

// commit is that of the folder in which this runs, as the binaries are built from there.
func commit() string {
	if said("git", "status", "--porcelain", "--", "*.go") != "" {
		return said("git", "rev-parse", "--short", "HEAD") + " with changes"
	}
	return said("git", "rev-parse", "--short", "HEAD")
}

func kernelRelease() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	return unix.ByteSliceToString(u.Release[:])
}

func said(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
