package kernel

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

const procSys = "/proc/sys/"

// linkSwitches are those of others' links that are read in any case: what decides which way packets
// come in and go out there, and so what lanes must change.
var linkSwitches = []string{"forwarding", "src_valid_mark", "arp_ignore", "arp_announce"}

// silentSwitches are those of which the kernel never tells. Who asks for one gets what it is now.
var silentSwitches = []string{"src_valid_mark", "arp_ignore", "arp_announce"}

// forwardsKey is the switch of the whole host: it forwards packets on all links that come.
const forwardsKey = "net/ipv4/ip_forward"

// Sysctl returns a switch's present value, and false when there is none such.
func (k *Kernel) Sysctl(key string) (string, bool) {
	s := policy.Sysctl{Key: key}
	link := s.Link()
	if v, ok := k.sysctls[link][key]; ok {
		return v, true
	}
	v, err := k.readSysctl(s)
	if err != nil {
		return "", false
	}
	// For this one the kernel sends no event but of what comes and goes with it, on links that carry packets.
	if l := k.links[k.indexes[link]]; strings.HasSuffix(key, "/disable_ipv6") && !(l.up && l.running) {
		return v, true
	}
	if k.sysctls[link] == nil {
		k.sysctls[link] = map[string]string{}
	}
	k.sysctls[link][key] = v
	return v, true
}

// forgetSilent forgets those of the switches in keys that may have changed without a word.
func (k *Kernel) forgetSilent(keys []string) {
	for _, key := range keys {
		if slices.Contains(silentSwitches, path.Base(key)) {
			delete(k.sysctls[policy.Sysctl{Key: key}.Link()], key)
		}
	}
}

// forgetSysctls forgets what is known of the switches of links that changed: NetworkManager sets those of
// bridges whenever it takes up a profile, and the kernel tells no more than that the link changed.
func (k *Kernel) forgetSysctls(p parts) {
	if p.allSwitch || p.links.most() {
		clear(k.sysctls)
		for index := range k.links {
			put(&k.dirty.switches, index)
		}
		return
	}
	for _, links := range []map[int]bool{p.links.indexes, p.switches} {
		for index := range links {
			delete(k.sysctls, k.links[index].name)
			put(&k.dirty.switches, index)
		}
	}
	if p.switches[netconfDefault] {
		delete(k.sysctls, "default")
	}
	for name := range p.links.names {
		delete(k.sysctls, name)
	}
}

// switches are the open folders of one network namespace's switches; below 0: there is none. A path from the
// root goes through all namespaces that anybody has seen the switches of, as the kernel keeps their entries "ipv4" in one
// hash chain: with a thousand lanes it takes 0.5 ms to open one switch, and below an open folder 0.01 ms.
type switches struct{ ipv4, ipv6 int }

// openSwitches opens those of the calling thread's namespace.
func openSwitches() switches {
	open := func(dir string) int {
		fd, err := unix.Open(procSys+dir, unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1 // it may come, with a module of the kernel's
		}
		return fd
	}
	return switches{open("net/ipv4"), open("net/ipv6")}
}

func (s switches) close() {
	unix.Close(s.ipv4)
	unix.Close(s.ipv6)
}

// open opens a switch. By system call: package os has Go's poller try to watch the file, which takes as long again.
func (s switches) open(key string, flags int) (int, error) {
	dir, name := unix.AT_FDCWD, procSys+key
	if below, ok := strings.CutPrefix(key, "net/ipv4/"); ok && s.ipv4 >= 0 {
		dir, name = s.ipv4, below
	} else if below, ok := strings.CutPrefix(key, "net/ipv6/"); ok && s.ipv6 >= 0 {
		dir, name = s.ipv6, below
	}
	fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: procSys + key, Err: err}
	}
	return fd, nil
}

func (s switches) read(key string) (string, error) {
	fd, err := s.open(key, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var buf [128]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(buf[:n])), nil
}

func (s switches) write(key, value string) error {
	fd, err := s.open(key, unix.O_WRONLY|unix.O_TRUNC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return &fs.PathError{Op: "write", Path: procSys + key, Err: err}
	}
	return nil
}

func (k *Kernel) readSysctl(s policy.Sysctl) (string, error) {
	if s.IsSTP() {
		return stp(s.Link())
	}
	return k.switches.read(s.Key)
}

// observeSysctls adds the switches of others' links to host.
func (k *Kernel) observeSysctls(host *policy.Host) {
	for _, l := range k.links {
		if l.ours() || !l.up {
			continue
		}
		for _, name := range linkSwitches {
			key := "net/ipv4/conf/" + l.name + "/" + name
			if v, ok := k.Sysctl(key); ok {
				host.Sysctls[key] = v
			}
		}
	}
	forwards, _ := k.Sysctl(forwardsKey)
	host.Forwards = forwards == "1"
}

func (k *Kernel) applySysctl(s policy.Sysctl) error {
	delete(k.sysctls, s.Link())
	put(&k.dirty.switches, k.indexes[s.Link()])
	err := k.writeSysctl(s)
	if errors.Is(err, errLinkGone) {
		// The link went since it was looked at, as NetworkManager's bridges do, and its switches with it.
		k.touch(s.Link())
		return nil
	}
	return err
}

var errLinkGone = errors.New("the link is gone")

func (k *Kernel) writeSysctl(s policy.Sysctl) error {
	if s.IsSTP() {
		err := k.setSTP(s.Link(), s.Value != "0")
		if _, gone := err.(netlink.LinkNotFoundError); gone || errors.Is(err, unix.ENODEV) {
			return errLinkGone
		}
		return err
	}
	err := k.switches.write(s.Key, s.Value)
	if errors.Is(err, fs.ErrNotExist) {
		if _, gone := os.Stat(filepath.Dir(procSys + s.Key)); errors.Is(gone, fs.ErrNotExist) {
			return errLinkGone
		}
	}
	return err
}
