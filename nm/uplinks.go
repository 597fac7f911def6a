package nm

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/Wifx/gonetworkmanager/v3"
	"github.com/godbus/dbus/v5"

	"uplane/policy"
)

// uplinks are the uplinks that the tree makes after prev, sorted by interface.
// They depend on prev because a NetworkManager that restarts takes its devices
// through all states again while the kernel keeps everything, and a lane must
// not fall over that:
//
//   - while a device is changing, what NetworkManager does not say yet stays as
//     it was (in 1.42 the DNS servers of an assumed connection, for 50 ms);
//   - until NetworkManager has started up, a device that has not begun to
//     change is still what it was, though it reads as disconnected or is absent.
func (t *tree) uplinks(prev []policy.Uplink) []policy.Uplink {
	// Lanes' own links are devices too, with a thousand lanes thousands of them.
	var paths []dbus.ObjectPath
	for path, d := range t.devices {
		if _, managed := d.phase(); (managed || t.startup) && !t.isLane(d) {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	uplinks := make([]policy.Uplink, 0, len(paths))
	for _, path := range paths {
		if u, ok := t.uplink(t.devices[path], prev); ok {
			uplinks = append(uplinks, u)
		}
	}
	slices.SortStableFunc(uplinks, func(a, b policy.Uplink) int {
		if c := strings.Compare(a.Interface, b.Interface); c != 0 {
			return c
		}
		return int(b.Phase - a.Phase)
	})
	// A name is there twice for moments, when a device replaces another.
	uplinks = slices.CompactFunc(uplinks, func(a, b policy.Uplink) bool { return a.Interface == b.Interface })
	if t.startup {
		for i := range prev {
			at, found := find(uplinks, prev[i].Interface)
			if !found && prev[i].Phase != policy.PhaseDown {
				uplinks = slices.Insert(uplinks, at, held(&prev[i]))
			}
		}
	}
	return uplinks
}

// isLane tells whether a device is a lane's bridge, by its name, and not by a profile of a user's. NetworkManager makes
// a profile for it that says what it finds.
func (t *tree) isLane(d *device) bool {
	if d.kind != gonetworkmanager.NmDeviceTypeBridge || !strings.HasPrefix(d.iface, "ul-") {
		return false
	}
	a := t.actives[d.active]
	return a == nil || t.profiles[a.connection] == nil || t.profiles[a.connection].generated()
}

// uplink is the uplink of one device, if it can be one.
func (t *tree) uplink(d *device, prev []policy.Uplink) (policy.Uplink, bool) {
	u := policy.Uplink{Interface: d.ipIface, Type: d.word}
	if u.Interface == "" {
		u.Interface = d.iface
	}
	if u.Type == "" {
		u.Type = typeNames[d.kind]
	}
	if typeNames[d.kind] == "" || d.word == genericLoopback || u.Interface == "lo" || d.virtual ||
		policy.CheckInterfaceName(u.Interface) != nil {
		return policy.Uplink{}, false
	}
	var last *policy.Uplink // what it was, if that was of use
	if i, found := find(prev, u.Interface); found && prev[i].Phase != policy.PhaseDown {
		last = &prev[i]
	}
	var managed bool
	u.Phase, managed = d.phase()
	if t.startup && !d.ran && last != nil {
		return held(last), true
	}
	if !managed {
		return policy.Uplink{}, false
	}
	t.identify(&u, d, last)
	if u.Phase == policy.PhaseDown {
		return u, true
	}
	t.configure(&u, d)
	if u.Phase == policy.PhaseChanging && last != nil && last.UUID == u.UUID {
		keep(&u, last)
	}
	return u, true
}

// held is last for as long as nobody knows better.
func held(last *policy.Uplink) policy.Uplink {
	u := *last
	u.Phase = policy.PhaseChanging
	return u
}

// identify fills in which profile and network the device is on.
func (t *tree) identify(u *policy.Uplink, d *device, last *policy.Uplink) {
	a := t.actives[d.active]
	if a == nil {
		if last != nil && d.active != "" && d.active != noObject {
			u.Connection, u.UUID, u.SSID = last.Connection, last.UUID, last.SSID // it is about to be fetched
			u.Private, u.Limited, u.Lanes = last.Private, last.Limited, last.Lanes
		}
		return
	}
	u.Connection, u.UUID = a.id, a.uuid
	if !t.limit(u, a, last) {
		u.Phase = policy.PhaseDown // for a millisecond: it may be for other lanes only
	}
	if d.kind != gonetworkmanager.NmDeviceTypeWifi {
		return
	}
	u.SSID = t.ssids[a.specific]
	// A roaming card has met an access point that is not fetched yet. A profile
	// is for one SSID, whatever its access points.
	if u.SSID == "" && last != nil && last.UUID == u.UUID {
		u.SSID = last.SSID
	}
}

// configure fills in the ways out, IPv4 first.
func (t *tree) configure(u *policy.Uplink, d *device) {
	for _, c := range []*config{t.configs[d.ip4], t.configs[d.ip6]} {
		if c == nil {
			continue
		}
		u.Addresses = append(u.Addresses, c.addresses...)
		u.Routes = append(u.Routes, c.out...)
		u.DNS = append(u.DNS, c.dns...)
		for _, domain := range c.search() {
			if !slices.Contains(u.Search, domain) {
				u.Search = append(u.Search, domain)
			}
		}
	}
}

// keep fills in from last what u does not have yet: all of a family that had a
// default route and now has none. DNS, which comes in several steps and is in
// less of a hurry, stays until the device is active.
func keep(u, last *policy.Uplink) {
	if len(last.DNS) > 0 {
		u.DNS, u.Search = last.DNS, last.Search
	}
	v4, v6 := u, u
	if hasDefault(last, true) && !hasDefault(u, true) {
		v4 = last
	}
	if hasDefault(last, false) && !hasDefault(u, false) {
		v6 = last
	}
	if v4 == u && v6 == u {
		return
	}
	u.Addresses, u.Routes = merge(v4.Addresses, v6.Addresses, isAddress4), merge(v4.Routes, v6.Routes, isRoute4)
}

// merge takes the IPv4 elements of one list and the IPv6 ones of another.
func merge[T any](v4, v6 []T, is4 func(T) bool) []T {
	merged := slices.DeleteFunc(slices.Clone(v4), func(e T) bool { return !is4(e) })
	return append(merged, slices.DeleteFunc(slices.Clone(v6), is4)...)
}

func isAddress4(p netip.Prefix) bool     { return p.Addr().Is4() }
func isRoute4(r policy.UplinkRoute) bool { return r.Dst.Addr().Is4() }

func hasDefault(u *policy.Uplink, is4 bool) bool {
	return slices.ContainsFunc(u.Routes, func(r policy.UplinkRoute) bool {
		return r.Dst.Bits() == 0 && isRoute4(r) == is4
	})
}

func find(uplinks []policy.Uplink, iface string) (int, bool) {
	return slices.BinarySearchFunc(uplinks, iface, func(u policy.Uplink, iface string) int {
		return strings.Compare(u.Interface, iface)
	})
}

// equal tells whether two lists of uplinks are the same.
func equal(a, b []policy.Uplink) bool {
	return slices.EqualFunc(a, b, func(a, b policy.Uplink) bool {
		return a.Interface == b.Interface && a.Type == b.Type && a.Connection == b.Connection &&
			a.UUID == b.UUID && a.SSID == b.SSID && a.Phase == b.Phase &&
			slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Routes, b.Routes) &&
			slices.Equal(a.DNS, b.DNS) && slices.Equal(a.Search, b.Search) &&
			a.Private == b.Private && a.Limited == b.Limited && slices.Equal(a.Lanes, b.Lanes)
	})
}
