package system

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"uplane/test/lab"
)

// byHand is all it takes to make a lane, once uplane.toml has an uplink.
const byHand = "nmcli connection add type bridge ifname ul-steam con-name steam ipv4.method manual ipv4.addresses 10.0.1.1/24"

// newProfileSite is a site whose lanes leave by the Wi-Fi unless they say otherwise.
func newProfileSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t, lab.Plain, lab.Options{})
	s.longer(3 * time.Minute)
	s.sh("mkdir -p /etc/uplane")
	s.write("/etc/uplane/uplane.toml", "uplink = \"wlp6s0\"\n")
	s.run("reload")
	return s
}

// program is one that runs in a lane.
type program struct {
	*site
	lane  string
	node  *lab.Node
	inode uint64
}

// sender starts a program that sends all the time, so much that the kernel does not tell every
// error: see icmp_ratelimit.
func (s *site) sender(lane string) *program {
	s.Helper()
	if _, err := s.world.Host.Start("ip", "netns", "exec", lane, "ping", "-i", "0.02", "-q", lab.WhoamiAddr.String()); err != nil {
		s.Fatal(err)
	}
	return s.program(lane)
}

// program starts one.
func (s *site) program(lane string) *program {
	s.Helper()
	node, err := s.world.Host.Namespace(lane)
	if err != nil {
		s.Fatal(err)
	}
	return &program{s, lane, node, s.inode(lane)}
}

// inode identifies a lane's namespace.
func (s *site) inode(lane string) uint64 {
	s.Helper()
	info, err := os.Stat(s.world.Host.Path("/run/netns/" + lane))
	if err != nil {
		s.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// goesOn checks that the program is still in the lane, and that what it sends leaves by the Wi-Fi.
func (p *program) goesOn() {
	p.Helper()
	if inode := p.inode2(); inode != p.inode {
		p.Fatalf("lane %s has another namespace: %d, not %d", p.lane, inode, p.inode)
	}
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	got, err := p.node.Whoami(ctx)
	if err != nil || got != p.world.Wifi.Public {
		p.Fatalf("the program in lane %s leaves by %v: %v\n%s", p.lane, got, err,
			p.sh("uplane status; ip rule; ip route show table all; ip -d link; ip addr; nft list ruleset; ip netns exec "+p.lane+" ip addr; ip netns exec "+p.lane+" ip route"))
	}
}

func (p *program) inode2() uint64 { p.Helper(); return p.site.inode(p.lane) }

// leavesNot checks that nothing comes back, at once or late. (The kernel sends an error at most every other
// second, so a test can't ask for many.)
func (s *site) leavesNot(lane string) {
	s.Helper()
	if out, err := s.world.Host.RunContext(s.ctx, "ip", "netns", "exec", lane, "ping", "-c2", "-i0.2", "-W1", lab.WhoamiAddr.String()); err == nil {
		s.Fatalf("lane %s still leaves:\n%s", lane, out)
	}
}

func hasSubnet(subnet string) func(lab.LaneStatus) bool {
	return func(l lab.LaneStatus) bool { return l.State == "up" && l.Subnet == subnet }
}

// activations counts how often NetworkManager began to activate a profile.
func (s *site) activations(profile string) int {
	return strings.Count(s.world.Host.Log("NetworkManager"), "Activation: starting connection '"+profile+"'")
}

// peace checks that neither the daemon nor NetworkManager has anything to do for a while.
func (s *site) peace(lane, profile string) {
	s.Helper()
	s.settled(lane)
	time.Sleep(2500 * time.Millisecond) // NetworkManager takes that long to go from an address to "activated"
	s.settled(lane)
	events := s.watchWrites()
	applied, activated := s.uplane.Applied(), s.activations(profile)
	time.Sleep(3 * time.Second)
	if n := s.uplane.Applied() - applied; n != 0 {
		s.Errorf("%d writes in peace:\n%s", n, s.uplane.Log())
	}
	if n := s.activations(profile) - activated; n != 0 {
		s.Errorf("%d activations in peace", n)
	}
	var heard []string
	for _, line := range strings.Split(events(), "\n") {
		// What a bridge says of its ports' states has no qdisc; the kernel's timers make such.
		if link := strings.Contains(line, "> mtu "); line != "" && !strings.HasPrefix(line, "    link/") && (!link || strings.Contains(line, "qdisc")) {
			heard = append(heard, line)
		}
	}
	if len(heard) > 0 {
		s.Errorf("the kernel heard of changes in peace:\n%s", strings.Join(heard, "\n"))
	}
}

// TestProfileVerbs drives a lane by nmcli alone, with a program in it that sends all the time.
func TestProfileVerbs(t *testing.T) {
	s := newProfileSite(t)
	before := s.traces()
	s.sh(byHand)
	s.wait("steam", hasSubnet("10.0.1.0/24"))
	p := s.sender("steam")
	p.goesOn()
	s.peace("steam", "steam")
	p.goesOn()

	for i, verb := range []struct{ script, subnet string }{
		{"nmcli connection up steam", "10.0.1.0/24"},
		{"nmcli connection modify steam ipv4.addresses 10.0.7.1/24", "10.0.1.0/24"}, // not yet
		{"nmcli device reapply ul-steam", "10.0.7.0/24"},
		{"nmcli connection modify steam ipv4.addresses 10.0.9.1/24; nmcli connection up steam", "10.0.9.0/24"},
		{"nmcli connection modify steam ipv4.addresses 10.0.9.254/24; nmcli device reapply ul-steam", "10.0.9.0/24"},
		{"nmcli connection modify steam ipv4.addresses 10.0.1.1/24,10.0.8.1/24; nmcli device reapply ul-steam", "10.0.1.0/24"},
		{"nmcli device modify ul-steam ipv4.addresses 10.0.6.9/30", "10.0.6.8/30"},
		{"nmcli device reapply ul-steam", "10.0.1.0/24"},
	} {
		s.sh(verb.script)
		s.settled("steam")
		s.wait("steam", hasSubnet(verb.subnet))
		s.settled("steam")
		p.goesOn()
		if t.Failed() {
			t.Fatalf("step %d: %s", i, verb.script)
		}
	}
	s.peace("steam", "steam")

	s.sh("nmcli connection down steam")
	st := s.wait("steam", isState("down"))
	if !strings.Contains(st.Reason, "nmcli connection up steam") {
		t.Errorf("down, but why: %s", st.Reason)
	}
	s.withoutTrace(before)
	s.sh("nmcli connection up steam")
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.world.Wifi.Public)
	s.sh("nmcli connection delete steam")
	waitFor(t, func() bool { return s.run("list") == "LANE  STATE  UPLINK  GATEWAY  SUBNET  TABLE  REASON" }, "the lane is gone")
	s.withoutTrace(before)

	// What uplane's own verbs say of such a lane.
	s.sh(byHand)
	s.wait("steam", isState("up"))
	s.run("up", "steam") // it is
	s.requireFailure(s.uplaneTry("down", "steam"), 1, "nmcli connection down steam")
	s.requireFailure(s.uplaneTry("up", "steam", "--mark", "100"), 1, "uplane profile add steam")
	s.requireFailure(s.uplaneTry("remove", "steam"), 1, "uplane profile remove steam")
	s.leavesBy("steam", s.world.Wifi.Public)
}

// TestProfileRestarts has NetworkManager and the daemon end and come back.
func TestProfileRestarts(t *testing.T) {
	s := newProfileSite(t)
	s.sh(byHand)
	s.wait("steam", isState("up"))
	p := s.sender("steam")
	s.peace("steam", "steam")

	s.uplane.Kill()
	events := s.watchWrites()
	s.start()
	s.wait("steam", isState("up"))
	time.Sleep(300 * time.Millisecond)
	if n, got := s.uplane.Applied(), events(); n != 0 || got != "" {
		t.Errorf("%d writes to adopt what did not change:\n%s\n%s", n, s.uplane.Log(), got)
	}
	p.goesOn()

	if err := s.world.RestartNM(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.wait("steam", isState("up"))
	p.goesOn()
	s.world.KillNM()
	p.goesOn()
	s.uplane.Kill()
	s.start() // nobody tells it of profiles
	time.Sleep(300 * time.Millisecond)
	if n := s.uplane.Applied(); n != 0 {
		t.Errorf("%d writes without NetworkManager:\n%s", n, s.uplane.Log())
	}
	p.goesOn()
	if err := s.world.StartNM(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.wait("steam", isState("up"))
	s.peace("steam", "steam")
	p.goesOn()

	// A profile that is down stays so over the daemon's restart, and comes up with NetworkManager's.
	s.sh("nmcli connection down steam")
	s.wait("steam", isState("down"))
	s.uplane.Kill()
	s.start()
	s.wait("steam", isState("down"))
	if err := s.world.RestartNM(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.world.Wifi.Public)

	// It is deleted while the daemon does not look.
	s.uplane.Kill()
	s.sh("nmcli connection delete steam")
	s.start()
	waitFor(t, func() bool {
		return !strings.Contains(s.sh("ip netns; ip rule"), "steam") && !strings.Contains(s.sh("ip rule"), "uplane")
	}, "nothing of it is left")
}

const keyfile = `[connection]
id=my games
uuid=9a8b7c6d-1234-4abc-9def-0123456789ab
type=bridge
interface-name=br-games

[bridge]
stp=false

[ipv4]
method=manual
address1=10.0.3.1/24

[ipv6]
method=disabled

[user]
org.uplane.lane=games
org.uplane.uplink=connection:homewifi, type:gsm
org.uplane.mark=100
`

// TestProfileKeyfile drops a file, as configuration management does.
func TestProfileKeyfile(t *testing.T) {
	s := newProfileSite(t)
	put := func(text string) {
		s.write("/etc/NetworkManager/system-connections/games.nmconnection", text)
		s.sh("chmod 600 /etc/NetworkManager/system-connections/games.nmconnection; nmcli connection reload")
	}
	put(keyfile)
	st := s.wait("games", isState("up"))
	if st.Bridge != "br-games" || st.Subnet != "10.0.3.0/24" {
		t.Errorf("%+v", st)
	}
	p := s.sender("games")
	p.goesOn()
	if rules := s.sh("ip rule"); !strings.Contains(rules, "fwmark 0x64/0xefffffff lookup 100") {
		t.Errorf("no mark:\n%s", rules)
	}
	// nmcli leaves the user keys alone.
	s.sh("nmcli connection modify 'my games' connection.autoconnect-priority 5 ipv4.addresses 10.0.4.1/24; nmcli device reapply br-games")
	s.wait("games", hasSubnet("10.0.4.0/24"))
	p.goesOn()

	// Another uplink moves it at once, and a bad one leaves it as it was and says so.
	put(strings.Replace(keyfile, "connection:homewifi", "ssid:Nowhere", 1))
	s.wait("games", isState("waiting"))
	put(keyfile)
	s.wait("games", isState("up"))
	p.goesOn()
	for text, word := range map[string]string{
		"org.uplane.uplink=wifi:x":                 "unknown kind",
		"org.uplane.uplink=wlp6s0\norg.uplane.x=1": "org.uplane.x: unknown key; use lane, uplink",
		"org.uplane.mark=high":                     `org.uplane.mark: invalid mark "high"`,
	} {
		put(strings.Split(keyfile, "org.uplane.uplink")[0] + text + "\n")
		st := s.wait("games", func(l lab.LaneStatus) bool { return l.State == "degraded" && strings.Contains(l.Reason, word) })
		if !strings.Contains(st.Reason, "profile my games: ") || !strings.Contains(st.Reason, "stays as it was") {
			t.Errorf("%s: %s", text, st.Reason)
		}
		p.goesOn()
	}
	put(keyfile)
	s.wait("games", isState("up"))
	// Another name is another lane; one that no lane can have is none.
	put(strings.Replace(keyfile, "lane=games", "lane=work", 1))
	s.wait("work", isState("up"))
	s.leavesBy("work", s.world.Wifi.Public)
	put(strings.Replace(keyfile, "lane=games", "lane=../work", 1))
	waitFor(t, func() bool { return !strings.Contains(s.run("list"), "work") }, "the lane is gone")
	if log := s.uplane.Log(); strings.Count(log, "invalid lane name") != 1 {
		t.Errorf("the log does not say once why:\n%s", log)
	}
	put(keyfile)
	s.wait("games", isState("up"))
	s.sh("rm /etc/NetworkManager/system-connections/games.nmconnection; nmcli connection reload")
	waitFor(t, func() bool { return !strings.Contains(s.run("list"), "games") }, "the lane is gone")
}

// TestProfileCommands drives lanes by uplane profile.
func TestProfileCommands(t *testing.T) {
	s := newProfileSite(t)
	if got := s.run("profile", "list"); !strings.Contains(got, "no profiles of lanes yet") {
		t.Error(got)
	}
	s.requireFailure(s.uplaneTry("profile", "show", "steam"), 1, "no such profile")
	s.requireFailure(s.uplaneTry("profile", "add", "../x"), 2, "invalid lane name")
	s.requireFailure(s.uplaneTry("profile", "add", "steam", "--uplink", "wifi:x"), 1, "unknown kind")
	s.requireFailure(s.uplaneTry("profile", "add", "steam", "--subnet", "10.0.1.1/24"), 2, "did you mean 10.0.1.0/24")
	s.requireFailure(s.uplaneTry("profile", "limit", "homewifi"), 2, "--all or --none")

	if got := s.run("profile", "add", "steam"); !strings.HasPrefix(got, "lane steam is up by wlp6s0") {
		t.Error(got)
	}
	if got := s.run("profile", "add", "work", "--uplink", "ssid:Nowhere,connection:homewifi", "--mark", "7"); !strings.HasPrefix(got, "lane work is up by wlp6s0") {
		t.Error(got)
	}
	p := s.sender("steam")
	p.goesOn()
	var doc struct {
		Profiles []struct {
			Lane, Name, UUID, Bridge, Address, Problem string
			Uplink                                     []string
			Keys                                       map[string]string
			Active                                     bool
		}
		Networks []struct {
			Name  string
			Lanes []string
		}
	}
	list := func() {
		t.Helper()
		if err := json.Unmarshal([]byte(s.run("profile", "list", "--json")), &doc); err != nil {
			t.Fatal(err)
		}
	}
	list()
	got := fmt.Sprint(doc.Profiles[0].Lane, doc.Profiles[0].Bridge, doc.Profiles[0].Address, doc.Profiles[0].Uplink, doc.Profiles[0].Active,
		doc.Profiles[1].Lane, doc.Profiles[1].Bridge, doc.Profiles[1].Address, doc.Profiles[1].Uplink, doc.Profiles[1].Keys)
	if got != "steamul-steam10.0.1.1/24[wlp6s0] trueworkul-work10.0.2.1/24[ssid:Nowhere connection:homewifi] map[mark:7 uplink:ssid:Nowhere,connection:homewifi]" {
		t.Errorf("%s", got)
	}
	table := s.run("profile", "list")
	if want := "work   work     yes     ul-work   10.0.2.1/24  ssid:Nowhere,connection:homewifi"; !strings.Contains(table, want) {
		t.Errorf("%s", table)
	}
	if got := s.run("profile", "show", "work"); !strings.Contains(got, "profile work is up, for lane work") || !strings.Contains(got, "mark       7") {
		t.Error(got)
	}

	// Change it: another uplink at once, another subnet live.
	s.wire.Stop()
	s.wire = nil // for once a lane leaves by the wire
	s.run("profile", "add", "work", "--uplink", "enp7s0", "--mark", "")
	s.wait("work", func(l lab.LaneStatus) bool { return l.Uplink.Interface == lab.Wired })
	s.leavesBy("work", s.world.Wire.Public)
	s.run("profile", "add", "steam", "--subnet", "10.0.9.0/24")
	s.wait("steam", hasSubnet("10.0.9.0/24"))
	p.goesOn()
	s.peace("steam", "steam")

	s.run("profile", "remove", "work")
	if list := s.run("list"); strings.Contains(list, "work") || strings.Contains(s.sh("nmcli connection"), "work") {
		t.Error(list)
	}
}

// TestProfileAddWaits has NetworkManager take its time with the bridge's address: it looks for others that have it.
func TestProfileAddWaits(t *testing.T) {
	s := newProfileSite(t)
	s.run("profile", "add", "steam")
	s.sh("nmcli connection modify steam ipv4.dad-timeout 1000; nmcli connection down steam")
	s.wait("steam", isState("down"))
	if got := s.run("profile", "add", "steam"); !strings.HasPrefix(got, "lane steam is up by wlp6s0") {
		t.Error(got)
	}
}

// TestProfileLimit switches the Wi-Fi card between the network at home and the phone's.
func TestProfileLimit(t *testing.T) {
	s := newProfileSite(t)
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.run("profile", "add", "backup")
	s.sh("nmcli connection add type ethernet con-name hotspot ifname wlp6s0 autoconnect no ipv4.route-metric 600")
	p := s.program("steam")
	s.run("profile", "limit", "hotspot", "backup")
	if got := s.run("profile", "list"); !strings.Contains(got, "hotspot  no      backup") {
		t.Error(got)
	}
	for range 2 {
		s.sh("nmcli connection up hotspot")
		st := s.wait("steam", isState("waiting"))
		st = s.wait("steam", func(l lab.LaneStatus) bool { return strings.Contains(l.Reason, "serves") })
		if st.Reason != "no uplink: hotspot on wlp6s0 serves only backup" {
			t.Errorf("reason: %s", st.Reason)
		}
		s.leavesNot("steam")
		s.wait("backup", isState("up"))
		s.leavesBy("backup", s.world.Wifi.Public)
		s.sh("nmcli connection up homewifi")
		s.wait("steam", isState("up"))
		s.wait("backup", isState("up"))
		p.goesOn()
	}
	// While it is up.
	s.run("profile", "limit", "homewifi", "--none")
	if st := s.wait("steam", isState("waiting")); !strings.Contains(st.Reason, "homewifi on wlp6s0 serves no lane") {
		t.Error(st.Reason)
	}
	s.wait("backup", isState("waiting"))
	s.leavesNot("steam")
	s.run("profile", "limit", "homewifi", "steam", "backup")
	s.wait("steam", isState("up"))
	s.wait("backup", isState("up"))
	s.run("profile", "limit", "homewifi", "--all")
	s.wait("steam", isState("up"))
	p.goesOn()
	if got := s.run("profile", "list"); strings.Contains(got, "homewifi") {
		t.Error(got)
	}

	// Secrets survive, and what else a profile says.
	s.sh(`nmcli connection add type wifi con-name secret ssid Cafe autoconnect no wifi-sec.key-mgmt wpa-psk wifi-sec.psk hunter22hunter22 ipv6.addresses 2001:db8::5/64 ipv6.method manual ipv4.routes '198.18.0.0/15 192.168.50.1'
	nmcli connection add type ethernet con-name secret1x ifname x autoconnect no 802-1x.eap peap 802-1x.identity me 802-1x.password hunter33 802-1x.phase2-auth mschapv2
	nmcli connection add type vpn con-name secretvpn vpn-type openvpn autoconnect no vpn.data 'a=b,password-flags=0' vpn.secrets password=hunter44 || :
	cat > /etc/NetworkManager/system-connections/wg.nmconnection <<EOF
[connection]
id=secretwg
uuid=1a8b7c6d-1234-4abc-9def-0123456789ab
type=wireguard
interface-name=wg7
autoconnect=false
[wireguard]
private-key=yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
[wireguard-peer.xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=]
endpoint=192.0.2.1:51820
allowed-ips=0.0.0.0/0;
preshared-key=FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=
preshared-key-flags=0
[wireguard-peer.TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=]
allowed-ips=10.77.0.0/16;
[ipv4]
method=manual
address1=10.66.0.2/32
[ipv6]
method=disabled
EOF
	chmod 600 /etc/NetworkManager/system-connections/wg.nmconnection; nmcli connection reload`)
	for _, name := range strings.Fields(s.sh("nmcli -g NAME connection | grep ^secret")) {
		uuid := s.sh("nmcli -g connection.uuid connection show " + name)
		files := "cat $(grep -l " + uuid + " /etc/NetworkManager/system-connections/*) | grep -v -e '^$' -e timestamp -e proxy | sort"
		was := s.sh(files)
		s.run("profile", "limit", name, "steam")
		if now := s.sh(files); !strings.Contains(now, "org.uplane.lanes=steam") {
			t.Error(now)
		}
		s.run("profile", "limit", name, "--all")
		requireSame(t, was, s.sh(files))
		if name == "secretwg" && !strings.Contains(was, "FpCyhws9") || !strings.Contains(was, "hunter") && name != "secretwg" {
			t.Errorf("%s has no secrets to lose:\n%s", name, was)
		}
	}
}

// TestProfileMoves moves a lane between file and profile, with a program in it.
func TestProfileMoves(t *testing.T) {
	s := newProfileSite(t)
	s.run("up", "steam", "--uplink", "connection:homewifi", "--mark", "100")
	p := s.sender("steam")
	p.goesOn()
	for range 2 {
		s.run("profile", "add", "steam")
		if got := s.sh("ls /etc/uplane/lanes.d; ip -o link show ul-steam; uplane profile show steam"); strings.Contains(got, "steam.toml") || strings.Contains(got, "alias") ||
			!strings.Contains(got, "mark       100") || !strings.Contains(got, "uplink     connection:homewifi") || !strings.Contains(got, "10.0.1.1/24") {
			t.Errorf("in the profile:\n%s", got)
		}
		p.goesOn()
		s.run("profile", "remove", "steam", "--keep")
		if got := s.sh("cat /etc/uplane/lanes.d/steam.toml; ip -o link show ul-steam; nmcli -g NAME,DEVICE connection"); !strings.Contains(got, "mark = 100") ||
			!strings.Contains(got, `uplink = "connection:homewifi"`) && !strings.Contains(got, `uplink = ["connection:homewifi"]`) || !strings.Contains(got, "uplane:steam") {
			t.Errorf("in the file:\n%s", got)
		}
		s.wait("steam", hasSubnet("10.0.1.0/24"))
		p.goesOn()
	}

	// By hand: both there are. The profile counts, and the lane says so; nothing else changes hands.
	s.sh(strings.Replace(byHand, "10.0.1.1", "10.0.5.1", 1))
	both := func(l lab.LaneStatus) bool {
		return l.State == "degraded" && l.Subnet == "10.0.5.0/24" && strings.Contains(l.Reason, "/etc/uplane/lanes.d/steam.toml defines it too, and does not count beside profile steam")
	}
	s.wait("steam", both)
	p.goesOn()
	s.peace("steam", "steam")
	s.sh("nmcli connection down steam")
	st := s.wait("steam", isState("waiting"))
	if !strings.Contains(st.Reason, "its profile steam is down in NetworkManager: nmcli connection up steam") {
		t.Error(st.Reason)
	}
	if p.inode2() != p.inode {
		t.Error("the namespace is another one")
	}
	s.sh("nmcli connection up steam")
	s.wait("steam", both)
	p.goesOn()
	s.sh("nmcli connection delete steam")
	s.wait("steam", func(l lab.LaneStatus) bool { return l.State == "up" && l.Reason == "" })
	p.goesOn()
	if got := s.sh("ip -o link show ul-steam"); !strings.Contains(got, "uplane:steam") {
		t.Error(got)
	}
}

// TestProfileTakeover has NetworkManager activate a profile on the bridge that a lane made for itself, while
// no daemon looks.
func TestProfileTakeover(t *testing.T) {
	s := newProfileSite(t)
	before := s.traces()
	s.run("up", "steam")
	p := s.sender("steam")
	s.uplane.Kill()
	s.sh("nmcli connection add type bridge ifname ul-steam con-name steam autoconnect no ipv4.method manual ipv4.addresses 10.0.5.1/24; nmcli connection up steam")
	s.start()
	s.wait("steam", func(l lab.LaneStatus) bool { return l.Subnet == "10.0.5.0/24" })
	p.goesOn()
	if got := s.sh("ip -d link show ul-steam"); strings.Contains(got, "alias uplane:") || strings.Contains(got, "group 117") {
		t.Error(got)
	}
	s.peace("steam", "steam")
	p.goesOn()
	s.run("remove", "steam") // the file
	s.wait("steam", isState("up"))
	p.goesOn()
	s.run("profile", "remove", "steam")
	s.withoutTrace(before)
}

// TestProfilesOfOneLane has two profiles for one lane, of which one is up.
func TestProfilesOfOneLane(t *testing.T) {
	s := newProfileSite(t)
	s.run("profile", "add", "steam")
	p := s.sender("steam")
	s.sh("nmcli connection add type bridge ifname ul-steam con-name other autoconnect no ipv4.method manual ipv4.addresses 10.0.8.1/24")
	for range 2 {
		s.sh("nmcli connection up other")
		s.wait("steam", hasSubnet("10.0.8.0/24"))
		p.goesOn()
		s.sh("nmcli connection up steam")
		s.wait("steam", hasSubnet("10.0.1.0/24"))
		p.goesOn()
	}
	// A third, on another bridge, and up as well.
	s.sh("nmcli connection clone steam third; nmcli connection modify third connection.interface-name br3 ipv4.addresses 10.0.4.1/24; nmcli connection up third")
	st := s.wait("steam", isState("degraded"))
	if !strings.Contains(st.Reason, "is active for it too, and does not count while") {
		t.Error(st.Reason)
	}
	s.sh("nmcli connection delete third")
	s.wait("steam", hasSubnet("10.0.1.0/24"))
	s.settled("steam")
	s.leavesBy("steam", s.world.Wifi.Public)
}

// TestProfileShared has NetworkManager serve a lane's bridge itself. The lane stays closed, and says how to mend that.
func TestProfileShared(t *testing.T) {
	s := newProfileSite(t)
	for _, addresses := range []string{"ipv4.addresses 10.0.1.1/24", ""} {
		s.sh("nmcli connection add type bridge ifname ul-steam con-name 'my lane' ipv4.method shared " + addresses)
		st := s.wait("steam", func(l lab.LaneStatus) bool {
			return l.State == "degraded" && strings.HasPrefix(l.Reason, "profile my lane has ipv4.method shared")
		})
		_, mend, _ := strings.Cut(st.Reason, "beside us: ")
		s.leavesBy("steam", s.world.Wifi.Public)
		s.sh("nmcli device disconnect wlp6s0")
		s.wait("steam", isState("waiting"))
		s.leavesNot("steam")
		s.sh("nmcli connection up homewifi")
		s.wait("steam", isState("degraded"))
		s.leavesBy("steam", s.world.Wifi.Public)
		s.sh(mend)
		if st := s.wait("steam", hasSubnet("10.0.1.0/24")); st.Profile != "my lane" {
			t.Errorf("mended, it is %+v", st)
		}
		s.leavesBy("steam", s.world.Wifi.Public)
		s.sh("nmcli connection delete 'my lane'")
		waitFor(t, func() bool { return !strings.Contains(s.run("list"), "steam") }, "the lane is gone")
	}
}

// TestProfileProblems has profiles that no lane can live on.
func TestProfileProblems(t *testing.T) {
	s := newProfileSite(t)
	s.sh("nmcli connection add type bridge ifname ul-steam con-name steam ipv4.method disabled ipv6.method disabled")
	st := s.wait("steam", isState("error"))
	if !strings.Contains(st.Reason, "bridge ul-steam has no IPv4 address: use nmcli connection modify") {
		t.Error(st.Reason)
	}
	for address, word := range map[string]string{"192.168.50.9/24": "overlaps with 192.168.50.", "10.0.1.0/24": "no host's address", "10.0.1.1/32": "the prefix length"} {
		s.sh("nmcli connection modify steam ipv4.method manual ipv4.addresses " + address + "; nmcli connection up steam")
		s.wait("steam", func(l lab.LaneStatus) bool { return l.State == "error" && strings.Contains(l.Reason, word) })
	}
	s.sh("nmcli connection modify steam ipv4.addresses 10.0.1.1/24; nmcli connection up steam")
	s.wait("steam", isState("up"))
	p := s.sender("steam")
	p.goesOn()
	s.sh("ip addr del 10.0.1.1/24 dev ul-steam")
	st = s.wait("steam", isState("degraded"))
	if !strings.Contains(st.Reason, "nmcli device reapply ul-steam") {
		t.Error(st.Reason)
	}
	s.sh("nmcli connection up steam")
	s.wait("steam", isState("up"))
	p.goesOn()
	// Somebody deletes the bridge: for NetworkManager the profile is down then.
	s.sh("ip link del ul-steam")
	s.wait("steam", isState("down"))
	if lines := strings.Split(s.run("list"), "\n"); slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "error") }) {
		t.Error(lines)
	}
}
