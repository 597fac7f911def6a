package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// Apply carries out one operation. The error names it as a person would type it.
func (k *Kernel) Apply(op policy.Op) error {
	if err := k.apply(op); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

func (k *Kernel) apply(op policy.Op) error {
	switch o := op.Object.(type) {
	case policy.Netns:
		return k.applyNetns(op, o)
	case policy.Bridge:
		return k.applyBridge(op, o)
	case policy.Veth:
		return k.applyVeth(op, o)
	case policy.Addr:
		return k.applyAddr(op, o)
	case policy.Route:
		return k.applyRoute(op, o)
	case policy.Rule:
		return k.applyRule(op, o)
	case policy.Sysctl:
		return k.applySysctl(o)
	case policy.File:
		return k.applyFile(op, o)
	case policy.Conntrack:
		return k.flushConntrack(o.Subnet)
	}
	return fmt.Errorf("no way to apply a %T", op.Object)
}

// RemoveLinks deletes bridges and veths of ours together, which takes the
// kernel as long as one of them.
func (k *Kernel) RemoveLinks(names []string) error {
	k.stale.mark(func(p *parts) { p.links, p.addrs, p.allRoutes, p.allNetns = true, true, true, true })
	if err := k.deleteLinks(names); err != nil {
		return fmt.Errorf("delete links %v: %w", names, err)
	}
	return nil
}

// flushConntrack forgets the connections of a lane's subnet that are not
// translated. The others go on: an answer to one that is forgotten would find
// nobody on the host, who would say so to the internet by its own default.
func (k *Kernel) flushConntrack(subnet netip.Prefix) error {
	filter := &netlink.ConntrackFilter{}
	for _, end := range []netlink.ConntrackFilterType{netlink.ConntrackOrigSrcIP, netlink.ConntrackReplyDstIP} {
		if err := filter.AddIPNet(end, ipNet(subnet)); err != nil {
			return err
		}
	}
	_, err := k.host.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filter)
	return err
}

// MissingDirs returns those of the directories that a lane needs that do not
// exist, parents first, for the caller to note that we make them.
func (k *Kernel) MissingDirs(lane string) []string {
	var out []string
	for _, d := range []string{policy.NetnsDir, policy.EtcNetns, filepath.Dir(policy.ResolvConfPath(lane))} {
		if _, err := os.Stat(d); errors.Is(err, os.ErrNotExist) {
			out = append(out, d)
		}
	}
	return out
}

// RemoveDir removes one of the directories that MissingDirs named, when it is empty.
func (k *Kernel) RemoveDir(dir string) {
	if dir == policy.NetnsDir {
		removeNetnsDir()
	} else {
		os.Remove(dir)
	}
}

// ignore drops err when it only says that the work is done already.
func ignore(err error, done unix.Errno) error {
	return ignoreIf(errors.Is(err, done), err)
}

func ignoreIf(drop bool, err error) error {
	if drop {
		return nil
	}
	return err
}
