package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"uplane/test/lab"
)

// dispatcher is the script solution: NetworkManager's dispatcher runs the hand
// recipe's line on every event.
type dispatcher struct{ site *site }

const (
	dispatcherName   = "org.freedesktop.nm_dispatcher"
	dispatcherScript = "/etc/NetworkManager/dispatcher.d/50-lane"
)

// laneScript does no more than it must. The event's IP4_GATEWAY is the old one on a
// reapply, so it asks the kernel.
var laneScript = fmt.Sprintf(`#!/bin/sh
[ "$1" = %s ] || exit 0
set -- $(ip -4 route show default dev "$1")
[ "$3" ] && exec ip route replace default via "$3" dev %s table %d
`, lab.WiFi, lab.WiFi, scriptTable)

// install puts the script in place; remove takes it away, and NetworkManager
// then does not even call the dispatcher.
func (d dispatcher) install() error {
	path := d.site.world.Host.Path(dispatcherScript)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(laneScript), 0o755)
}

func (d dispatcher) remove() error { return os.Remove(d.site.world.Host.Path(dispatcherScript)) }

// warm has the dispatcher running, as it is for ten seconds after an event.
func (d dispatcher) warm() error {
	var result uint32
	return d.site.bus.BusObject().CallWithContext(d.site.ctx, "org.freedesktop.DBus.StartServiceByName", 0, dispatcherName, uint32(0)).Store(&result)
}

// cold ends the dispatcher; the bus starts it with the next event.
func (d dispatcher) cold() error {
	var pid uint32 // in the world
	err := d.site.bus.BusObject().CallWithContext(d.site.ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0, dispatcherName).Store(&pid)
	if err != nil {
		return nil // it is gone already
	}
	if pid < 2 {
		return errors.New("the dispatcher is no process of its own")
	}
	_, err = d.site.world.Host.RunContext(d.site.ctx, "kill", fmt.Sprint(pid))
	return err
}
