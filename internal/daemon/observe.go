package daemon

import (
	"maps"
	"slices"
	"time"

	"uplane/internal/config"
	"uplane/policy"
)

// survey tells which lanes there are.
func (l *Loop) survey() policy.Sources {
	return policy.Survey(l.files, l.snapshot(), l.memory)
}

// filesOf is what the configuration says, in policy's words.
func filesOf(c config.Config) policy.Files {
	f := policy.Files{Lanes: make([]policy.FileLane, len(c.Lanes)), Broken: make(map[string]string, len(c.Broken)), Partial: c.Partial}
	for i, lane := range c.Lanes {
		f.Lanes[i] = policy.FileLane{Lane: lane.Lane, Path: lane.File}
	}
	for name, err := range c.Broken {
		f.Broken[name] = err.Error()
	}
	return f
}

// snapshot is what NetworkManager says, with the lanes that profiles ask for.
func (l *Loop) snapshot() policy.Snapshot {
	from := l.NM()
	s := policy.Snapshot{Uplinks: from.Uplinks, Known: from.Known, Running: from.Running}
	for _, p := range from.Profiles {
		made, err := l.config.FromProfile(p.Lane, p.Keys)
		pl := policy.ProfileLane{Profile: p, Made: made}
		if err != nil {
			pl.Err = err.Error()
		}
		s.Profiles = append(s.Profiles, pl)
	}
	return s
}

// decide observes everything and decides; it changes nothing. Lanes that are to be planned
// beside those that are wanted are in extra.
func (l *Loop) decide(extra ...string) (policy.Decision, error) {
	in := policy.Input{Now: time.Now(), Files: l.files, NM: l.snapshot(), Memory: l.memory, Extra: extra}
	for {
		if err := l.observe(&in); err != nil {
			return policy.Decision{}, err
		}
		d := l.decideAside(in)
		if l.bridgesMoved(&d.Sources) {
			l.Kernel.Invalidate()
			continue
		}
		if len(d.Unknown) == 0 {
			l.problems = in.Problems
			return d, nil
		}
		// Switches that nobody has asked for before: the decision wants to know what they are.
		for _, key := range d.Unknown {
			l.asked[key] = true
		}
	}
}

// bridgesMoved tells whether a lane's bridge has become NetworkManager's, or is that no more: its signals are no later
// than the kernel's, so what was read before does not count.
func (l *Loop) bridgesMoved(s *policy.Sources) bool {
	external := map[string]bool{}
	for name := range s.Known {
		if s.Known[name].External {
			external[name] = true
		}
	}
	moved := l.external != nil && !maps.Equal(external, l.external)
	l.external = external
	return moved
}

// observe fills in what the edges see. Only the kernel's absence is an error: another
// edge that sees nothing is a problem of its own and keeps nobody from following.
func (l *Loop) observe(in *policy.Input) error {
	have, host, err := l.Kernel.Observe(slices.Collect(maps.Keys(l.asked)))
	if err != nil {
		return err
	}
	in.Have = policy.Setup{Parts: have}
	in.Host, in.Asked, in.Problems = host, maps.Clone(l.asked), map[policy.Edge]string{}
	in.Fresh = map[string]bool{}
	for _, u := range in.NM.Uplinks {
		if l.Kernel.Fresh(u.Interface) || l.awaited(u.Interface) {
			in.Fresh[u.Interface] = true
		}
	}
	for _, u := range l.memory.Lanes {
		if u.Uplink != nil && l.Kernel.Fresh(u.Uplink.Interface) {
			in.Fresh[u.Uplink.Interface] = true
		}
	}
	if len(l.memory.Draining) > 0 {
		if host.Tracked, err = l.Kernel.Tracked(slices.Collect(maps.Keys(l.memory.Draining))); err != nil {
			in.Problems[policy.EdgeConntrack] = err.Error()
		}
	}
	l.observeFirewall(in)
	return nil
}

func (l *Loop) observeFirewall(in *policy.Input) {
	if l.firewall == nil {
		if err := l.openFirewall(); err != nil {
			in.Problems[policy.EdgeFirewall] = err.Error()
			return
		}
	}
	in.Firewall = policy.IPTablesChains
	if l.firewall.Name() == string(policy.Nftables) {
		in.Firewall = policy.Nftables
	}
	fw, err := l.firewall.Observe()
	if err != nil {
		in.Problems[policy.EdgeFirewall] = err.Error()
	}
	in.Have.Filter = fw
	drops, doors, err := l.firewall.Doors()
	if err != nil {
		in.Problems[policy.EdgeDoors] = err.Error()
	}
	in.Host.Drops = drops
	in.Have.Parts = in.Have.Parts.With("", doors)
}
