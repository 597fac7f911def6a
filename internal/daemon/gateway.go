package daemon

import (
	"net/netip"

	"uplane/policy"
)

// followGateway gives lanes their uplink's new default before everything is looked at:
// it is what their programs wait for, and takes one list and one route instead
// of a whole look (0.1 ms instead of 0.25 on a processor that was asleep). It
// decides nothing of its own: the look that follows finds the same or corrects it.
func (l *Loop) followGateway() {
	if len(l.exits) == 0 {
		return
	}
	var fresh []policy.Uplink
	var links []string
	for _, u := range l.NM().Uplinks {
		if u.Phase != policy.PhaseDown && l.Kernel.Fresh(u.Interface) && len(l.exits[u.Interface]) > 0 {
			fresh, links = append(fresh, u), append(links, u.Interface)
		}
	}
	if len(fresh) == 0 {
		return
	}
	routes, ok := l.Kernel.Glance(links)
	if !ok {
		return
	}
	for i := range fresh {
		if via, ok := fresh[i].KernelGateway(routes); ok && via.IsValid() {
			l.replaceGateway(fresh[i].Interface, via)
		}
	}
}

// decideAside decides in another goroutine, and meanwhile follows gateways: with a thousand lanes a decision takes
// some 20 ms. A panic is the caller's.
func (l *Loop) decideAside(in policy.Input) (d policy.Decision) {
	l.followGateway()
	done := make(chan any, 1)
	go func() {
		defer func() { done <- recover() }()
		d = policy.Decide(in)
	}()
	for changed := false; ; {
		select {
		case <-l.Trigger:
			changed = true
			l.followGateway()
		case failed := <-done:
			if changed {
				l.Poke() // it was not about this decision
			}
			if failed != nil {
				panic(failed)
			}
			return d
		}
	}
}

// exit is a lane's default route.
type exit struct {
	policy.Route
	lane string
}

// exitsOf finds the lanes' default routes with a gateway, by the link that they leave by. So what a new gateway costs
// depends on the lanes behind it, and not on all that there is.
func exitsOf(parts policy.Parts) map[string][]exit {
	out := map[string][]exit{}
	for r, lane := range parts.Routes() {
		if r.Netns == "" && r.Dst.Bits() == 0 && r.Via.IsValid() && !r.OnLink {
			out[r.Dev] = append(out[r.Dev], exit{r, lane})
		}
	}
	return out
}

// replaceGateway replaces the gateway of the lanes that leave by uplink.
func (l *Loop) replaceGateway(uplink string, via netip.Addr) {
	exits := l.exits[uplink]
	for i := range exits {
		e := &exits[i]
		if e.Via == via || e.Dst.Addr().Is4() != via.Is4() {
			continue
		}
		want := e.Route
		want.Via = via
		op := policy.Op{Verb: policy.Replace, Object: want, Have: e.Route, Lane: e.lane}
		if err := l.Kernel.Apply(op); err != nil {
			l.Log.Debug("apply at once", "op", op.String(), "error", err) // the new gateway may need more than a route
			continue
		}
		e.Route = want
		l.Log.Debug("applied", "verb", op.Verb.String(), "op", op.String(), "lane", e.lane)
	}
}
