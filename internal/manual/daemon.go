package manual

import "github.com/spf13/pflag"

// Daemon is uplaned(8).
func Daemon(flags *pflag.FlagSet, release string) string {
	p := newPage("uplaned", 8, release, "the daemon that keeps Uplane's lanes true")
	p.section("Synopsis")
	p.verbatim("uplaned [OPTION...]")
	p.section("Description")
	p.text(`uplaned follows NetworkManager and the kernel, and keeps every lane as its file or profile says: namespace, links,
addresses, routing table, rules, firewall entries and DNS. It serves the D-Bus API that uplane(1) uses. systemd starts it as uplaned.service,
which is ready when every lane is as it shall be, or waits for its uplink.

Lanes outlive it. One that is stopped or killed leaves them as they are, and the next one adopts them without a write. Without it
nothing is noticed, and lanes stay closed; **uplane down --all** takes them down.`)
	p.section("Options")
	p.flags(flags)
	p.section("Signals")
	p.item("SIGHUP", "Read the lane files again.")
	p.item("SIGTERM, SIGINT", "End; the lanes stay.")
	p.section("Environment")
	p.item("DBUS_SYSTEM_BUS_ADDRESS", "The bus, if it is not the system's.")
	p.section("Files")
	p.item("/etc/uplane", "The configuration: see uplane.toml(5).")
	p.item("/var/lib/uplane, /run/uplane", "What lanes were given; and what was changed on the host, until the next boot.")
	return p.seeAlso("uplane(1), uplane.toml(5), org.uplane.Uplane1(5), NetworkManager(8)")
}
