// Package overlay is what programs in lanes see of the host's files: all of them, but for those by which
// they would have names resolved outside of the lane.
package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

// File is one that a lane has instead of the host's.
type File struct {
	LanePath, HostPath string
}

const hostResolvConf = "/etc/resolv.conf"

// Files are those of a lane.
func Files(lane string) []File {
	return []File{{policy.ResolvConfPath(lane), hostResolvConf}, {policy.SwitchPath(lane), policy.HostSwitch}}
}

// Masked are the folders with the sockets of nscd, systemd-resolved and Avahi, which answer from outside of
// the lane; the C library prefers the first to all that it is told. The folders, not the sockets: a service
// that restarts makes new ones.
var Masked = []string{"/run/nscd", "/run/systemd/resolve", "/run/avahi-daemon"}

// Check returns an error that says what to do when the host has no file that a lane's can stand in for.
// A link that leads nowhere will do.
func Check() error {
	if _, err := os.Lstat(hostResolvConf); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("this machine has no %s, in whose place programs in lanes have the lane's: make one, such as by sudo touch %[1]s", hostResolvConf)
	}
	return nil
}

// Enter gives this thread its own mounts, in which the lane's files stand in for the host's and host-wide
// resolvers don't answer. Everything else, /sys and its cgroups included, stays as it is, and
// new mounts of the host still show.
func Enter(lane string) error {
	if err := Check(); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	for _, dir := range Masked {
		if err := mask(dir); err != nil {
			return fmt.Errorf("mask %s: %w", dir, err)
		}
	}
	for _, f := range Files(lane) {
		if err := f.bind(); err != nil {
			return err
		}
	}
	return nil
}

// bind puts the lane's file over the host's.
func (f File) bind() error {
	tree, err := f.Open()
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return f.Mount(tree)
}

// Open returns a descriptor of the lane's file as a mount that is nowhere yet.
func (f File) Open() (tree int, err error) {
	tree, err = unix.OpenTree(unix.AT_FDCWD, f.LanePath, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: f.LanePath, Err: err}
	}
	return tree, nil
}

// Mount puts what Open has returned over the host's file, in this thread's mount namespace. Where that is a link it covers
// the link itself, which may lead nowhere. One that the host has not is left out: the C library does without.
func (f File) Mount(tree int) error {
	err := unix.MoveMount(tree, "", unix.AT_FDCWD, f.HostPath, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("bind %s over %s: %w", f.LanePath, f.HostPath, err)
	}
	return nil
}

// mask puts an empty folder over dir, if there is one.
func mask(dir string) error {
	err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=64k")
	if err == unix.ENOENT {
		return nil
	}
	return err
}
