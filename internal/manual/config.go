package manual

import (
	"uplane/internal/config"
)

// Config is uplane.toml(5), from the keys that the parser knows.
func Config(release string) string {
	p := newPage("uplane.toml", 5, release, "lanes and defaults for all of them")
	p.section("Synopsis")
	p.verbatim("/etc/uplane/lanes.d/LANE.toml\n/run/uplane/lanes.d/LANE.toml\n/usr/lib/uplane/lanes.d/LANE.toml\n/etc/uplane/uplane.toml")
	p.section("Description")
	p.text(`A lane is one file in TOML, whose name is the lane's. Of files of the same name the first in the order above counts; an empty one
masks the others. uplane.toml holds defaults for all lanes. **uplane up** writes such files, or write them yourself and say **uplane reload**.

Files must belong to root, and nobody else may write to them. An unknown key, a wrong value or a clash with another lane is an error
that names file and line; its lane stays as it was, and all others work.`)
	p.section("Keys")
	for _, k := range config.Reference() {
		p.item(k.Name, k.About+" Default: "+k.Default+". Use "+k.Want+"."+only(k))
	}
	p.section("Examples")
	p.text("Leave by the Wi-Fi at home, or else by mobile broadband, and reach the printer's network, too:")
	p.verbatim("# /etc/uplane/lanes.d/steam.toml\nuplink = [\"ssid:Home\", \"type:gsm\"]\nallow  = [\"192.168.10.0/24\"]")
	return p.seeAlso("uplane(1), uplaned(8)")
}

func only(k config.Key) string {
	switch {
	case k.Defaults && !k.Lanes:
		return " Only in uplane.toml."
	case !k.Defaults:
		return " Not in uplane.toml."
	}
	return ""
}
