package lab

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// connected starts a world with both profiles up.
func connected(t *testing.T, kind Kind, options Options) (context.Context, *World) {
	t.Helper()
	start := time.Now()
	ctx, w := Start(t, kind, options)
	built := time.Since(start)
	if err := w.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("built in %v, connected in %v more", built, time.Since(start)-built)
	return ctx, w
}

// expectWhoami checks by which public address the internet sees the host, by default or by one card.
func expectWhoami(ctx context.Context, t *testing.T, w *World, iface string, want netip.Addr) {
	t.Helper()
	ask := w.Host.Whoami
	if iface != "" {
		ask = func(ctx context.Context) (netip.Addr, error) { return w.Host.WhoamiVia(ctx, iface) }
	}
	got, err := ask(ctx)
	if err != nil || got != want {
		t.Errorf("by %q seen as %v, want %v (%v)", iface, got, want, err)
	}
}

// waitGateway waits until NetworkManager's IP4Config of a card has a gateway.
func waitGateway(ctx context.Context, t *testing.T, w *World, iface string, want netip.Addr) {
	t.Helper()
	err := poll(ctx, 50*time.Millisecond, func() error {
		got, err := w.Host.RunContext(ctx, "nmcli", "--get-values", "IP4.GATEWAY", "device", "show", iface)
		if err != nil {
			return err
		}
		if got != want.String() {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("gateway of %s is not %s: %v", iface, want, err)
	}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	ctx, w := connected(t, Plain, Options{})
	expectWhoami(ctx, t, w, "", WirePublic)
	expectWhoami(ctx, t, w, Wired, WirePublic)
	expectWhoami(ctx, t, w, WiFi, WifiPublic)

	t.Run("ping", func(t *testing.T) {
		if _, err := w.Host.Run("ping", "-c", "1", "-W", "2", "-I", WiFi, WhoamiAddr.String()); err != nil {
			t.Error(err)
		}
	})
	t.Run("TCP", func(t *testing.T) {
		conn, err := w.Host.Dial(ctx, "tcp", netip.AddrPortFrom(WhoamiAddr, WhoamiPort).String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		lines := bufio.NewScanner(conn)
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), WirePublic.String()+":") {
			t.Errorf("got %q", lines.Text())
		}
		fmt.Fprintln(conn, "again")
		if !lines.Scan() || lines.Text() != "again" {
			t.Errorf("the echo is %q", lines.Text())
		}
	})
	t.Run("HTTP", func(t *testing.T) {
		conn, err := w.Host.Dial(ctx, "tcp", netip.AddrPortFrom(WhoamiAddr, 80).String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
		var last string
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			last = lines.Text()
		}
		if last != WirePublic.String() {
			t.Errorf("got %q", last)
		}
	})
	t.Run("DNS", func(t *testing.T) {
		if out, err := w.Host.Run("getent", "ahostsv4", "whoami.test"); err != nil || !strings.HasPrefix(out, WhoamiAddr.String()) {
			t.Errorf("%q, %v", out, err)
		}
		if out, err := w.Host.Run("getent", "ahostsv4", "nobody.test"); err == nil {
			t.Errorf("nobody.test has an address: %s", out)
		}
		queries := w.Inet.Queries()
		if len(queries) == 0 {
			t.Fatal("no query recorded")
		}
		if q := queries[0]; q.Name != "whoami.test" || q.Server != WireDNS || q.From.Addr() != WirePublic {
			t.Errorf("got %+v", q)
		}
	})
	t.Run("D-Bus from outside", func(t *testing.T) {
		bus, err := dbus.Connect(w.Host.DBusAddress())
		if err != nil {
			t.Fatal(err)
		}
		defer bus.Close()
		version, err := bus.Object("org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager").
			GetProperty("org.freedesktop.NetworkManager.Version")
		if err != nil || version.String() == "" {
			t.Errorf("version %v, %v", version, err)
		}
	})
	t.Run("a socket of the host", func(t *testing.T) {
		listener, err := w.Host.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		if conn, err := net.Dial("tcp", listener.Addr().String()); err == nil {
			conn.Close()
			t.Error("the machine reaches it")
		}
		conn, err := w.Host.Dial(ctx, "tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	})
}

func TestCapture(t *testing.T) {
	t.Parallel()
	ctx, w := connected(t, Plain, Options{})
	probe := func(p Packet) bool { return p.Dst == WhoamiAddr || p.Src == WhoamiAddr }
	captures := map[string]*Capture{}
	for name, gateway := range map[string]*Gateway{"wire": w.Wire, "wifi": w.Wifi} {
		c, err := gateway.Port().Capture(gateway.NIC, probe)
		if err != nil {
			t.Fatal(err)
		}
		captures[name] = c
	}
	const questions = 50
	for range questions {
		expectWhoami(ctx, t, w, WiFi, WifiPublic)
	}
	seen, err := captures["wifi"].Stop()
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2*questions {
		t.Errorf("the wifi's gateway saw %d packets, want %d: %v", len(seen), 2*questions, seen)
	}
	for i, p := range seen {
		if ask := p.Dst == WhoamiAddr; p.Outgoing == ask || p.Proto != unix.IPPROTO_UDP || p.IsARP() ||
			(ask && (p.DstPort != WhoamiPort || p.SrcMAC != WiFiMAC)) {
			t.Errorf("packet %d: %v", i, p)
		}
	}
	leaked, err := captures["wire"].Stop()
	if err != nil || len(leaked) > 0 {
		t.Errorf("the wire's gateway saw %v, %v", leaked, err)
	}
	if _, err := w.Wire.Capture("nothing0", nil); err == nil {
		t.Error("capture on an interface that is not there")
	}
}

func TestCarrier(t *testing.T) {
	t.Parallel()
	ctx, w := connected(t, Plain, Options{})
	if err := w.Wifi.Carrier(false); err != nil {
		t.Fatal(err)
	}
	if out, err := w.Host.Run("ip", "link", "show", WiFi); err != nil || !strings.Contains(out, "NO-CARRIER") {
		t.Errorf("%s, %v", out, err)
	}
	// NetworkManager waits some seconds before it believes it.
	start := time.Now()
	if err := w.WaitInactive(ctx, WiFiProfile.Name); err != nil {
		t.Fatal(err)
	}
	t.Logf("inactive after %v", time.Since(start))
	expectWhoami(ctx, t, w, "", WirePublic)
	if err := w.Wifi.Carrier(true); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	if err := w.WaitActive(ctx, WiFiProfile.Name); err != nil {
		t.Fatal(err)
	}
	t.Logf("active again after %v", time.Since(start))
	expectWhoami(ctx, t, w, WiFi, WifiPublic)
}

func TestRenewal(t *testing.T) {
	t.Parallel()
	ctx, w := connected(t, Plain, Options{RenewEvery: QuickRenewal})
	waitGateway(ctx, t, w, WiFi, w.Wifi.LAN.Addr())

	d := w.Wifi.DHCP()
	d.Router = w.Wifi2.LAN.Addr()
	d.DNS = []netip.Addr{WireDNS, WifiDNS}
	d.Routes = []Route{{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParseAddr("192.168.50.9")}}
	if err := w.Wifi.SetDHCP(ctx, d); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := w.Wifi.WaitRenewal(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("renewed after %v", time.Since(start))
	waitGateway(ctx, t, w, WiFi, w.Wifi2.LAN.Addr())
	t.Logf("NetworkManager has the other router after %v", time.Since(start))
	expectWhoami(ctx, t, w, WiFi, Wifi2Public)
	out, err := w.Host.Run("nmcli", "--get-values", "IP4.DNS,IP4.ROUTE", "device", "show", WiFi)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{WireDNS.String() + " | " + WifiDNS.String(), "10.9.0.0/16"} {
		if !strings.Contains(out, part) {
			t.Errorf("no %q in %s", part, out)
		}
	}
	if strings.Contains(w.NMLog(), WiFi+"): link disconnected") {
		t.Error("it was no renewal: the link went down")
	}

	// Another subnet: the server refuses the renewal, the client starts afresh.
	d = DHCP{
		Address: netip.MustParsePrefix("192.168.60.4/24"),
		Router:  netip.MustParseAddr("192.168.60.1"),
		DNS:     []netip.Addr{WifiDNS},
	}
	start = time.Now()
	if err := w.Wifi.SetDHCP(ctx, d); err != nil {
		t.Fatal(err)
	}
	waitGateway(ctx, t, w, WiFi, d.Router)
	t.Logf("in the other subnet after %v", time.Since(start))
	expectWhoami(ctx, t, w, WiFi, WifiPublic)

	d.Address = netip.MustParsePrefix("192.168.70.4/24")
	if err := w.Wifi.SetDHCP(ctx, d); err == nil {
		t.Error("an address in a subnet that the server does not know")
	}
}

func TestRestarts(t *testing.T) {
	t.Parallel()
	ctx, w := connected(t, Plain, Options{})
	start := time.Now()
	if err := w.RestartNM(ctx); err != nil {
		t.Fatal(err)
	}
	for _, p := range []Profile{WiredProfile, WiFiProfile} {
		if err := w.WaitActive(ctx, p.Name); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("NetworkManager restarted in %v", time.Since(start))
	expectWhoami(ctx, t, w, WiFi, WifiPublic)

	w.KillNM()
	expectWhoami(ctx, t, w, WiFi, WifiPublic) // the kernel goes on without it
	if err := w.StartNM(ctx); err != nil {
		t.Fatal(err)
	}

	start = time.Now()
	if err := w.RestartBus(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("bus and NetworkManager restarted in %v", time.Since(start))
	if err := w.WaitActive(ctx, WiFiProfile.Name); err != nil {
		t.Fatal(err)
	}
	bus, err := dbus.Connect(w.Host.DBusAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	expectWhoami(ctx, t, w, WiFi, WifiPublic)
}

func TestDispatcher(t *testing.T) {
	t.Parallel()
	ctx, w := Start(t, Plain, Options{})
	_, err := w.Host.Run("sh", "-c", `
		mkdir -p /etc/NetworkManager/dispatcher.d
		printf '#!/bin/sh\necho "$1 $2" >>/run/events\n' >/etc/NetworkManager/dispatcher.d/50-test
		chmod 755 /etc/NetworkManager/dispatcher.d/50-test`)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Connect(ctx, WiFiProfile); err != nil {
		t.Fatal(err)
	}
	if err := poll(ctx, 10*time.Millisecond, func() error {
		_, err := w.Host.Run("grep", "-x", WiFi+" up", "/run/events")
		return err
	}); err != nil {
		t.Error(err)
	}
}

func TestTwin(t *testing.T) {
	t.Parallel()
	ctx, w := connected(t, Twin, Options{})
	waitGateway(ctx, t, w, Wired, w.Wire.LAN.Addr())
	waitGateway(ctx, t, w, WiFi, w.Wifi.LAN.Addr())
	if w.Wire.LAN.Masked() != w.Wifi.LAN.Masked() {
		t.Errorf("%v and %v are two networks", w.Wire.LAN, w.Wifi.LAN)
	}
	expectWhoami(ctx, t, w, "", WirePublic)

	// The flux that this world is for: the wired card answers for the other's address.
	answers, err := w.Wire.Port().Capture(Wired, func(p Packet) bool {
		return p.IsARP() && !p.ARPRequest && !p.Outgoing
	})
	if err != nil {
		t.Fatal(err)
	}
	address := w.Wifi.DHCP().Address.Addr().String()
	if _, err := w.Wifi.Run("ip", "neigh", "flush", "dev", "lan"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Wifi.Run("ping", "-c", "1", "-W", "2", address); err != nil {
		t.Fatal(err)
	}
	seen, err := answers.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) == 0 || seen[0].Src.String() != address || seen[0].SrcMAC != WiredMAC {
		t.Errorf("the wired card answered %v, want an answer for %s", seen, address)
	}
}

func TestTwoWorldsAtOnce(t *testing.T) {
	t.Parallel()
	ctx, first := connected(t, Plain, Options{})
	_, second := connected(t, Plain, Options{})
	if err := first.Wire.Carrier(false); err != nil {
		t.Fatal(err)
	}
	expectWhoami(ctx, t, second, "", WirePublic)
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	expectWhoami(ctx, t, first, WiFi, WifiPublic)
}

func TestNoNM(t *testing.T) {
	t.Parallel()
	ctx, w := Start(t, Plain, Options{NoNM: true})
	err := w.Host.IP(
		"address add 192.168.50.4/24 dev "+WiFi,
		"link set dev "+WiFi+" up",
		"route add default via 192.168.50.1",
	)
	if err != nil {
		t.Fatal(err)
	}
	expectWhoami(ctx, t, w, "", WifiPublic)
}
