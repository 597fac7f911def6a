package state

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"uplane/policy"
)

// Run is what is forgotten on a reboot, as the kernel forgets it.
type Run struct {
	Lanes map[string]LaneRun `json:"lanes,omitempty"` // by lane name
	// Sysctl holds what our kernel switches were before we set them, by
	// [policy.Sysctl]'s key: net/ipv4/conf/wlp6s0/forwarding.
	Sysctl map[string]int `json:"sysctl,omitempty"`
	// Tables are the firewall tables and base chains that were not there before
	// us, "filter" or "filter FORWARD", as netfilter names them.
	// They may go with the last lane once nothing else is in them.
	Tables []string `json:"tables,omitempty"`
	// Directories are the folders that were not there before us. They may go with
	// the last lane, by rmdir(2), which takes empty ones alone.
	Directories []string `json:"directories,omitempty"`
}

// LaneRun is what is known of a lane until the next boot.
type LaneRun struct {
	Want   Want           `json:"want,omitempty"`
	Uplink *policy.Uplink `json:"uplink,omitempty"` // the last one; nil: none yet
	// Profile: it was up by its NetworkManager profile when that was last seen.
	Profile bool `json:"profile,omitempty"`
}

// Want is what a user said about a lane, over its file's "enabled".
type Want string

// The values of Want; empty: nothing was said.
const (
	WantUp   Want = "up"
	WantDown Want = "down"
)

func (r Run) check() error {
	for name, l := range r.Lanes {
		if err := policy.CheckLaneName(name); err != nil {
			return err
		}
		if err := l.check(); err != nil {
			return fmt.Errorf("lane %q: %w", name, err)
		}
	}
	for key, value := range r.Sysctl {
		if err := checkSysctl(key, value); err != nil {
			return err
		}
	}
	for _, t := range r.Tables {
		if !nftTable().MatchString(t) {
			return fmt.Errorf("invalid nftables table %q", t)
		}
	}
	for _, d := range r.Directories {
		if err := checkDirectory(d); err != nil {
			return err
		}
	}
	return nil
}

func (l LaneRun) check() error {
	if l.Want != "" && l.Want != WantUp && l.Want != WantDown {
		return fmt.Errorf("invalid want %q", l.Want)
	}
	if l.Uplink != nil {
		if err := checkInterface(l.Uplink.Interface); err != nil {
			return fmt.Errorf("uplink: %w", err)
		}
	}
	return nil
}

// Interface names have dots, so keys are in the kernel's notation with slashes.
var sysctlKey = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^net/ipv[46]/conf/[^/]+/(?:forwarding|arp_ignore|arp_announce|disable_ipv6)$`)
})

// maxSysctl is above the largest meaning that any of these switches has, 8 of
// arp_ignore in ip-sysctl.rst, and below what could be mistaken for one.
const maxSysctl = 255

func checkSysctl(key string, value int) error {
	s := policy.Sysctl{Key: key}
	if !s.IsSTP() && !sysctlKey().MatchString(key) {
		return fmt.Errorf("invalid sysctl %q: it is none of ours", key)
	}
	if err := checkInterface(s.Link()); err != nil {
		return fmt.Errorf("invalid sysctl %q: %w", key, err)
	}
	if value < 0 || value > maxSysctl {
		return fmt.Errorf("invalid sysctl %s=%d: use 0 to %d", key, value, maxSysctl)
	}
	return nil
}

var nftTable = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(?:filter|nat|mangle)(?: [A-Z]{1,31})?$`) })

// checkDirectory takes folders under those whose content comes and goes; the
// parents themselves stay.
func checkDirectory(dir string) error {
	if filepath.Clean(dir) == dir {
		for _, parent := range []string{"/etc/", "/run/"} {
			if strings.HasPrefix(dir, parent) {
				return nil
			}
		}
	}
	return fmt.Errorf("invalid directory %q: use one below /etc or /run", dir)
}
