package kernel

import (
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
)

type rule struct {
	policy.HostRule
	protocol uint8
}

func (k *Kernel) readRules() error {
	list, err := dump("rules", func() ([]netlink.Rule, error) { return k.host.RuleList(unix.AF_INET) })
	if err != nil {
		return err
	}
	k.rules = k.rules[:0]
	for _, r := range list {
		k.rules = append(k.rules, rule{
			policy.HostRule{Priority: uint32(r.Priority), From: prefix(r.Src), To: prefix(r.Dst), Mark: r.Mark, Table: uint32(r.Table)},
			r.Protocol,
		})
	}
	return nil
}

func (k *Kernel) observeRules(state policy.State, host *policy.Host) {
	for _, r := range k.rules {
		if r.protocol == policy.Protocol {
			state.Add(policy.Rule(r.HostRule))
		} else {
			host.Rules = append(host.Rules, r.HostRule)
		}
	}
}

func (k *Kernel) applyRule(op policy.Op, r policy.Rule) error {
	k.stale.mark(func(p *parts) { p.rules = true })
	nr := netlink.NewRule()
	nr.Family, nr.Protocol = unix.AF_INET, policy.Protocol
	nr.Priority, nr.Table = int(r.Priority), int(r.Table)
	nr.Src, nr.Dst = ipNet(r.From), ipNet(r.To)
	if r.Mark != 0 {
		full := uint32(0xffffffff)
		nr.Mark, nr.Mask = r.Mark, &full
	}
	if op.Verb == policy.Remove {
		return ignore(k.host.RuleDel(nr), unix.ENOENT)
	}
	return k.host.RuleAdd(nr)
}
