// Command demo shows the main job live, in a world of its own: a real
// NetworkManager, two uplinks with real DHCP servers, and an internet that says
// by which of them a packet came. Nothing of the machine is touched.
//
// Usage: demo BINDIR
package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"uplane/test/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo BINDIR (or: make demo)")
		os.Exit(2)
	}
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// show is the stage: a world, what of our software is in it, and who watches.
type show struct {
	ctx   context.Context
	world *lab.World
	start time.Time
	act   int
}

func run(ctx context.Context, bin string) (err error) {
	s := &show{ctx: ctx, start: time.Now()}
	if os.Geteuid() != 0 {
		return errors.New("needs root for network namespaces: sudo make demo")
	}

	s.title("a host with two uplinks: a NetworkManager, DHCP servers, an internet")
	if s.world, err = lab.New(ctx, lab.Plain, lab.Options{RenewEvery: lab.QuickRenewal}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.world.Close()) }()
	if err := s.world.Connect(ctx); err != nil {
		return err
	}
	s.say("enp7s0 is the wire, the internet sees it as %s", s.world.Wire.Public)
	s.say("wlp6s0 is the Wi-Fi,  the internet sees it as %s", s.world.Wifi.Public)
	if err := s.shell("nmcli -f DEVICE,STATE,CONNECTION device | grep -v lo"); err != nil {
		return err
	}

	s.title("uplaned starts, and a lane that leaves by Wi-Fi is one command")
	uplane, err := s.world.Install(bin)
	if err != nil {
		return err
	}
	if err := uplane.Start(ctx); err != nil {
		return err
	}
	wire, err := s.watchWire()
	if err != nil {
		return err
	}
	if err := s.shell("uplane up steam --uplink wlp6s0", "uplane status steam", "ip rule | grep -w 10.0", "ip route show table 100"); err != nil {
		return err
	}

	s.title("the host leaves by wire, the lane by Wi-Fi")
	if err := s.leaves("", s.world.Wire.Public); err != nil {
		return err
	}
	if err := s.leaves("uplane run steam -- ", s.world.Wifi.Public); err != nil {
		return err
	}

	s.title("DHCP hands out another gateway with the next renewal; table 100 follows")
	dhcp := s.world.Wifi.DHCP()
	dhcp.Router = s.world.Wifi2.LAN.Addr()
	if err := s.world.Wifi.SetDHCP(ctx, dhcp); err != nil {
		return err
	}
	s.say("waiting for the renewal (every %s here)", lab.QuickRenewal)
	if _, err := uplane.Wait(ctx, "steam", func(l lab.LaneStatus) bool { return l.IPv4.Gateway == dhcp.Router.String() }); err != nil {
		return err
	}
	if err := s.shell("ip route show table 100"); err != nil {
		return err
	}
	if err := s.leaves("uplane run steam -- ", s.world.Wifi2.Public); err != nil {
		return err
	}

	s.title("Wi-Fi is pulled: the lane fails closed, at once; the host goes on")
	if err := s.world.Wifi.Carrier(false); err != nil {
		return err
	}
	if _, err := uplane.Wait(ctx, "steam", func(l lab.LaneStatus) bool { return l.State == "waiting" }); err != nil {
		return err
	}
	if err := s.shell("uplane list", "ip route show table 100"); err != nil {
		return err
	}
	if out, err := s.try("uplane run steam -- ping -c1 -W5 " + lab.WhoamiAddr.String()); err == nil {
		return fmt.Errorf("the lane still leaves:\n%s", out)
	}
	if err := s.leaves("", s.world.Wire.Public); err != nil {
		return err
	}

	s.title("Wi-Fi comes back, and so does the lane")
	if err := s.world.Wifi.Carrier(true); err != nil {
		return err
	}
	if _, err := uplane.Wait(ctx, "steam", func(l lab.LaneStatus) bool { return l.State == "up" }); err != nil {
		return err
	}
	if err := s.leaves("uplane run steam -- ", s.world.Wifi2.Public); err != nil {
		return err
	}

	s.title("the lane is removed, without a trace")
	if err := s.shell("uplane remove steam", "ip rule", "ip route show table 100", "iptables-save | grep -c UPLANE || :"); err != nil {
		return err
	}
	leaked, err := wire.Stop()
	if err != nil {
		return err
	}
	if len(leaked) > 0 {
		return fmt.Errorf("%d packets of the lane left by the wire: %v", len(leaked), leaked)
	}
	s.say("packets of the lane that left by the wire all that time: 0")
	fmt.Printf("\ndone in %.0f s; nothing of it is left on this machine\n", time.Since(s.start).Seconds())
	return nil
}

// watchWire captures what leaves the host's wired card and belongs to a lane.
func (s *show) watchWire() (*lab.Capture, error) {
	lanes := netip.MustParsePrefix("10.0.0.0/16")
	return s.world.Host.Capture(lab.Wired, func(p lab.Packet) bool { return p.Touches(lanes) })
}

func (s *show) title(text string) {
	s.act++
	fmt.Printf("\n%d. %s\n", s.act, text)
}

func (s *show) say(format string, args ...any) {
	fmt.Printf("   "+format+"\n", args...)
}

// shell runs lines on the host as a person would, with what they print.
func (s *show) shell(lines ...string) error {
	for _, l := range lines {
		if out, err := s.try(l); err != nil {
			return fmt.Errorf("%s: %w: %s", l, err, out)
		}
	}
	return nil
}

func (s *show) try(line string) (string, error) {
	fmt.Printf("   $ %s\n", line)
	out, err := s.world.Host.RunContext(s.ctx, "sh", "-c", line)
	for _, l := range strings.Split(strings.TrimSpace(out), "\n") {
		if l != "" {
			fmt.Printf("     %s\n", l)
		}
	}
	return out, err
}

// leaves asks the internet, with prefix before the command, who it sees.
func (s *show) leaves(prefix string, want netip.Addr) error {
	out, err := s.try(fmt.Sprintf("%snc -N -w5 %s %d </dev/null", prefix, lab.WhoamiAddr, lab.WhoamiPort))
	if err != nil {
		return err
	}
	got, err := netip.ParseAddrPort(strings.TrimSpace(out))
	if err == nil && got.Addr() != want {
		err = fmt.Errorf("it leaves as %s, not as %s", got.Addr(), want)
	}
	return err
}
