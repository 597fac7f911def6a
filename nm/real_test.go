package nm_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/nm"
	"uplane/policy"
	"uplane/test/lab"
)

func TestRealFirstSnapshot(t *testing.T) {
	_, _, v := connected(t, lab.Options{})
	s := v.Snapshot()
	if !s.Known || len(s.Uplinks) != 2 || s.Uplinks[0].Interface != lab.Wired || s.Uplinks[1].Interface != lab.WiFi {
		t.Fatal(show(s))
	}
	u := get(s, lab.WiFi)
	if u.Type != "ethernet" || u.Connection != "homewifi" || len(u.UUID) != 36 ||
		u.Addresses[0] != netip.MustParsePrefix("192.168.50.4/24") ||
		!slices.Equal(u.DNS, []netip.Addr{lab.WifiDNS}) ||
		!slices.Contains(u.Routes, policy.UplinkRoute{Dst: netip.MustParsePrefix("192.168.50.0/24"), Metric: 600}) {
		t.Fatal(show(s))
	}
}

func TestRealRenewal(t *testing.T) {
	ctx, w, v := connected(t, lab.Options{RenewEvery: lab.QuickRenewal})

	// A renewal that brings nothing new is no change, though NetworkManager emits signals.
	must(t, w.Wifi.WaitRenewal(ctx))
	time.Sleep(200 * time.Millisecond)
	before := v.changes.Load()
	for range 2 {
		must(t, w.Wifi.WaitRenewal(ctx))
	}
	time.Sleep(200 * time.Millisecond)
	if n := v.changes.Load() - before; n != 0 {
		t.Errorf("%d changes by unchanged renewals", n)
	}

	stop := v.never("without a default route in between", func(s nm.Snapshot) bool {
		u := get(s, lab.WiFi)
		_, ok := u.Gateway()
		return !ok || u.Phase != policy.PhaseActive
	})
	dhcp := w.Wifi.DHCP()
	dhcp.Router, dhcp.DNS = w.Wifi2.LAN.Addr(), []netip.Addr{lab.WireDNS, lab.WifiDNS}
	must(t, w.Wifi.SetDHCP(ctx, dhcp))
	v.waitUp("192.168.50.2")
	stop()
	v.wait("other name servers", func(s nm.Snapshot) bool { return slices.Equal(get(s, lab.WiFi).DNS, dhcp.DNS) })
}

func TestRealModifyAndReapply(t *testing.T) {
	ctx, w, v := connected(t, lab.Options{})
	stop := v.never("down by a modification", func(s nm.Snapshot) bool { return get(s, lab.WiFi).Phase != policy.PhaseActive })
	nmcli(ctx, t, w, "device", "modify", lab.WiFi,
		"+ipv4.routes", "203.0.113.0/25 192.168.50.2 77", "ipv4.dns", "9.9.9.9", "ipv4.dns-search", "corp.example,~routing.example")
	want := policy.UplinkRoute{Dst: netip.MustParsePrefix("203.0.113.0/25"), Via: netip.MustParseAddr("192.168.50.2"), Metric: 77}
	v.wait("the new route and search domain", func(s nm.Snapshot) bool {
		u := get(s, lab.WiFi)
		return slices.Contains(u.Routes, want) && slices.Equal(u.Search, []string{"corp.example"}) &&
			slices.Contains(u.DNS, netip.MustParseAddr("9.9.9.9"))
	})
	nmcli(ctx, t, w, "device", "modify", lab.WiFi, "ipv4.gateway", "192.168.50.2", "ipv4.never-default", "no",
		"ipv4.method", "manual", "ipv4.addresses", "192.168.50.4/24")
	v.waitUp("192.168.50.2")
	stop()
	nmcli(ctx, t, w, "device", "reapply", lab.WiFi) // drops what modify brought
	v.waitUp("192.168.50.1")
	v.wait("the old routes", func(s nm.Snapshot) bool { return !slices.Contains(get(s, lab.WiFi).Routes, want) })
}

func TestRealDisconnect(t *testing.T) {
	ctx, w, v := connected(t, lab.Options{})
	nmcli(ctx, t, w, "device", "disconnect", lab.WiFi)
	v.wait("down", func(s nm.Snapshot) bool {
		u := get(s, lab.WiFi)
		return u.Interface != "" && u.Phase == policy.PhaseDown && u.Connection == "" &&
			u.Addresses == nil && u.Routes == nil && u.DNS == nil
	})
	nmcli(ctx, t, w, "device", "connect", lab.WiFi)
	v.waitUp("192.168.50.1")

	nmcli(ctx, t, w, "device", "set", lab.WiFi, "managed", "no")
	v.wait("not listed", func(s nm.Snapshot) bool { return get(s, lab.WiFi).Interface == "" })
	nmcli(ctx, t, w, "device", "set", lab.WiFi, "managed", "yes")
	v.waitUp("192.168.50.1")
}

func TestRealCarrierLoss(t *testing.T) {
	_, w, v := connected(t, lab.Options{})
	must(t, w.Wifi.Carrier(false))
	v.wait("down", func(s nm.Snapshot) bool { // after NetworkManager's carrier wait of 6 s
		u := get(s, lab.WiFi)
		return u.Interface != "" && u.Phase == policy.PhaseDown && u.Routes == nil
	})
	must(t, w.Wifi.Carrier(true))
	v.waitUp("192.168.50.1")
}

func TestRealProfileSwitch(t *testing.T) {
	ctx, w, v := connected(t, lab.Options{})
	old := get(v.Snapshot(), lab.WiFi).UUID
	nmcli(ctx, t, w, "connection", "add", "type", "ethernet", "con-name", "café", "ifname", lab.WiFi,
		"autoconnect", "no", "ipv4.method", "manual", "ipv4.addresses", "192.168.50.9/24,10.9.8.7/32", "ipv4.gateway", "192.168.50.2",
		"ipv4.dns", "203.0.113.54", "ipv4.routes", "198.18.0.0/15 192.168.50.1 5, 198.51.100.128/25",
		"ipv6.method", "manual", "ipv6.addresses", "2001:db8:50::9/64", "ipv6.gateway", "2001:db8:50::1", "ipv6.dns", "2001:db8::53")
	stop := v.never("the old gateway under the new name", func(s nm.Snapshot) bool {
		u := get(s, lab.WiFi)
		gateway, _ := u.Gateway()
		return u.UUID != old && gateway == netip.MustParseAddr("192.168.50.1")
	})
	nmcli(ctx, t, w, "connection", "up", "café")
	v.wait("on the other profile", func(s nm.Snapshot) bool {
		u := get(s, lab.WiFi)
		return isUp(s, lab.WiFi, "192.168.50.2") && u.Connection == "café" && u.UUID != old
	})
	stop()
	v.wait("all of it", func(s nm.Snapshot) bool {
		u := get(s, lab.WiFi)
		return slices.Equal(u.DNS, []netip.Addr{lab.WifiDNS, netip.MustParseAddr("2001:db8::53")}) &&
			slices.Contains(u.Addresses, netip.MustParsePrefix("10.9.8.7/32")) &&
			slices.Contains(u.Addresses, netip.MustParsePrefix("2001:db8:50::9/64")) &&
			slices.ContainsFunc(u.Routes, func(r policy.UplinkRoute) bool {
				return r.Dst == netip.MustParsePrefix("198.18.0.0/15") && r.Via == netip.MustParseAddr("192.168.50.1") && r.Metric == 5
			}) &&
			slices.ContainsFunc(u.Routes, func(r policy.UplinkRoute) bool {
				return r.Dst == netip.MustParsePrefix("198.51.100.128/25") && !r.Via.IsValid()
			}) &&
			slices.ContainsFunc(u.Routes, func(r policy.UplinkRoute) bool {
				return r.Dst == netip.MustParsePrefix("::/0") && r.Via == netip.MustParseAddr("2001:db8:50::1")
			})
	})
}

// A NetworkManager that goes and comes back, in whatever way, must not be seen to take an uplink away.
func TestRealRestart(t *testing.T) {
	ctx, w, v := connected(t, lab.Options{})
	want := v.Snapshot()
	stop := v.never("an uplink lost its way out while NetworkManager restarted", func(s nm.Snapshot) bool {
		return slices.ContainsFunc(want.Uplinks, func(was policy.Uplink) bool {
			is := get(s, was.Interface)
			gateway, _ := is.Gateway()
			wasGateway, _ := was.Gateway()
			return is.Phase == policy.PhaseDown || is.UUID != was.UUID || gateway != wasGateway ||
				!slices.Equal(is.DNS, was.DNS) || is.Addresses[0] != was.Addresses[0]
		})
	})
	gone := func(s nm.Snapshot) bool { return s.Known && !s.Running && isUp(s, lab.WiFi, "192.168.50.1") }

	must(t, w.StopNM())
	v.wait("gone", gone)
	must(t, w.StartNM(ctx))
	v.waitUp("192.168.50.1")

	w.KillNM()
	v.wait("gone", gone)
	must(t, w.StartNM(ctx))
	v.waitUp("192.168.50.1")

	must(t, w.RestartBus(ctx))
	v.waitUp("192.168.50.1")
	stop()

	// The new NetworkManager is followed as the first was.
	nmcli(ctx, t, w, "device", "disconnect", lab.WiFi)
	v.wait("down", func(s nm.Snapshot) bool { return get(s, lab.WiFi).Phase == policy.PhaseDown })
}

// A device that went while NetworkManager was away is dropped when it has started up.
func TestRealGoneMeanwhile(t *testing.T) {
	ctx, w, v := connected(t, lab.Options{})
	must(t, w.StopNM())
	v.wait("gone", func(s nm.Snapshot) bool { return !s.Running })
	must(t, w.Host.IP("link del dev "+lab.WiFi))
	must(t, w.StartNM(ctx))
	v.wait("without the card", func(s nm.Snapshot) bool {
		return s.Running && get(s, lab.WiFi).Interface == "" && isUp(s, lab.Wired, "192.168.10.1")
	})
}

// The watcher waits for a bus and a NetworkManager that come later, and does not start one.
func TestRealLateBus(t *testing.T) {
	t.Parallel()
	ctx, w := lab.Start(t, lab.Plain, lab.Options{NoNM: true})
	v := watch(t, w)
	time.Sleep(300 * time.Millisecond)
	must(t, w.StartBus(ctx))
	time.Sleep(time.Second)
	if s := v.Snapshot(); s.Known || s.Running || v.changes.Load() != 0 {
		t.Fatal(show(s))
	}
	must(t, w.StartNM(ctx))
	must(t, w.Connect(ctx))
	v.waitUp("192.168.50.1")
}

func TestRealVanish(t *testing.T) {
	_, w, v := connected(t, lab.Options{})
	must(t, w.Host.IP("link del dev "+lab.WiFi))
	v.wait("not listed", func(s nm.Snapshot) bool { return len(s.Uplinks) == 1 && s.Uplinks[0].Interface == lab.Wired })
}

// Of the other tables only the profile's own counts: not ours, and not somebody's.
func TestRealRouteTable(t *testing.T) {
	ctx, w, v := connected(t, lab.Options{})
	before := v.changes.Load()
	must(t, w.Host.IP(
		"route add default via 192.168.50.2 dev wlp6s0 table 100 proto 117",
		"route add default via 192.168.50.2 dev wlp6s0 table 101"))
	time.Sleep(500 * time.Millisecond)
	if n := v.changes.Load() - before; n != 0 {
		t.Errorf("%d changes by routes in other tables:\n%s", n, show(v.Snapshot()))
	}
	must(t, w.Host.IP("route del default via 192.168.50.2 dev wlp6s0 table 101"))

	nmcli(ctx, t, w, "connection", "modify", "homewifi", "ipv4.route-table", "500")
	nmcli(ctx, t, w, "connection", "up", "homewifi")
	v.waitUp("192.168.50.1")
	out, err := w.Host.RunContext(ctx, "nmcli", "-g", "IP4.GATEWAY", "device", "show", lab.WiFi)
	if err != nil || out != "" {
		t.Fatalf("nmcli says gateway %q (%v); then this test proves nothing", out, err)
	}
	if u := get(v.Snapshot(), lab.WiFi); !slices.Contains(u.Routes, policy.UplinkRoute{Dst: netip.MustParsePrefix("192.168.50.0/24"), Metric: 600}) {
		t.Error(show(v.Snapshot()))
	}
}

// A bridge that somebody else made is listed, as long as it is up; a profile
// for one that is not made is not.
func TestRealExternalAndVirtual(t *testing.T) {
	ctx, w, v := connected(t, lab.Options{})
	must(t, w.Host.IP("link add br7 type bridge", "address add 10.7.0.1/24 dev br7", "link set dev br7 up"))
	v.wait("the bridge", func(s nm.Snapshot) bool {
		u := get(s, "br7")
		return u.Type == "bridge" && len(u.Addresses) > 0 && u.Connection == "br7"
	})
	must(t, w.Host.IP("link del dev br7"))
	v.wait("no bridge", func(s nm.Snapshot) bool { return get(s, "br7").Interface == "" })
	nmcli(ctx, t, w, "connection", "add", "type", "bridge", "ifname", "br8", "con-name", "br8", "autoconnect", "no")
	time.Sleep(300 * time.Millisecond)
	if s := v.Snapshot(); len(s.Uplinks) != 2 {
		t.Error(show(s))
	}
}

// What says that a profile is gone, and no other answer does.
func TestRealGoneProfile(t *testing.T) {
	t.Parallel()
	ctx, w := lab.Start(t, lab.Plain, lab.Options{})
	must(t, w.Connect(ctx))
	nmcli(ctx, t, w, "connection", "add", "type", "bridge", "ifname", "br9", "con-name", "br9", "autoconnect", "no")
	list, err := w.Host.RunContext(ctx, "nmcli", "-g", "DBUS-PATH,NAME", "connection")
	must(t, err)
	list, _, _ = strings.Cut(list, ":br9")
	path := list[strings.LastIndex(list, "\n")+1:]
	conn, err := dbus.Connect(relay(t, w))
	must(t, err)
	defer conn.Close()
	ask := func() error {
		return conn.Object("org.freedesktop.NetworkManager", dbus.ObjectPath(path)).
			CallWithContext(ctx, "org.freedesktop.NetworkManager.Settings.Connection.GetSettings", 0).Err
	}
	must(t, ask())
	nmcli(ctx, t, w, "connection", "delete", "br9")
	if err := ask(); !nm.Gone(err) {
		t.Errorf("%#v", err)
	}
}

// Anybody may send signals to anybody on the system bus.
func TestRealForgedSignals(t *testing.T) {
	ctx, w, v := connected(t, lab.Options{})
	conn, err := dbus.Connect(w.Host.DBusAddress())
	must(t, err)
	defer conn.Close()
	var names []string
	must(t, conn.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&names))
	var objects map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	must(t, conn.Object("org.freedesktop.NetworkManager", "/org/freedesktop").
		Call("org.freedesktop.DBus.ObjectManager.GetManagedObjects", 0).Store(&objects))
	before := v.changes.Load()
	send := func(to string, path dbus.ObjectPath, iface, member string, body ...any) {
		conn.Send(&dbus.Message{
			Type: dbus.TypeSignal,
			Headers: map[dbus.HeaderField]dbus.Variant{
				dbus.FieldDestination: dbus.MakeVariant(to),
				dbus.FieldPath:        dbus.MakeVariant(path),
				dbus.FieldInterface:   dbus.MakeVariant(iface),
				dbus.FieldMember:      dbus.MakeVariant(member),
				dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf(body...)),
			},
			Body: body,
		}, nil)
	}
	for _, name := range names {
		if name[0] != ':' {
			continue
		}
		send(name, "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameOwnerChanged",
			"org.freedesktop.NetworkManager", ":1.0", conn.Names()[0])
		for path, ifaces := range objects {
			if _, ok := ifaces["org.freedesktop.NetworkManager.Device"]; ok {
				send(name, path, "org.freedesktop.DBus.Properties", "PropertiesChanged",
					"org.freedesktop.NetworkManager.Device", map[string]dbus.Variant{"State": dbus.MakeVariant(uint32(30))}, []string{})
			}
		}
	}
	must(t, conn.BusObject().Call("org.freedesktop.DBus.GetId", 0).Err)
	time.Sleep(300 * time.Millisecond)
	if n := v.changes.Load() - before; n != 0 {
		t.Errorf("%d changes by forged signals:\n%s", n, show(v.Snapshot()))
	}
	// Nor does it follow the forger now.
	nmcli(ctx, t, w, "device", "disconnect", lab.WiFi)
	v.wait("down", func(s nm.Snapshot) bool { return get(s, lab.WiFi).Phase == policy.PhaseDown })
}
