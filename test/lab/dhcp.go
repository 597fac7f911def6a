package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// DHCP is what a gateway's server tells the host's card.
type DHCP struct {
	// Address is the card's address and its subnet, which must be the gateway's own or the one
	// ten further in the third byte, such as 192.168.60.0/24 for 192.168.50.0/24.
	Address netip.Prefix
	// Router is the gateway; the zero value sends none. An address in the other subnet that
	// nobody has is given to this gateway.
	Router netip.Addr
	// DNS are the name servers.
	DNS []netip.Addr
	// Routes are sent as classless static routes. Clients then ignore the router option, so the
	// default route is sent among them too.
	Routes []Route
	// MTU is the card's, bytes; zero sends none.
	MTU int
}

// Route is a route that DHCP hands out.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// DHCP is what the server now hands out: change it and give it to SetDHCP.
func (g *Gateway) DHCP() DHCP { return g.dhcp }

// SetDHCP changes what the server hands out. The host hears of it when it renews its lease, see
// [Options.RenewEvery] and [Gateway.WaitRenewal], or when its card comes up again. A renewal brings
// another router, name servers or routes; another address makes the server refuse it, and the
// client then starts afresh.
func (g *Gateway) SetDHCP(ctx context.Context, d DHCP) error {
	if err := g.writeDHCP(d); err != nil {
		return err
	}
	// A SIGHUP, not a restart: a request that came while nobody listens would be repeated only
	// after a minute.
	before := g.logged("read " + g.file("options"))
	if err := g.server.Process.Signal(syscall.SIGHUP); err != nil {
		return fmt.Errorf("%s: %w", g.Name, err)
	}
	return g.waitLog(ctx, "read "+g.file("options"), before)
}

// WaitRenewal waits for the next lease that the server grants or extends.
func (g *Gateway) WaitRenewal(ctx context.Context) error {
	return g.waitLog(ctx, "DHCPACK(", g.logged("DHCPACK("))
}

// Log is what the DHCP server has logged.
func (g *Gateway) Log() string { return g.place.log("dhcp-" + g.Name) }

func (g *Gateway) logged(text string) int { return strings.Count(g.Log(), text) }

// waitLog waits until a text is in the log more often than before.
func (g *Gateway) waitLog(ctx context.Context, text string, before int) error {
	err := poll(ctx, 5*time.Millisecond, func() error {
		if g.logged(text) > before {
			return nil
		}
		return fmt.Errorf("no %q", text)
	})
	if err != nil {
		return fmt.Errorf("DHCP server of %s: %w\n%s", g.Name, err, tail(g.Log(), 20))
	}
	return nil
}

func (g *Gateway) startDHCP(ctx context.Context, d DHCP) error {
	var conf strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&conf, format+"\n", args...) }
	line("port=0")
	line("interface=lan\nbind-interfaces\nexcept-interface=lo")
	line("user=root\npid-file\nkeep-in-foreground\nlog-facility=-\nlog-dhcp")
	// Without the ping it answers at once.
	line("no-ping\ndhcp-authoritative\ndhcp-leasefile=%s", g.file("leases"))
	line("dhcp-hostsfile=%s\ndhcp-optsfile=%s", g.file("hosts"), g.file("options"))
	// In a twin world there are two servers: each serves one card.
	line("dhcp-ignore=tag:!known")
	line("dhcp-range=%s,static,%s,1h", g.LAN.Masked().Addr(), netmask(g.LAN))
	line("dhcp-range=%s,static,%s,1h", g.otherSubnet().Addr(), netmask(g.LAN))
	if t1 := int(g.world.options.RenewEvery.Seconds()); t1 > 0 {
		// T2 comes close behind: NetworkManager does not hear the refusal of a renewal, which
		// is broadcast while its socket is bound to its address, only that of a rebinding.
		line("dhcp-option=option:T1,%d\ndhcp-option=option:T2,%d", t1, t1+1)
	}
	if err := g.write("conf", conf.String()); err != nil {
		return err
	}
	if err := g.writeDHCP(d); err != nil {
		return err
	}
	g.server = g.Command("dnsmasq", "--conf-file="+g.file("conf"))
	if err := g.server.startLogged("dhcp-" + g.Name); err != nil {
		return err
	}
	return g.waitLog(ctx, "read "+g.file("options"), 0)
}

// writeDHCP writes the two files that the server reads again at a SIGHUP.
func (g *Gateway) writeDHCP(d DHCP) error {
	subnet := d.Address.Masked()
	if subnet != g.LAN.Masked() && subnet != g.otherSubnet() {
		return fmt.Errorf("DHCP server of %s: %s is in neither %s nor %s", g.Name, d.Address, g.LAN.Masked(), g.otherSubnet())
	}
	if subnet != g.LAN.Masked() {
		if !subnet.Contains(d.Router) {
			return errors.New("DHCP in the other subnet needs a router there")
		}
		if err := g.IP(fmt.Sprintf("address replace %s/%d dev lan", d.Router, subnet.Bits())); err != nil {
			return err
		}
	}
	var options []string
	add := func(name string, values ...string) {
		options = append(options, "option:"+name+","+strings.Join(values, ",")+"\n")
	}
	if d.Router.IsValid() {
		add("router", d.Router.String())
	} else {
		add("router") // an empty one keeps dnsmasq from sending itself
	}
	if d.MTU != 0 {
		add("mtu", fmt.Sprint(d.MTU))
	}
	var servers, routes []string
	for _, addr := range d.DNS {
		servers = append(servers, addr.String())
	}
	add("dns-server", servers...)
	for _, r := range d.Routes {
		routes = append(routes, r.To.String(), r.Via.String())
	}
	if len(routes) > 0 {
		if d.Router.IsValid() {
			routes = append(routes, "0.0.0.0/0", d.Router.String())
		}
		add("classless-static-route", routes...)
	}
	g.dhcp = d
	return errors.Join(
		g.write("hosts", fmt.Sprintf("%s,%s\n", g.mac, d.Address.Addr())),
		g.write("options", strings.Join(options, "")),
	)
}

func (g *Gateway) otherSubnet() netip.Prefix {
	bytes := g.LAN.Masked().Addr().As4()
	bytes[2] += 10
	return netip.PrefixFrom(netip.AddrFrom4(bytes), g.LAN.Bits())
}

func netmask(p netip.Prefix) netip.Addr {
	mask := ^uint32(0) << (32 - p.Bits())
	return netip.AddrFrom4([4]byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)})
}
