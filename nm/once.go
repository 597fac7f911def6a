package nm

import (
	"context"
	"fmt"

	"github.com/godbus/dbus/v5"
)

// Once asks NetworkManager for one snapshot and follows nothing. Of a
// NetworkManager that is not running nothing is known. An empty address is the
// system bus.
func Once(ctx context.Context, address string) (Snapshot, error) {
	conn, err := dial(ctx, address)
	if err != nil {
		return Snapshot{}, err
	}
	defer conn.Close()
	name, _, err := owner(ctx, conn)
	if err != nil || name == "" {
		return Snapshot{}, err
	}
	// By its unique name: the well-known one would start a stopped NetworkManager.
	objects, err := managedObjects(conn.Object(name, objectRoot).CallWithContext(ctx, objectManager+".GetManagedObjects", dbus.FlagNoAutoStart))
	if err != nil {
		return Snapshot{}, fmt.Errorf("read NetworkManager's devices: %w", err)
	}
	t := newTree()
	for path, ifaces := range objects {
		t.add(path, ifaces)
	}
	for _, path := range t.unread {
		p, err := settingsOf(conn.Object(name, path).CallWithContext(ctx, ifaceProfile+".GetSettings", dbus.FlagNoAutoStart))
		if gone(err) {
			delete(t.profiles, path)
			continue
		}
		if err != nil {
			return Snapshot{}, fmt.Errorf("read a profile of NetworkManager: %w", err) // it may be a lane's, or limit a network
		}
		p.flags = t.profiles[path].flags
		*t.profiles[path] = p
	}
	return Snapshot{Known: true, Running: true, Uplinks: t.uplinks(nil), Profiles: t.lanes(nil)}, nil
}
