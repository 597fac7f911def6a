package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

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
	case policy.Sockets:
		return destroySockets(o.Netns)
	}
	return fmt.Errorf("no way to apply a %T", op.Object)
}

// RemoveLinks deletes bridges and veths of ours together, which takes the
// kernel as long as one of them.
func (k *Kernel) RemoveLinks(names []string) error {
	inner := k.innerEnds()
	k.stale.mark(func(p *parts) {
		for _, name := range names {
			if end, ok := inner[k.indexes[name]]; ok {
				p.netns.name(end.netns)
			}
		}
	})
	k.touch(names...)
	if err := k.deleteLinks(names); err != nil {
		return fmt.Errorf("delete links %v: %w", names, err)
	}
	return nil
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
