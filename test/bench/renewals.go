package main

import (
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"uplane/policy"
	"uplane/test/lab"
)

const (
	refreshes   = 1000
	renewalTime = 50 * time.Second
)

func renewals(b *bench) (section, error) {
	s := section{
		How: fmt.Sprintf(`For %v NetworkManager renews its lease as often as it can (T1 = 3 s), and nothing is new. Meanwhile, %d times, the
kernel gets what such a renewal writes: the same address with fresh lifetimes and the same default route once more
(by netlink; a thousand true renewals would take fifty minutes). A write is an operation that the daemon logs, a
routing-rule, link or switch event, an event of a route of its table or protocol, or an nftables event.`, renewalTime, refreshes),
		Table: table{{"what", "count"}},
	}
	site, err := b.newUplaneSite(lab.QuickRenewal)
	if err != nil {
		return s, err
	}
	defer site.close()
	if err := site.lane("steam"); err != nil {
		return s, err
	}
	time.Sleep(bridgeTime)
	o, err := observe(site.world)
	if err != nil {
		return s, err
	}
	defer o.close()
	nft := site.world.Host.Command("nft", "monitor")
	var nftEvents strings.Builder
	nft.Stdout = &nftEvents
	if err := nft.Start(); err != nil {
		return s, err
	}
	time.Sleep(settleTime)
	o.reset()
	applied := site.uplane.Applied()
	acks := strings.Count(site.world.Wifi.Log(), "DHCPACK(")
	if err := site.refresh(); err != nil {
		return s, err
	}
	acks = strings.Count(site.world.Wifi.Log(), "DHCPACK(") - acks
	time.Sleep(settleTime)
	_ = nft.Process.Signal(syscall.SIGTERM)
	_ = nft.Wait()

	logged := site.uplane.Applied() - applied
	heard, written := 0, 0
	for _, e := range o.seen() {
		switch {
		case e.kind == unix.RTM_NEWADDR || e.kind == unix.RTM_NEWROUTE && e.route.table != laneTable && e.route.protocol != policy.Protocol:
			heard++
		default:
			written++
		}
	}
	inNFT := strings.Count(nftEvents.String(), "\n")
	s.Table.row("true renewals", fmt.Sprint(acks))
	s.Table.row("refreshes like a renewal's", fmt.Sprint(refreshes))
	s.Table.row("address and route events that they made", fmt.Sprint(heard))
	s.Table.row("operations that the daemon logged", fmt.Sprint(logged))
	s.Table.row("rtnetlink events of a write", fmt.Sprint(written))
	s.Table.row("lines of nft monitor", fmt.Sprint(inNFT))
	if heard < refreshes || acks == 0 {
		return s, fmt.Errorf("only %d events came of %d refreshes, and %d renewals", heard, refreshes, acks)
	}
	s.aim(logged+written+inNFT == 0, fmt.Sprintf("%d unchanged renewals: 0 writes", refreshes), "%d writes (%d true renewals, %d refreshes)", logged+written+inNFT, acks, refreshes)
	return s, nil
}

// refresh writes the Wi-Fi's address and default anew, as they are, spread over renewalTime.
func (s *site) refresh() error {
	return s.world.Host.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		link, err := h.LinkByName(lab.WiFi)
		if err != nil {
			return err
		}
		addrs, err := h.AddrList(link, unix.AF_INET)
		if err != nil || len(addrs) != 1 {
			return fmt.Errorf("%s has the addresses %v: %w", lab.WiFi, addrs, err)
		}
		routes, err := h.RouteList(link, unix.AF_INET)
		if err != nil {
			return err
		}
		tick := time.NewTicker(renewalTime / refreshes)
		defer tick.Stop()
		for i := range refreshes {
			<-tick.C
			addr := addrs[0]
			addr.ValidLft, addr.PreferedLft = 3600+i%2, 3600+i%2
			if err := h.AddrReplace(link, &addr); err != nil {
				return err
			}
			for _, r := range routes {
				if r.Gw == nil {
					continue
				}
				if err := h.RouteReplace(&r); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
