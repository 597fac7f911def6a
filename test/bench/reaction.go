package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"uplane/test/lab"
)

const (
	laneTable     = 100 // the daemon's first
	changesEach   = 40  // of the gateway, for every contender
	floorFactor   = 2.0
	scriptFactor  = 15.0
	reactionLimit = 500 * time.Millisecond // who has not followed by then does not
	changeLimit   = 10 * time.Second       // for NetworkManager to make a change, on a loaded machine
	settleTime    = 120 * time.Millisecond // for what a contender has to catch up with, and for NetworkManager
)

// contender follows the uplink's default into a table of its own.
type contender struct {
	name       string
	table      uint32
	begin, end func() error // of its turn; outside of it, it must not run
	took       samples
	missed     int // changes that did not get into the table
}

func reaction(b *bench) (section, error) {
	s := section{
		How: fmt.Sprintf(`From the moment when the kernel's main table gets the uplink's new default to the moment when the contender's own
table has it. Both are stamped by one rtnetlink socket on a real-time thread. The contenders take turns, change by
change, and the others are stopped meanwhile (SIGSTOP; the script is taken out of dispatcher.d, where ifupdown's is not either).

- **Uplane**: uplaned with one lane, table %d.
- **floor**: a program that does nothing but hear of the route and copy it by one RouteReplace on an open socket.
- **dispatcher script**: an NM dispatcher script that asks the kernel for the new gateway and replaces one route
  (in a reapply event the gateway in its environment is still the old one). *Warm*: nm-dispatcher is running, which
  it is for ten seconds after an event; *cold*: the bus has to start it.

A *profile change* is Device.Reapply, what "nmcli device modify" does. A *renewal* is a true one: NetworkManager asks
to keep its lease (T1 = 3 s) and dnsmasq answers with another router. Two worlds whose renewals are half a period
apart run at once for these, one for each contender.`, laneTable),
		Table: table{{"contender", "change", "n", "median", "p95", "to the floor", "not followed"}},
	}
	all, err := b.profileChanges()
	if err != nil {
		return s, fmt.Errorf("profile changes: %w", err)
	}
	uplane, floor, warm := all[0], all[1], all[2]
	for _, c := range all {
		s.contender(c, "profile", floor)
	}
	renewed, bare, err := b.routerRenewals()
	if err != nil {
		return s, fmt.Errorf("renewals: %w", err)
	}
	s.contender(renewed, "renewal", bare)
	s.contender(bare, "renewal", bare)
	s.Table.row(warm.name, "renewal", "", "never", "never", "", "all")
	s.note("NetworkManager 1.42 runs no dispatcher script at all when a renewal brings another router.")

	toFloor := ratio(uplane.took.median(), floor.took.median())
	s.figure(toFloor <= floorFactor, "new gateway to table 100, profile change, next to the floor program", "≤ 2×", "%s (%s to %s)", times(toFloor), ms(uplane.took.median()), ms(floor.took.median()))
	toFloor = ratio(renewed.took.median(), bare.took.median())
	s.figure(toFloor <= floorFactor, "new gateway to table 100, renewal, next to the floor program", "≤ 2×", "%s (%s to %s)", times(toFloor), ms(renewed.took.median()), ms(bare.took.median()))
	faster := ratio(warm.took.median(), uplane.took.median())
	s.aim(faster >= scriptFactor, "at least 15× faster than the warm script", "%.0f× (%s to %s)", faster, ms(uplane.took.median()), ms(warm.took.median()))
	s.aim(uplane.missed+renewed.missed == 0, "no change is missed", "%d of %d missed", uplane.missed+renewed.missed, 2*changesEach)
	return s, nil
}

func (s *section) contender(c *contender, change string, floor *contender) {
	s.Table.row(c.name, change, fmt.Sprint(len(c.took)), ms(c.took.median()), ms(c.took.p95()),
		times(ratio(c.took.median(), floor.took.median())), fmt.Sprint(c.missed))
}

// profileChanges has Uplane, the floor, the warm and the cold script follow, in this order.
func (b *bench) profileChanges() ([]*contender, error) {
	s, err := b.newUplaneSite(0)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := s.lane("steam"); err != nil {
		return nil, err
	}
	uplane, err := s.uplaneContender()
	if err != nil {
		return nil, err
	}
	floor, err := s.floor()
	if err != nil {
		return nil, err
	}
	d := dispatcher{s}
	all := []*contender{
		uplane, floor,
		{name: "script, warm", table: scriptTable, begin: func() error { return errors.Join(d.install(), d.warm()) }, end: d.remove},
		{name: "script, cold", table: scriptTable, begin: func() error { return errors.Join(d.install(), d.cold()) }, end: d.remove},
	}
	o, err := observe(s.world)
	if err != nil {
		return nil, err
	}
	defer o.close()
	profile, err := s.nmProfile()
	if err != nil {
		return nil, err
	}
	gateways := s.gateways()
	if err := profile.setGateway(gateways[0]); err != nil {
		return nil, err
	}
	turn := 0
	for round := range changesEach {
		if round%10 == 0 {
			b.progress("  profile changes: %d of %d for each", round, changesEach)
		}
		for i := range all {
			// Each begins now and then, so that nobody always comes after the same other.
			c := all[(i+round)%len(all)]
			turn++
			gateway := gateways[turn%2]
			err := c.turn(func() error {
				o.reset()
				if err := profile.setGateway(gateway); err != nil {
					return err
				}
				return c.measure(o, gateway, changeLimit)
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return all, nil
}

// turn lets c alone run while change is made.
func (c *contender) turn(change func() error) error {
	if err := c.begin(); err != nil {
		return err
	}
	time.Sleep(settleTime)
	if err := change(); err != nil {
		return err
	}
	time.Sleep(settleTime / 2)
	return c.end()
}

// measure takes the time between two events that have come or will.
func (c *contender) measure(o *observer, gateway netip.Addr, limit time.Duration) error {
	from, ok := o.wait(unix.RT_TABLE_MAIN, gateway, limit)
	if !ok {
		return fmt.Errorf("the main table gets no default by %s within %v", gateway, limit)
	}
	to, ok := o.wait(c.table, gateway, reactionLimit)
	if !ok {
		c.missed++
		return nil
	}
	c.took = append(c.took, to.Sub(from))
	return nil
}

func nothing() error { return nil }

// uplaneContender is the daemon, stopped.
func (s *site) uplaneContender() (*contender, error) {
	pid := s.uplane.PID()
	return &contender{
		name: "Uplane", table: laneTable,
		begin: func() error { return resume(pid) },
		end:   func() error { return pause(pid) },
	}, pause(pid)
}

// floor is the mirror, stopped.
func (s *site) floor() (*contender, error) {
	h, err := s.startHelper(s.world.Host.Node, "mirror", lab.WiFi)
	if err != nil {
		return nil, err
	}
	pid := h.Process.Pid
	return &contender{
		name: "floor", table: mirrorTable,
		begin: func() error { return resume(pid) },
		end:   func() error { return pause(pid) },
	}, pause(pid)
}

// routerRenewals has Uplane and the floor follow true renewals.
func (b *bench) routerRenewals() (uplane, floor *contender, err error) {
	with, err := b.newUplaneSite(lab.QuickRenewal)
	if err != nil {
		return nil, nil, err
	}
	defer with.close()
	if err := with.lane("steam"); err != nil {
		return nil, nil, err
	}
	without, err := b.newSite(lab.QuickRenewal)
	if err != nil {
		return nil, nil, err
	}
	defer without.close()
	if uplane, err = with.uplaneContender(); err != nil {
		return nil, nil, err
	}
	uplane.end = nothing
	if err := uplane.begin(); err != nil {
		return nil, nil, err
	}
	if floor, err = without.floor(); err != nil {
		return nil, nil, err
	}
	floor.end = nothing
	if err := floor.begin(); err != nil {
		return nil, nil, err
	}

	// The second world's clock starts half a period after the first's.
	if err := with.world.Wifi.WaitRenewal(b.ctx); err != nil {
		return nil, nil, err
	}
	time.Sleep(lab.QuickRenewal / 2)
	if _, err := without.sh("nmcli connection up " + lab.WiFiProfile.Name); err != nil {
		return nil, nil, err
	}
	done := make(chan error, 1)
	go func() { done <- without.followRenewals(floor) }()
	err = with.followRenewals(uplane)
	return uplane, floor, errors.Join(err, <-done)
}

// followRenewals has the DHCP server offer another router with each renewal.
func (s *site) followRenewals(c *contender) error {
	o, err := observe(s.world)
	if err != nil {
		return err
	}
	defer o.close()
	for round := range changesEach {
		if round%10 == 0 {
			s.progress("  renewals, %s: %d of %d", c.name, round, changesEach)
		}
		dhcp := s.world.Wifi.DHCP()
		gateways := s.gateways()
		dhcp.Router = gateways[(round+1)%2]
		o.reset()
		if err := s.world.Wifi.SetDHCP(s.ctx, dhcp); err != nil {
			return err
		}
		if err := c.measure(o, dhcp.Router, 3*lab.QuickRenewal); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		time.Sleep(settleTime)
	}
	return nil
}
