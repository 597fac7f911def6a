package nm

import (
	"errors"
	"maps"
	"strings"

	"github.com/Wifx/gonetworkmanager/v3"
	"github.com/godbus/dbus/v5"
)

// secretSections are the sections of a profile that can hold secrets.
var secretSections = []string{
	"802-11-wireless-security", "802-1x", "adsl", "cdma", "gsm", "macsec", "ppp", "pppoe", "vpn", "wireguard",
}

// addSecrets puts a profile's secrets into its settings, which come without: an
// update that lacks them deletes them (1.42), whatever NetworkManager's documentation says.
func addSecrets(connection gonetworkmanager.Connection, c gonetworkmanager.ConnectionSettings) error {
	for _, section := range secretSections {
		if c[section] == nil {
			continue
		}
		secrets, err := connection.GetSecrets(section)
		if none(err) {
			continue
		}
		if err != nil {
			return err
		}
		mergeSecrets(c[section], secrets[section])
	}
	return nil
}

// none tells whether an error says that there are no secrets to be had.
func none(err error) bool {
	var derr dbus.Error
	return errors.As(err, &derr) && (strings.HasSuffix(derr.Name, ".NoSecrets") || strings.HasSuffix(derr.Name, ".SettingNotFound"))
}

// mergeSecrets adds secrets to a section. WireGuard's are partly those of its
// peers, in a list of which only the public keys are told again.
func mergeSecrets(section, secrets map[string]any) {
	peers, _ := section["peers"].([]map[string]any)
	secretPeers, listed := secrets["peers"].([]map[string]any)
	for key, value := range secrets {
		if key != "peers" {
			section[key] = value
		}
	}
	if !listed {
		return
	}
	for _, peer := range peers {
		for _, secret := range secretPeers {
			if peer["public-key"] == secret["public-key"] {
				maps.Copy(peer, secret)
			}
		}
	}
}
