package kernel

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"uplane/policy"
)

const procSys = "/proc/sys/"

// Sysctl returns a switch's present value, and false when there is none such.
func (k *Kernel) Sysctl(key string) (string, bool) {
	if v, ok := k.sysctls[key]; ok {
		return v, true
	}
	data, err := os.ReadFile(procSys + key)
	if err != nil {
		return "", false
	}
	v := strings.TrimSpace(string(data))
	k.sysctls[key] = v
	return v, true
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
	err := os.WriteFile(procSys+s.Key, []byte(s.Value), 0)
	if errors.Is(err, fs.ErrNotExist) {
		// The link went since it was looked at, as NetworkManager's bridges do, and its switches with it.
		if _, gone := os.Stat(filepath.Dir(procSys + s.Key)); errors.Is(gone, fs.ErrNotExist) {
			k.stale.mark(func(p *parts) { p.links = true })
			return nil
		}
	}
	return err
}
