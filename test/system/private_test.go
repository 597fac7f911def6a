package system

import (
	"fmt"
	"strings"
	"testing"

	"uplane/test/lab"
)

// private is a profile of one user's own, as that user's nmcli or applet makes it.
const private = `[connection]
id=%s
uuid=%s
type=%s
interface-name=%s
autoconnect=false
permissions=user:root:;

[ipv4]
%s

[user]
%s
`

const (
	bridgeUUID = "11111111-2222-4333-8444-000000000001" // before any that NetworkManager makes up
	wireUUID   = "11111111-2222-4333-8444-000000000002"
)

// TestProfilePrivate has a user without rights make profiles that ask for root's lanes, and attract them.
func TestProfilePrivate(t *testing.T) {
	s := newProfileSite(t)
	add := func(name string, args ...any) {
		t.Helper()
		path := "/etc/NetworkManager/system-connections/" + name + ".nmconnection"
		s.write(path, fmt.Sprintf(private, args...))
		s.sh("chmod 600 " + path + "; nmcli connection load " + path)
	}
	s.run("up", "steam", "--uplink", "connection:homewifi")
	s.run("profile", "add", "work", "--uplink", "connection:homewifi")
	steam, work := s.sender("steam"), s.sender("work")
	for i, lane := range []string{"steam", "work", "new"} {
		add("evil", "evil", bridgeUUID, "bridge", []string{"br-evil", "br-evil", "ul-new"}[i], "method=manual\naddress1=10.0.66.1/24", "org.uplane.uplink=enp7s0"+
			[]string{"\norg.uplane.lane=steam", "\norg.uplane.lane=work", ""}[i])
		s.sh("nmcli connection up " + bridgeUUID)
		waitFor(t, func() bool { return strings.Count(s.uplane.Log(), "a private profile gets no lane") == i+1 }, "the log says that "+lane+" is refused")
		steam.goesOn()
		work.goesOn()
		if list := s.run("list"); strings.Contains(list, "new") || strings.Contains(list, "10.0.66") {
			t.Error(list)
		}
		s.sh("nmcli connection delete " + bridgeUUID)
	}

	// A namesake of the network, on the wire.
	add("namesake", "homewifi", wireUUID, "ethernet", lab.Wired, "method=auto", "org.uplane.lanes=steam,work")
	s.sh("nmcli connection up " + wireUUID)
	steam.goesOn()
	s.sh("nmcli device disconnect " + lab.WiFi)
	s.wait("steam", func(l lab.LaneStatus) bool {
		return l.State == "waiting" && strings.Contains(l.Reason, "connection:homewifi matches only a private profile on enp7s0")
	})
	s.leavesNot("steam")
	s.leavesNot("work")
	s.sh("nmcli connection up uuid $(nmcli -g connection.uuid,connection.permissions connection show homewifi | grep -v -e permissions -e " + wireUUID + " -e user: | head -1) ifname wlp6s0")
	s.wait("steam", isState("up"))
	steam.goesOn()
	work.goesOn()
}

// TestProfileOfAlice has a real user, whom polkit lets make profiles of her own, try it.
func TestProfileOfAlice(t *testing.T) {
	t.Parallel()
	ctx, m := lab.StartMachine(t, lab.Bookworm, lab.Plain, lab.Options{})
	if err := m.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	u, err := m.Install(bin)
	if err == nil {
		err = u.Start(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	run := func(who interface {
		Run(name string, args ...string) (string, error)
	}, script string) string {
		t.Helper()
		out, err := who.Run("sh", "-ec", script)
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return out
	}
	run(m.Host, "uplane up steam --uplink connection:homewifi")
	run(m.Alice, `busctl call org.freedesktop.NetworkManager /org/freedesktop/NetworkManager/Settings org.freedesktop.NetworkManager.Settings \
		AddConnection 'a{sa{sv}}' 4 \
		connection 5 id s evil uuid s `+bridgeUUID+` type s bridge interface-name s br-evil permissions as 1 user:alice: \
		ipv4 2 method s manual address-data 'aa{sv}' 1 2 address s 10.0.66.1 prefix u 24 \
		ipv6 1 method s disabled \
		user 1 data 'a{ss}' 2 org.uplane.lane steam org.uplane.uplink enp7s0
		nmcli connection up `+bridgeUUID+`
		nmcli connection add type ethernet con-name homewifi ifname enp7s0 connection.permissions user:alice connection.uuid `+wireUUID+`
		nmcli connection up `+wireUUID)
	waitFor(t, func() bool { return strings.Contains(u.Log(), "a private profile gets no lane") }, "the log says so")
	if got := run(m.Host, "uplane list"); !strings.Contains(got, "up     wlp6s0") || strings.Contains(got, "10.0.66") {
		t.Error(got)
	}
	// Others don't see her profiles, and can still list those of lanes.
	if got := run(m.Bob, "uplane profile list"); strings.Contains(got, "evil") {
		t.Error(got)
	}
}
