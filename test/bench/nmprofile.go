package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/godbus/dbus/v5"

	"uplane/test/lab"
)

// nmProfile changes the Wi-Fi's profile as "nmcli device modify" does: by one
// D-Bus call, Reapply, but without another program that needs a processor. It is
// a helper in the host: NetworkManager does not obey a caller whose process it can't see.
type nmProfile struct{ *helper }

func (s *site) nmProfile() (nmProfile, error) {
	h, err := s.startHelper(s.world.Host.Node, "profile", lab.WiFi)
	return nmProfile{h}, err
}

// setGateway has NetworkManager change the profile's gateway, and does not wait;
// nothing else changes after the first time.
func (p nmProfile) setGateway(gateway netip.Addr) error {
	_, err := p.ask(gateway.String())
	return err
}

const nmName = "org.freedesktop.NetworkManager"

// profile is that helper: it reads gateways.
func profile(args []string) error {
	bus, err := dbus.ConnectSystemBus()
	if err != nil {
		return err
	}
	var path dbus.ObjectPath
	if err := bus.Object(nmName, "/org/freedesktop/NetworkManager").Call(nmName+".GetDeviceByIpIface", 0, args[0]).Store(&path); err != nil {
		return err
	}
	device := bus.Object(nmName, path)
	var settings map[string]map[string]dbus.Variant
	var version uint64
	if err := device.Call(nmName+".Device.GetAppliedConnection", 0, uint32(0)).Store(&settings, &version); err != nil {
		return err
	}
	ip4 := settings["ipv4"]
	if ip4 == nil {
		return errors.New("the profile has no ipv4 setting")
	}
	for _, old := range []string{"addresses", "routes", "route-data"} {
		delete(ip4, old)
		delete(settings["ipv6"], old) // of types that the library does not write again
	}
	ip4["method"] = dbus.MakeVariant("manual")
	ip4["address-data"] = dbus.MakeVariant([]map[string]dbus.Variant{{
		"address": dbus.MakeVariant("192.168.50.4"), "prefix": dbus.MakeVariant(uint32(24)),
	}})
	dns := lab.WifiDNS.As4()
	ip4["dns"] = dbus.MakeVariant([]uint32{binary.NativeEndian.Uint32(dns[:])})
	return answer(func(gateway string) (string, error) {
		ip4["gateway"] = dbus.MakeVariant(gateway)
		// Whoever waited for the answer would wake up just when the contenders need the processors.
		return "done", device.Call(nmName+".Device.Reapply", dbus.FlagNoReplyExpected, settings, uint64(0), uint32(0)).Err
	})
}

// answer is a helper's side of ask.
func answer(f func(question string) (string, error)) error {
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		text, err := f(lines.Text())
		if err != nil {
			text = fmt.Sprintf("error: %q", err)
		}
		fmt.Println(text)
	}
	return lines.Err()
}
