package daemon

import (
	"net/netip"

	"uplane/policy"
)

// hurry gives lanes their uplink's new default before everything is looked at:
// it is what their programs wait for, and takes one list and one route instead
// of a whole look (0.1 ms instead of 0.25 on a processor that was asleep). It
// decides nothing of its own: the look that follows finds the same or corrects it.
func (l *Loop) hurry() {
	if len(l.converged) == 0 {
		return
	}
	routes, ok := l.Kernel.Glance()
	if !ok {
		return
	}
	all := l.Uplinks().All
	for i := range all {
		u := &all[i]
		if u.Phase == policy.PhaseDown || !l.Kernel.Fresh(u.Interface) {
			continue
		}
		if via, ok := u.KernelGateway(routes); ok && via.IsValid() {
			l.follow(u.Interface, via)
		}
	}
}

// follow replaces the gateway of the lanes that leave by uplink.
func (l *Loop) follow(uplink string, via netip.Addr) {
	for o := range l.converged {
		have, ok := o.(policy.Route)
		if !ok || have.Netns != "" || have.Dev != uplink || have.Dst.Bits() != 0 || !have.Via.IsValid() || have.Via == via || have.OnLink {
			continue
		}
		want := have
		want.Via = via
		op := policy.Op{Verb: policy.Replace, Object: want, Have: have}
		if err := l.Kernel.Apply(op); err != nil {
			l.Log.Debug("apply at once", "op", op.String(), "error", err) // the new gateway may need more than a route
			continue
		}
		delete(l.converged, have)
		l.converged.Add(want)
		l.Log.Info("applied", "verb", op.Verb.String(), "op", op.String())
	}
}
