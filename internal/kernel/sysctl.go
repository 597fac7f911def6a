package kernel

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

const procSys = "/proc/sys/"

// Sysctl returns a switch's present value, and false when there is none such.
func (k *Kernel) Sysctl(key string) (string, bool) {
	if v, ok := k.sysctls[key]; ok {
		return v, true
	}
	v, err := readSysctl(policy.Sysctl{Key: key})
	if err != nil {
		return "", false
	}
	k.sysctls[key] = v
	return v, true
}

func readSysctl(s policy.Sysctl) (string, error) {
	if s.IsSTP() {
		return stp(s.Link())
	}
	data, err := os.ReadFile(procSys + s.Key)
	return strings.TrimSpace(string(data)), err
}

func (k *Kernel) observeSysctls(state policy.State, keys []string) {
	for _, key := range keys {
		if v, ok := k.Sysctl(key); ok {
			state.Add(policy.Sysctl{Key: key, Value: v})
		}
	}
}

func (k *Kernel) applySysctl(s policy.Sysctl) error {
	delete(k.sysctls, s.Key)
	err := k.writeSysctl(s)
	if errors.Is(err, errLinkGone) {
		// The link went since it was looked at, as NetworkManager's bridges do, and its switches with it.
		k.stale.mark(func(p *parts) { p.links = true })
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
	err := os.WriteFile(procSys+s.Key, []byte(s.Value), 0)
	if errors.Is(err, fs.ErrNotExist) {
		if _, gone := os.Stat(filepath.Dir(procSys + s.Key)); errors.Is(gone, fs.ErrNotExist) {
			return errLinkGone
		}
	}
	return err
}
