package config

// Key is what there is to know about a key, for the manual.
type Key struct {
	Name, About, Default, Want string
	Lanes, Defaults            bool // which files may have it: a lane's, uplane.toml
}

// Reference returns all keys, in the order in which they are written.
func Reference() []Key {
	var out []Key
	for _, k := range keys {
		out = append(out, Key{k.name, k.about, k.absent, k.want, true, k.own == ""})
	}
	return append(out, Key{firewall.name, firewall.about, firewall.absent, firewall.want, false, true})
}
