package lab

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Profile is a NetworkManager profile with DHCP on one of the host's cards.
type Profile struct {
	Name      string
	Interface string
	Metric    int      // of its routes
	Settings  []string // more of them, as nmcli takes them: property, value, …
}

// The profiles that [World.Connect] makes unless told otherwise: the default route goes by the wire.
var (
	WiredProfile = Profile{Name: "wired", Interface: Wired, Metric: 100}
	WiFiProfile  = Profile{Name: "homewifi", Interface: WiFi, Metric: 600}
)

// Connect adds profiles, by default [WiredProfile] and [WiFiProfile], and waits until NetworkManager
// has activated them.
func (w *World) Connect(ctx context.Context, profiles ...Profile) error {
	if len(profiles) == 0 {
		profiles = []Profile{WiredProfile, WiFiProfile}
	}
	for _, p := range profiles {
		// On a card alone NetworkManager activates a new profile by itself.
		args := append([]string{
			"connection", "add", "type", "ethernet", "con-name", p.Name, "ifname", p.Interface,
			"ipv4.route-metric", strconv.Itoa(p.Metric), "ipv6.route-metric", strconv.Itoa(p.Metric),
		}, p.Settings...)
		if out, err := w.Host.RunContext(ctx, "nmcli", args...); err != nil {
			return fmt.Errorf("add profile %s: %w: %s", p.Name, err, out)
		}
	}
	for _, p := range profiles {
		if err := w.WaitActive(ctx, p.Name); err != nil {
			return err
		}
	}
	return nil
}

// WaitActive waits until NetworkManager has activated a profile.
func (w *World) WaitActive(ctx context.Context, profile string) error {
	return w.waitActive(ctx, profile, true)
}

// WaitInactive waits until a profile is active on no card.
func (w *World) WaitInactive(ctx context.Context, profile string) error {
	return w.waitActive(ctx, profile, false)
}

func (w *World) waitActive(ctx context.Context, profile string, want bool) error {
	err := poll(ctx, 50*time.Millisecond, func() error {
		out, err := w.Host.RunContext(ctx, "nmcli", "--terse", "--fields", "NAME,STATE", "connection", "show", "--active")
		if err != nil {
			return err
		}
		lines := strings.Split(out, "\n")
		if slices.Contains(lines, profile+":activated") != want {
			return fmt.Errorf("active profiles: %q", lines)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("wait for profile %s to be active=%t: %w\n%s", profile, want, err, w.NMLog())
	}
	return nil
}
