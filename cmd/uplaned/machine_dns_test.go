package main

import (
	"testing"

	"uplane/internal/lab"
)

// resolvers are what Debian has that looks names up, and what those ask.
var resolvers = []string{
	"systemd-resolved", "libnss-resolve", "nscd", "avahi-daemon", "libnss-mdns", // on the host
	"musl-tools", "curl", "bind9-dnsutils", "chromium-headless-shell",
}

func TestMachineDNS(t *testing.T) {
	t.Parallel()
	lab.RequireRoot(t)
	for _, release := range []lab.Debian{lab.Bookworm, lab.Trixie} {
		t.Run(string(release), func(t *testing.T) {
			t.Parallel()
			_, m := lab.StartMachine(t, release, lab.Plain, lab.Options{Packages: resolvers})
			out, err := m.Host.Run("sh", "-c", "cat /etc/nsswitch.conf; ls -la /etc/resolv.conf /run/nscd /run/systemd/resolve /run/avahi-daemon; systemctl list-units --type=service; nscd --version; du -sh /usr")
			t.Logf("%s %v", out, err)
		})
	}
}
