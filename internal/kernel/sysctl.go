package kernel

import (
	"os"
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
	return os.WriteFile(procSys+s.Key, []byte(s.Value), 0)
}
