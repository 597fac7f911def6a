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
	conn, hangUp, err := dial(ctx, address)
	if err != nil {
		return Snapshot{}, err
	}
	defer hangUp()
	name, _, err := owner(ctx, conn)
	if err != nil || name == "" {
		return Snapshot{}, err
	}
	// By its unique name: the well-known one would start a stopped NetworkManager.
	call := conn.Object(name, objectRoot).CallWithContext(ctx, objectManager+".GetManagedObjects", dbus.FlagNoAutoStart)
	objects, err := managedObjects(call)
	if err != nil {
		return Snapshot{}, fmt.Errorf("read NetworkManager's devices: %w", err)
	}
	t := newTree()
	for path, ifaces := range objects {
		t.add(path, ifaces)
	}
	return Snapshot{Known: true, Running: true, Uplinks: t.uplinks(nil)}, nil
}
