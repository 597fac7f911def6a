package system

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"uplane/internal/api"
	"uplane/test/lab"
)

const laneDir = "/etc/uplane/lanes.d/"

// TestBadFiles gives the daemon files that no lane can be made of. Each is one clear error, and
// touches nothing.
func TestBadFiles(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.run("up", "good", "--uplink", lab.WiFi, "--table", "300", "--mark", "7", "--bridge", "br7")
	s.writeLane("bad", "uplink = \"wlp6s0\"\nsubnet = \"10.0.50.0/24\"\n")
	s.run("reload")
	s.wait("bad", isState("up"))
	s.leavesBy("bad", s.world.Wifi.Public)
	table := s.sh("ip rule; ip -4 route show table all; nft -s list ruleset; ip netns; ip -o link")
	writes := s.uplane.Applied()

	const sound = "uplink = \"wlp6s0\"\n"
	for _, tt := range []struct{ text, want string }{
		{sound + "colour = \"red\"\n", `bad.toml:2: colour: unknown key; use uplink, subnet, table, mark, bridge, dns, allow, ipv6, enabled`},
		{sound + "subnett = \"10.0.1.0/24\"\n", `bad.toml:2: subnett: unknown key; use uplink, subnet,`},
		{"uplink = 7\n", `bad.toml:1: uplink: a number is of the wrong type; use a selector such as "wlp6s0"`},
		{"uplink = []\n", `bad.toml:1: uplink: the list is empty; use a selector`},
		{"uplink = \"wifi:x\"\n", `bad.toml:1: uplink: invalid uplink "wifi:x": unknown kind "wifi"; use interface, connection, uuid, ssid or type`},
		{"table = 100\n", `bad.toml: uplink: missing here`},
		{sound + "\n# comment\nsubnet = \"10.0.1.1/24\"\n", `bad.toml:4: subnet: invalid subnet 10.0.1.1/24: host bits are set; did you mean 10.0.1.0/24?`},
		{sound + "subnet = \"2001:db8::/64\"\n", `bad.toml:2: subnet: `},
		{sound + "subnet = \"10.0.1.0/31\"\n", `bad.toml:2: subnet: invalid subnet 10.0.1.0/31: the prefix length must be 8 to 30`},
		{sound + "table = 254\n", `bad.toml:2: table: invalid table 254: use 1 to 4294967295 except 253-255`},
		{sound + "table = -1\n", `bad.toml:2: table: -1 is out of range; use a number from 1 to 4294967295`},
		{sound + "table = 4294967296\n", `bad.toml:2: table: 4294967296 is out of range; use a number`},
		{sound + "table = \"main\"\n", `bad.toml:2: table: a string is of the wrong type; use a number`},
		{sound + "mark = 0\n", `bad.toml:2: mark: invalid mark 0: leave the key out for no mark`},
		{sound + "mark = 1.5\n", `bad.toml:2: mark: a fraction is of the wrong type; use a number`},
		{sound + "bridge = \"name-with-16-xxx\"\n", `bad.toml:2: bridge: invalid interface name "name-with-16-xxx": use 1 to 15`},
		{sound + "dns = [\"127.0.0.1\"]\n", `bad.toml:2: dns: invalid address 127.0.0.1: a lane has its own loopback`},
		{sound + "dns = \"dns.example\"\n", `bad.toml:2: dns: invalid address "dns.example"; use a list of addresses`},
		{sound + "allow = [\"0.0.0.0/0\"]\n", `bad.toml:2: allow: invalid network 0.0.0.0/0: so much would lead around the lane`},
		{sound + "ipv6 = \"on\"\n", `bad.toml:2: ipv6: invalid value "on"; use "auto" or "off"`},
		{sound + "enabled = \"no\"\n", `bad.toml:2: enabled: a string is of the wrong type; use true or false`},
		{sound + "enabled = true\nenabled = false\n", `bad.toml:3: enabled: duplicate key; it is in line 2 already`},
		{sound + "[lane]\nmark = 1\n", `bad.toml:2: lane: a table has no meaning here`},
		{sound + "firewall = \"nftables\"\n", `bad.toml:2: firewall: it is for all lanes together; set it in uplane.toml`},
		{"uplink = wlp6s0\n", `bad.toml:1: uplink: invalid TOML`},
		{"\x00\x01\x7fELF\xff\xfe\x00", `bad.toml:1: invalid TOML`},
		{strings.Repeat("# long\n", 10000), `bad.toml: `},
		// Clashes name both files.
		{sound + "table = 300\n", `bad.toml:2: table: 300 is the table of lane good (/etc/uplane/lanes.d/good.toml:`},
		{sound + "mark = 7\n", `bad.toml:2: mark: 7 is the mark of lane good (`},
		{sound + "bridge = \"br7\"\n", `bad.toml:2: bridge: br7 is the bridge of lane good (`},
	} {
		// Of two that clash the later by name is in the wrong, so good stays good: it is the file of "bad" that is blamed.
		name := "bad"
		if strings.Contains(tt.want, "of lane good") {
			name = "zbad"
			tt.want = strings.Replace(tt.want, "bad.toml", "zbad.toml", 1)
			s.writeLane("bad", sound+"subnet = \"10.0.50.0/24\"\n")
		}
		s.writeLane(name, tt.text)
		r := s.uplaneTry("reload")
		lines := strings.Split(strings.TrimSpace(r.err), "\n")
		if r.code != 1 || len(lines) < 2 || !strings.HasPrefix(lines[0], "uplane: "+laneDir+tt.want) {
			t.Errorf("%q\nis reported as\n%s\nnot\nuplane: %s", tt.text, r.err, laneDir+tt.want)
		}
		if len(lines) != 2 || len(r.err) > 500 {
			t.Errorf("%.100q is not one error:\n%s", tt.text, r.err)
		}
		st, err := s.uplane.Lane(s.ctx, name)
		if name == "bad" && (err != nil || st.State != "degraded" || !strings.Contains(st.Reason, tt.want[:8])) {
			t.Errorf("%.100q leaves the lane %+v: %v", tt.text, st, err)
		}
		if name == "zbad" {
			if err != nil || st.State != "error" {
				t.Errorf("%.100q leaves the lane %+v: %v", tt.text, st, err)
			}
			s.sh("rm " + laneDir + "zbad.toml")
		}
	}
	if n := s.uplane.Applied() - writes; n != 0 {
		t.Errorf("%d writes because of bad files", n)
	}
	if now := s.sh("ip rule; ip -4 route show table all; nft -s list ruleset; ip netns; ip -o link"); now != table {
		requireSame(t, table, now)
	}

	// Files that can't be read.
	for name, script := range map[string]string{
		"a folder":          "rm bad.toml; mkdir bad.toml",
		"a device":          "rm -r bad.toml; ln -s /dev/zero bad.toml",
		"a dangling link":   "rm bad.toml; ln -s nowhere bad.toml",
		"a loop":            "rm bad.toml; ln -s bad.toml bad.toml",
		"a pipe":            "rm bad.toml; mkfifo bad.toml",
		"somebody else's":   "rm bad.toml; echo 'uplink = \"enp7s0\"' > bad.toml; chown 1000 bad.toml",
		"world-writable":    "rm bad.toml; echo 'uplink = \"enp7s0\"' > bad.toml; chmod 666 bad.toml",
		"a name of no lane": "rm bad.toml; echo 'uplink = \"enp7s0\"' > 'bad.toml'; chown 1000 bad.toml; mv bad.toml bad.toml.x; ln -s bad.toml.x bad.toml",
	} {
		s.sh("cd " + laneDir + "; rm -rf bad.toml bad.toml.x; touch bad.toml; " + script)
		s.requireFailure(s.uplaneTry("reload"), 1, "uplane: "+laneDir+"bad.toml: ", "1 problems")
		if st, err := s.uplane.Lane(s.ctx, "bad"); err != nil || st.State != "degraded" || st.Uplink.Interface != lab.WiFi {
			t.Errorf("%s leaves the lane %+v: %v", name, st, err)
		}
	}
	s.leavesBy("bad", s.world.Wifi.Public)
	s.leavesBy("good", s.world.Wifi.Public)

	// What is broken stays as it was, also for the next daemon.
	s.uplane.Kill()
	s.start()
	s.wait("bad", isState("degraded"))
	s.wait("good", isState("up"))
	if n := s.uplane.Applied(); n != 0 {
		t.Errorf("%d writes at a start with a bad file", n)
	}
	s.leavesBy("bad", s.world.Wifi.Public)
	// It still follows its uplink.
	s.sh("nmcli device disconnect wlp6s0")
	s.wait("bad", isState("waiting"))
	s.sh("nmcli connection up homewifi")
	s.wait("bad", isState("degraded"))

	// A bad uplane.toml breaks no lane either.
	s.sh("rm -rf " + laneDir + "bad.toml*")
	s.writeLane("bad", sound+"subnet = \"10.0.50.0/24\"\n")
	s.run("reload")
	s.wait("bad", isState("up"))
	writes = s.uplane.Applied()
	s.write("/etc/uplane/uplane.toml", "table = 5\nfirewall = \"pf\"\n")
	s.requireFailure(s.uplaneTry("reload"), 1, "/etc/uplane/uplane.toml:1: table: not a default", `uplane.toml:2: firewall: invalid value "pf"; use "auto", "iptables" or "nftables"`)
	s.leavesBy("good", s.world.Wifi.Public)
	if n := s.uplane.Applied() - writes; n != 0 {
		t.Errorf("%d writes because of a bad uplane.toml", n)
	}
	s.sh("rm /etc/uplane/uplane.toml")
	s.run("reload")

	// Mended, it is as before; removed by hand, it is gone.
	s.sh("rm " + laneDir + "bad.toml")
	s.run("reload")
	s.requireFailure(s.uplaneTry("status", "bad"), 1, "bad: no such lane")
	if got := s.sh("ip netns; ip rule"); strings.Contains(got, "bad") || strings.Contains(got, "10.0.50.0") {
		t.Errorf("a lane without a file stays:\n%s", got)
	}
	s.leavesBy("good", s.world.Wifi.Public)
}

// TestDefaults has uplane.toml say what lanes do not.
func TestDefaults(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.sh("mkdir -p /etc/uplane")
	s.write("/etc/uplane/uplane.toml", "uplink = \"connection:homewifi\"\nbridge = false\nenabled = false\n")
	s.run("reload")
	s.run("up", "steam")
	s.leavesBy("steam", s.world.Wifi.Public)
	if got := s.numbers("steam"); got != "10.0.1.0/24 100 " {
		t.Errorf("steam has %q", got)
	}
	s.write("/etc/uplane/uplane.toml", "uplink = \"connection:wired\"\n")
	s.run("reload")
	s.leavesBy("steam", s.world.Wire.Public)
}

// TestGarbage calls the daemon as no client of ours does.
func TestGarbage(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.run("up", "steam", "--uplink", lab.WiFi)
	writes, files := s.uplane.Applied(), s.sh("ls -R /etc/uplane; cat "+laneDir+"*")
	conn, err := dbus.Connect(s.world.Host.DBusAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	object := conn.Object(api.Name, api.Path)
	fails := func(what, method string, args ...any) {
		t.Helper()
		ctx, cancel := context.WithTimeout(s.ctx, lab.QuickRenewal*5)
		defer cancel()
		err := object.CallWithContext(ctx, api.ManagerInterface+"."+method, 0, args...).Err
		if err == nil || ctx.Err() != nil {
			t.Errorf("%s: %s answers %v", what, method, err)
		} else if len(err.Error()) > 1000 {
			t.Errorf("%s: %s answers with %d bytes: %.200s", what, method, len(err.Error()), err)
		}
	}
	huge := strings.Repeat("x", 1<<20)
	for _, name := range []string{
		"", ".", "..", "../x", "../../etc/passwd", "/etc/passwd", "a/b", "a\nb", "-x", "_x", "X", "a b", "a;reboot", "$(reboot)",
		"ä", strings.Repeat("a", 33), huge, "steam.toml",
	} {
		what := fmt.Sprintf("lane %.20q", name)
		fails(what, "Up", name, map[string]dbus.Variant{"uplink": dbus.MakeVariant("wlp6s0")})
		for _, method := range []string{"Down", "Remove", "Plan"} {
			fails(what, method, name)
		}
	}
	type pair struct {
		A string
		B int32
	}
	for key, values := range map[string][]any{
		"uplink": {7, true, 1.5, []int32{1}, [][]string{{"a"}}, map[string]string{"a": "b"}, pair{"a", 1}, []dbus.Variant{dbus.MakeVariant("wlp6s0")}, huge,
			"", "wlp6s0\nmark = 1", "wlp6s0\"", []string{}, make([]string, 1000), []byte("wlp6s0"), dbus.ObjectPath("/a"), dbus.ParseSignatureMust("s")},
		"subnet":  {7, "10.0.1.0", "x", huge, []string{"10.0.1.0/24"}},
		"table":   {"100", int64(-1), uint64(1 << 40), 1.5, false, []uint32{1}},
		"mark":    {"1", uint32(0), int16(-1)},
		"bridge":  {uint32(1), huge, "a/b", ""},
		"dns":     {"x", uint32(1), []string{"127.0.0.1"}, []string{"1.1.1.1", "1.1.1.1"}},
		"allow":   {"0.0.0.0/0", []string{"10.0.0.0/7"}},
		"ipv6":    {"", true},
		"enabled": {"true", uint32(1)},
		"colour":  {"red"}, "": {""}, "a = 1\nmark": {uint32(1)}, huge: {""}, "firewall": {"nftables"},
	} {
		for _, v := range values {
			what := fmt.Sprintf("%.20s = %.40v", key, v)
			fails(what, "Up", "steam", map[string]dbus.Variant{key: dbus.MakeVariant(v)})
			fails(what, "Up", "fresh", map[string]dbus.Variant{"uplink": dbus.MakeVariant("wlp6s0"), key: dbus.MakeVariant(v)})
		}
	}
	fails("no arguments", "Up")
	fails("too many arguments", "Down", "steam", "steam")
	fails("a wrong type", "Down", uint32(7))
	fails("a wrong type", "Up", "steam", []string{"uplink"})
	fails("no method", "Explode")

	if n := s.uplane.Applied() - writes; n != 0 {
		t.Errorf("%d writes because of garbage", n)
	}
	if now := s.sh("ls -R /etc/uplane; cat " + laneDir + "*"); now != files {
		t.Errorf("files were\n%s\nand are\n%s", files, now)
	}
	if log := s.uplane.Log(); len(log) > 100<<10 {
		t.Errorf("%d bytes of log", len(log))
	}
	s.wait("steam", isState("up"))
	s.leavesBy("steam", s.world.Wifi.Public)
}
