package nm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/Wifx/gonetworkmanager/v3"
	"github.com/godbus/dbus/v5"

	"uplane/policy"
)

// Store is NetworkManager's profiles, to read and to write. It is for commands:
// gonetworkmanager uses the process's shared connection to the system bus, where
// nothing can be cancelled or timed out. A daemon has a [Watcher].
type Store struct {
	settings gonetworkmanager.Settings
	manager  gonetworkmanager.NetworkManager
}

// Stored is a profile as NetworkManager has it.
type Stored struct {
	policy.Profile          // Lane is empty when it asks for none
	Type           string   // as nmcli names it: bridge, 802-3-ethernet, …
	Limited        bool     // it serves only Lanes
	Lanes          []string // names, unchecked

	connection gonetworkmanager.Connection
}

// ErrNoProfile says that there is no such profile.
var ErrNoProfile = errors.New("no such profile")

// OpenStore connects to the system bus.
func OpenStore() (*Store, error) {
	settings, err := gonetworkmanager.NewSettings()
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	manager, err := gonetworkmanager.NewNetworkManager()
	if err != nil {
		return nil, fmt.Errorf("connect to NetworkManager: %w", err)
	}
	return &Store{settings, manager}, nil
}

// wait calls f and returns when it has returned or ctx is done.
func wait(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// List returns all profiles that users made, by name.
func (s *Store) List(ctx context.Context) (out []Stored, err error) {
	err = wait(ctx, func() error {
		connections, err := s.settings.ListConnections()
		if err != nil {
			return fmt.Errorf("list NetworkManager's profiles: %w", err)
		}
		active, err := s.active()
		if err != nil {
			return err
		}
		var list []Stored
		for _, c := range connections {
			got, err := c.GetSettings()
			if gone(err) || errors.Is(plainError(err), ErrDenied) {
				continue // since it was listed; or another user's
			}
			if err != nil {
				return fmt.Errorf("read a profile of NetworkManager: %w", err)
			}
			flags, _ := c.GetPropertyFlags()
			p := decodeProfile(settings(got))
			if p.flags = flags; p.generated() {
				continue
			}
			p.Active = active[p.UUID]
			list = append(list, Stored{p.Profile, text(settings(got), "connection", "type"), p.limited, p.lanes, c})
		}
		slices.SortFunc(list, func(a, b Stored) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID)) })
		out = list
		return nil
	})
	return out, err
}

// active returns the UUIDs of the profiles that are up or coming up.
func (s *Store) active() (map[string]bool, error) {
	list, err := s.manager.GetPropertyActiveConnections()
	if err != nil {
		return nil, fmt.Errorf("list NetworkManager's active profiles: %w", err)
	}
	out := map[string]bool{}
	for _, a := range list {
		state, err := a.GetPropertyState()
		uuid, uerr := a.GetPropertyUUID()
		if err == nil && uerr == nil && slices.Contains(activeStates, state) {
			out[uuid] = true
		}
	}
	return out, nil
}

// gone tells whether an error only says that the object is no more.
func gone(err error) bool {
	var derr dbus.Error
	return errors.As(err, &derr) && (derr.Name == driver+".Error.UnknownMethod" || derr.Name == driver+".Error.UnknownObject")
}

// Add stores a profile for a lane and has NetworkManager activate it, now and at every boot.
// p's Name, Interface, Lane, Keys and Address count.
func (s *Store) Add(ctx context.Context, p policy.Profile) error {
	connection := gonetworkmanager.ConnectionSettings{
		"connection": {"id": p.Name, "type": "bridge", "interface-name": p.Interface, "autoconnect": true},
		// The spanning tree protocol, NetworkManager's default, would keep the lane silent for half a minute.
		"bridge": {"stp": false},
		"ipv4": {"method": "manual", "address-data": []map[string]dbus.Variant{{
			"address": dbus.MakeVariant(p.Address.Addr().String()), "prefix": dbus.MakeVariant(uint32(p.Address.Bits())),
		}}},
		"ipv6": {"method": "disabled"},
	}
	keys := maps.Clone(p.Keys)
	if keys == nil {
		keys = map[string]string{}
	}
	keys[laneKey] = p.Lane
	setUser(connection, keys)
	return wait(ctx, func() error {
		if _, err := s.settings.AddConnection(connection); err != nil {
			return fmt.Errorf("add profile %s: %w", p.Name, plainError(err))
		}
		return nil
	})
}

// SetKeys changes a profile's user keys; an empty value takes a key out, and the others stay.
func (s *Store) SetKeys(ctx context.Context, p Stored, keys map[string]string) error {
	return s.update(ctx, p, func(c gonetworkmanager.ConnectionSettings) { setUser(c, keys) })
}

// SetAddress changes the only IPv4 address of a lane's profile. It takes effect when the profile is
// activated again.
func (s *Store) SetAddress(ctx context.Context, p Stored, address netip.Prefix) error {
	return s.update(ctx, p, func(c gonetworkmanager.ConnectionSettings) {
		if c["ipv4"] == nil {
			c["ipv4"] = map[string]any{}
		}
		c["ipv4"]["method"] = "manual"
		c["ipv4"]["address-data"] = []map[string]dbus.Variant{{
			"address": dbus.MakeVariant(address.Addr().String()), "prefix": dbus.MakeVariant(uint32(address.Bits())),
		}}
	})
}

// Limit makes a network serve only the named lanes.
func (s *Store) Limit(ctx context.Context, p Stored, lanes []string) error {
	list := strings.Join(lanes, ",")
	if len(lanes) == 0 {
		list = "," // NetworkManager drops a key without a value
	}
	return s.SetKeys(ctx, p, map[string]string{lanesKey: list})
}

// Unlimit makes a network serve all lanes.
func (s *Store) Unlimit(ctx context.Context, p Stored) error {
	return s.SetKeys(ctx, p, map[string]string{lanesKey: ""})
}

// update changes a profile and saves it.
func (s *Store) update(ctx context.Context, p Stored, change func(gonetworkmanager.ConnectionSettings)) error {
	return wait(ctx, func() error {
		c, err := p.connection.GetSettings()
		if err != nil {
			return fmt.Errorf("read profile %s: %w", p.Name, plainError(err))
		}
		// These have come back without their types, and say nothing that address-data and route-data do not.
		for _, family := range []string{"ipv4", "ipv6"} {
			delete(c[family], "addresses")
			delete(c[family], "routes")
		}
		if err := addSecrets(p.connection, c); err != nil {
			return fmt.Errorf("read the secrets of profile %s, without which a change would lose them: %w", p.Name, plainError(err))
		}
		change(c)
		if err := p.connection.Update(c); err != nil {
			return fmt.Errorf("change profile %s: %w", p.Name, plainError(err))
		}
		return nil
	})
}

// setUser puts our keys among a profile's user data; others' stay. Empty ones go.
func setUser(c gonetworkmanager.ConnectionSettings, keys map[string]string) {
	data := map[string]string{}
	if old, ok := c["user"]["data"].(map[string]string); ok {
		maps.Copy(data, old)
	}
	for name, value := range keys {
		if value == "" {
			delete(data, userPrefix+name)
		} else {
			data[userPrefix+name] = value
		}
	}
	c["user"] = map[string]any{"data": data}
	if len(data) == 0 {
		delete(c, "user")
	}
}

// Activate brings a profile up.
func (s *Store) Activate(ctx context.Context, p Stored) error {
	return wait(ctx, func() error {
		if _, err := s.manager.ActivateConnection(p.connection, nil, nil); err != nil {
			return fmt.Errorf("bring up profile %s: %w", p.Name, plainError(err))
		}
		return nil
	})
}

// Deactivate takes a profile down, until it is activated or the next boot.
func (s *Store) Deactivate(ctx context.Context, p Stored) error {
	return wait(ctx, func() error {
		list, err := s.manager.GetPropertyActiveConnections()
		if err != nil {
			return fmt.Errorf("list NetworkManager's active profiles: %w", err)
		}
		for _, a := range list {
			if uuid, err := a.GetPropertyUUID(); err != nil || uuid != p.UUID {
				continue
			}
			if err := s.manager.DeactivateConnection(a); err != nil && !gone(err) {
				return fmt.Errorf("take down profile %s: %w", p.Name, plainError(err))
			}
		}
		return nil
	})
}

// Delete deletes a profile; NetworkManager takes its bridge down.
func (s *Store) Delete(ctx context.Context, p Stored) error {
	return wait(ctx, func() error {
		if err := p.connection.Delete(); err != nil && !gone(err) {
			return fmt.Errorf("delete profile %s: %w", p.Name, plainError(err))
		}
		return nil
	})
}

// ErrDenied says that polkit did not allow a change.
var ErrDenied = errors.New("permission denied")

// plainError leaves out D-Bus's name for the error.
func plainError(err error) error {
	var derr dbus.Error
	if !errors.As(err, &derr) {
		return err
	}
	if derr.Name == busName+".Settings.PermissionDenied" || derr.Name == busName+".PermissionDenied" {
		return fmt.Errorf("%w: %s", ErrDenied, derr.Error())
	}
	return errors.New(derr.Error())
}
