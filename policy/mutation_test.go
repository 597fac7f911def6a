package policy_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"uplane/policy"
)

// Each guard is needed: without it the judge finds a leak.
func TestGuardsAreNeeded(t *testing.T) {
	for _, c := range []struct {
		name   string
		chains func([]policy.TableChain) []policy.TableChain // nil: as they are
		object func(policy.Object) policy.Object             // nil: as they are; returns nil: without it
		walks  policy.Walks
	}{
		{"the guard behind translation", without("guard", policy.ActDrop), nil, policy.RandomWalks},
		{"translation needs an address of the card", anySource, nil, policy.RandomWalks},
		{"what is not tracked is not translated, nor let out with any source", func(all []policy.TableChain) []policy.TableChain {
			return without(policy.OutboundChain, policy.ActDrop)(anySource(all))
		}, nil, policy.RandomWalks},
		{"lanes leave by what the map says only", without("forward", policy.ActDrop), nil, policy.RandomWalks},
		{"only answers come in", without(policy.InboundChain, policy.ActDrop), nil, policy.RandomWalks},
		{"lanes do not reach the host", without(policy.HostChain, policy.ActDrop), nil, policy.RandomWalks},
		{"the host does not speak for lanes", without("output", policy.ActDrop), nil, policy.RandomWalks},
		{"cards that we opened are closed to strangers", nil, func(o policy.Object) policy.Object {
			if e, ok := o.(policy.Element); ok && e.Set == policy.Closed {
				return nil
			}
			return o
		}, policy.RandomWalks},
		{"the witness", nil, func(o policy.Object) policy.Object {
			if r, ok := o.(policy.Rule); ok && r.Mask == policy.Witness {
				r.Mark, r.Mask = 0, 0
				return r
			}
			return o
		}, policy.Flushed},
		{"the reverse-path filter", nil, func(o policy.Object) policy.Object {
			if s, ok := o.(policy.Sysctl); ok && strings.HasSuffix(s.Key, "/rp_filter") {
				return nil
			}
			return o
		}, policy.Flushed},
		{"answers by their own card", nil, func(o policy.Object) policy.Object {
			if r, ok := o.(policy.Rule); ok && r.Action == policy.Goto && r.From.Bits() == 32 {
				return nil
			}
			return o
		}, policy.RandomWalks},
		{"floors of what drains", nil, func(o policy.Object) policy.Object {
			switch o := o.(type) {
			case policy.Route:
				if o.Table == policy.LanesTable && o.Type == policy.Blackhole {
					return nil
				}
			case policy.Element:
				if o.Set == policy.Nets {
					return nil
				}
			case policy.ChainRule:
				if o.Dest.IsValid() && o.Target == policy.TargetDrop {
					return nil
				}
			}
			return o
		}, policy.RandomWalks},
	} {
		t.Run(c.name, func(t *testing.T) {
			var seen tally
			c.walks(t, func(m policy.Moment) error {
				if err := seen.judge(m); err != nil {
					t.Errorf("with it: %v", err)
				}
				return nil
			}, func() bool { return seen.dropped > 1000 })
			if c.chains != nil {
				whole := policy.Chains
				defer func() { policy.Chains = whole }()
				policy.Chains = c.chains(whole)
			}
			found := false
			for range 5 { // some moments are rare
				c.walks(t, func(m policy.Moment) error {
					found = found || seen.judge(changed(m, c.object)) != nil
					return nil
				}, func() bool { return found })
			}
			if !found {
				t.Error("nobody misses it")
			}
		})
	}
}

// without returns the chains less one kind of action in one of them.
func without(chain string, kind policy.ActionKind) func([]policy.TableChain) []policy.TableChain {
	return func(all []policy.TableChain) []policy.TableChain {
		all = slices.Clone(all)
		for i := range all {
			if all[i].Name == chain {
				all[i].Rules = slices.DeleteFunc(slices.Clone(all[i].Rules), func(r policy.FilterRule) bool { return r.Action.Kind == kind })
			}
		}
		return all
	}
}

// anySource returns the chains less what looks at cards' own addresses.
func anySource(all []policy.TableChain) []policy.TableChain {
	all = slices.Clone(all)
	for i := range all {
		all[i].Rules = slices.DeleteFunc(slices.Clone(all[i].Rules), func(r policy.FilterRule) bool {
			return slices.ContainsFunc(r.Matches, func(m policy.Match) bool { return m.Set == policy.OwnAddresses })
		})
	}
	return all
}

// changed is a moment with other objects in its state.
func changed(m policy.Moment, object func(policy.Object) policy.Object) policy.Moment {
	if object == nil {
		return m
	}
	state := policy.State{}
	host := *m.Host
	host.Sysctls = maps.Clone(host.Sysctls)
	for key, value := range host.Sysctls {
		if object(policy.Sysctl{Key: key, Value: value}) == nil {
			delete(host.Sysctls, key)
		}
	}
	host.Rules = slices.Clone(host.Rules)
	for o, lane := range m.State {
		n := object(o)
		if n != nil {
			state.Add(lane, n)
		}
		if r, ok := n.(policy.Rule); ok && n != o {
			for i := range host.Rules {
				if host.Rules[i].Rule == o {
					host.Rules[i].Rule = r
				}
			}
		}
	}
	m.State, m.Host = state, &host
	return m
}
