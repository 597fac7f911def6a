package nm

import (
	"cmp"
	"maps"
	"slices"

	"github.com/Wifx/gonetworkmanager/v3"
	"github.com/godbus/dbus/v5"

	"uplane/policy"
)

// States of an active profile that mean that its bridge is or will be there; a
// new one's is unknown at first.
var activeStates = []gonetworkmanager.NmActiveConnectionState{
	gonetworkmanager.NmActiveConnectionStateUnknown,
	gonetworkmanager.NmActiveConnectionStateActivating,
	gonetworkmanager.NmActiveConnectionStateActivated,
}

// again tells whether an active profile is only taken down to be activated again:
// then its device says so, and half a millisecond later there is a new active object (1.42).
func (t *tree) again(path dbus.ObjectPath, a *active) bool {
	if a.state != gonetworkmanager.NmActiveConnectionStateDeactivating {
		return false
	}
	for _, d := range t.devices {
		if d.active == path && d.reason == gonetworkmanager.NmDeviceStateReasonNewActivation {
			return true
		}
	}
	return false
}

// addProfile takes in a profile, whose settings are still to be read.
func (t *tree) addProfile(path dbus.ObjectPath) {
	if t.profiles[path] == nil {
		t.profiles[path] = &profile{}
		t.unread = append(t.unread, path)
	}
}

// removeProfile drops a profile, but one that is active only when its bridge is
// gone, which takes NetworkManager 50 ms more: until then nobody else can have that name.
func (t *tree) removeProfile(path dbus.ObjectPath) {
	p := t.profiles[path]
	if p == nil {
		return
	}
	p.Leaving = p.Lane != "" && t.activeBy(func(a *active) bool { return a.uuid == p.UUID && p.UUID != "" })
	if !p.Leaving {
		delete(t.profiles, path)
	}
}

func (t *tree) activeBy(ok func(*active) bool) bool {
	for _, a := range t.actives {
		if slices.Contains(activeStates, a.state) && ok(a) {
			return true
		}
	}
	return false
}

// forgetLeft drops the deleted profiles whose bridge is gone, or all of them.
func (t *tree) forgetLeft(all bool) {
	for path, p := range t.profiles {
		if p.Leaving && (all || !t.holds(p)) {
			delete(t.profiles, path)
		}
	}
}

// holds tells whether the bridge of a deleted profile is still being taken down.
// One that NetworkManager has not made itself it leaves, and finds a name for that.
func (t *tree) holds(p *profile) bool {
	for _, d := range t.devices {
		if d.iface == p.Interface && !d.virtual && d.state > gonetworkmanager.NmDeviceStateUnmanaged {
			a := t.actives[d.active]
			return a == nil || a.uuid == p.UUID
		}
	}
	return false
}

// lanes are the profiles that ask for a lane, by name and UUID. They depend on
// prev because a NetworkManager that starts knows its profiles, and which are
// active, only bit by bit: until it has, what was stays.
func (t *tree) lanes(prev []policy.Profile) []policy.Profile {
	t.forgetLeft(false)
	var out []policy.Profile
	again := map[string]bool{} // by UUID
	hold := t.startup
	for path, p := range t.profiles {
		hold = hold || !p.read
		if p.Lane == "" || p.generated() {
			continue
		}
		q := p.Profile
		q.Active = !q.Leaving && t.activeBy(func(a *active) bool { return a.connection == path })
		for at, a := range t.actives {
			again[p.UUID] = again[p.UUID] || a.connection == path && t.again(at, a)
		}
		out = append(out, q)
	}
	for i := range out {
		p := &out[i]
		p.Active = p.Active || again[p.UUID] && !p.Leaving && !slices.ContainsFunc(out, func(q policy.Profile) bool { return q.Interface == p.Interface && q.Active })
	}
	if hold {
		for _, old := range prev {
			i := slices.IndexFunc(out, func(p policy.Profile) bool { return p.UUID == old.UUID })
			switch {
			case i < 0:
				out = append(out, old)
			case t.startup:
				out[i].Active = out[i].Active || old.Active
			}
		}
	}
	slices.SortFunc(out, func(a, b policy.Profile) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID)) })
	return out
}

// limit fills in whom the network's profile is for and which lanes it serves, and tells whether that is known.
func (t *tree) limit(u *policy.Uplink, a *active, last *policy.Uplink) bool {
	p := t.profiles[a.connection]
	switch {
	case p != nil && p.read:
		u.Private, u.Limited, u.Lanes = p.private, p.limited, p.lanes
	case last != nil && last.UUID == u.UUID:
		u.Private, u.Limited, u.Lanes = last.Private, last.Limited, last.Lanes
	default:
		return false
	}
	return true
}

func equalProfiles(a, b []policy.Profile) bool {
	return slices.EqualFunc(a, b, func(a, b policy.Profile) bool {
		return a.UUID == b.UUID && a.Name == b.Name && a.Interface == b.Interface && a.Lane == b.Lane && a.Named == b.Named &&
			a.Address == b.Address && a.Method == b.Method && a.Active == b.Active && a.Leaving == b.Leaving && maps.Equal(a.Keys, b.Keys)
	})
}
