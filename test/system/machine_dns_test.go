package system

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"uplane/test/lab"
)

// resolverPackages have what Debian looks names up with, and what that asks.
var resolverPackages = []string{
	"systemd-resolved", "libnss-resolve", "nscd", "avahi-daemon", "libnss-mdns", // on the host
	"gcc", "musl-tools", "libc6-dev", "curl", "bind9-dnsutils", "chromium-headless-shell",
}

// TestMachineDNS looks names up on a booted Debian whose own resolvers are all there: systemd-resolved, nscd and Avahi. Whatever looks
// them up, in the lane its server is asked, by its uplink.
func TestMachineDNS(t *testing.T) {
	t.Parallel()
	lab.RequireRoot(t)
	onDebians(t, func(t *testing.T, release lab.Debian) {
		options := wired
		options.Packages = resolverPackages
		s := newDNSTest(t, newMachineTestWith(t, release, options))
		s.step("outside", s.resolvesOutside)
		s.step("in the lane", s.resolvesInLane)
		s.step("caches", s.asksNoCache)
		s.step("names of the local network", s.asksNoNeighbours)
		s.step("by TCP", s.asksByTCP)
		s.step("search domains", s.searches)
		s.step("by D-Bus", s.asksByBus)
		s.step("other servers", s.followsServers)
		s.step("the host's files are replaced", s.keepsItsFiles)
		s.step("no resolv.conf", s.needsResolvConf)
		s.step("a server that the wire has too", s.asksByItsTable)
		s.step("no Wi-Fi", s.failsClosed)
	})
}

// dnsTest knows by their first letters which names were meant for whom.
type dnsTest struct {
	*machineTest
	leaks *lab.Capture // packets on the wire with names that were asked in the lane
	count int
}

// Names asked in the lane begin with laneName, those asked outside with hostName.
const laneName, hostName = "uplinlane", "upoutside"

func newDNSTest(t *testing.T, m *machineTest) *dnsTest {
	s := &dnsTest{machineTest: m}
	s.longer(6 * time.Minute)
	// systemd-resolved would ask the servers of both, by both.
	s.sh(`nmcli connection modify wired ipv4.dns-priority -50; nmcli connection up wired
		sed -i 's/^hosts:.*/hosts: files mymachines resolve [!UNAVAIL=return] mdns4_minimal [NOTFOUND=return] dns/' /etc/nsswitch.conf
		systemctl is-active systemd-resolved nscd avahi-daemon; readlink /etc/resolv.conf | grep stub-resolv`)
	waitFor(t, func() bool { return s.sh("resolvectl dns wlp6s0") == "Link 3 (wlp6s0):" }, "systemd-resolved asks the wire's servers only")
	s.build()
	var err error
	s.leaks, err = s.m.Host.Capture(lab.Wired, func(p lab.Packet) bool { return bytes.Contains(bytes.ToLower(p.Frame), []byte(laneName)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if leaked, err := s.leaks.Stop(); err != nil || len(leaked) > 0 {
			t.Errorf("by the wire left %d packets with names that were asked in the lane: %v %v", len(leaked), leaked, err)
		}
		for _, q := range s.m.Inet.Queries() {
			if strings.Contains(q.Name, laneName) && q.From.Addr() != s.m.Wifi.Public {
				t.Errorf("a name of the lane's came by the wrong way: %+v", q)
			}
		}
	})
	return s
}

// build makes programs that look up what they read: by Go's own resolver, by the C library's, and by musl.
func (s *dnsTest) build() {
	for name, env := range map[string]string{"ask-go": "CGO_ENABLED=0", "ask-cgo": "CGO_ENABLED=1"} {
		out := filepath.Join(s.TempDir(), name)
		c := exec.Command("go", "build", "-tags=netcgo", "-o", out, "./testdata/ask")
		if env == "CGO_ENABLED=0" {
			c = exec.Command("go", "build", "-o", out, "./testdata/ask")
		}
		c.Env = append(os.Environ(), env)
		if said, err := c.CombinedOutput(); err != nil {
			s.Fatalf("%v: %s", err, said)
		}
		program, err := os.ReadFile(out)
		if err != nil {
			s.Fatal(err)
		}
		s.write("/usr/local/bin/"+name, string(program))
	}
	source, err := os.ReadFile("testdata/ask.c")
	if err != nil {
		s.Fatal(err)
	}
	s.write("/usr/local/src/ask.c", string(source))
	s.sh(`cd /usr/local/bin; gcc -o ask-glibc ../src/ask.c; musl-gcc -static -o ask-musl ../src/ask.c; chmod 755 ask-*`)
}

// asking are programs that look up their input's lines for as long as there are any.
var asking = []string{"ask-glibc", "ask-musl", "ask-go", "ask-cgo"}

// resolvers are all ways to look up NAME.
func resolvers() map[string]string {
	all := map[string]string{
		"hosts": "getent hosts NAME", "ahosts": "getent ahosts NAME", "ahostsv4": "getent ahostsv4 NAME",
		"python": `python3 -c 'import socket; print([a[4][0] for a in socket.getaddrinfo("NAME", 80)])'`,
		"dig":    "dig +short +tries=1 +timeout=3 NAME",
		"curl":   "curl --silent --show-error --max-time 10 --verbose http://NAME/ 2>&1",
		"chromium": "chromium-headless-shell --no-sandbox --disable-gpu --user-data-dir=$(mktemp -d) --timeout=20000 " +
			"--dump-dom http://NAME/ 2>/dev/null",
	}
	for _, program := range asking {
		all[program] = "echo NAME | " + program
	}
	return all
}

// name is one that nobody has asked for.
func (s *dnsTest) name(first string) string {
	s.count++
	return fmt.Sprintf("%s%d.%s", first, s.count, lab.SplitDomain)
}

// ways are how programs get into a lane, given the program's script.
func (s *dnsTest) ways() map[string]func(script string) result {
	quoted := func(script string) string { return "'" + strings.ReplaceAll(script, "'", `'\''`) + "'" }
	s.write("/etc/systemd/system/ask.service", "[Service]\nType=oneshot\nExecStart=sh -c 'sh /run/ask >/run/answer 2>&1 || :'\n")
	s.sh("uplane adopt ask.service steam; systemctl daemon-reload")
	return map[string]func(string) result{
		"alice": func(script string) result { return s.as(s.m.Alice, "uplane run steam -- sh -c "+quoted(script)) },
		"root":  func(script string) result { return s.shTry("uplane run steam -- sh -c " + quoted(script)) },
		"service": func(script string) result {
			s.write("/run/ask", script)
			r := s.shTry("systemctl start ask.service")
			return result{s.sh("cat /run/answer") + "\n", r.err, r.code}
		},
	}
}

// asked returns what servers were asked for a name.
func (s *dnsTest) asked(name string) (servers []netip.Addr) {
	for _, q := range s.m.Inet.Queries() {
		if q.Name == name {
			servers = append(servers, q.Server)
		}
	}
	return servers
}

// answers checks that a server, and no other, has told a script of a name, by the script's words or by the server's.
func (s *dnsTest) answers(how string, r result, name string, server netip.Addr) {
	s.Helper()
	servers := s.asked(name)
	if len(servers) == 0 {
		s.Errorf("%s: nobody was asked for %s: %+v", how, name, r)
	}
	for _, other := range servers {
		if other != server {
			s.Errorf("%s: %v was asked for %s: %+v", how, other, name, r)
		}
	}
	public := map[netip.Addr]netip.Addr{lab.WireDNS: s.m.Wire.Public, lab.WifiDNS: s.m.Wifi.Public}[server]
	told := func(by netip.Addr) bool { return strings.Contains(r.out, by.String()) }
	if r.code != 0 || !told(server) && !told(public) && !told(lab.SplitIPv6(server)) {
		s.Errorf("%s: for %s there is %+v", how, name, r)
	}
}

// resolvesOutside is how a name goes that nothing keeps in a lane: without this, silence on the wire proves nothing.
func (s *dnsTest) resolvesOutside() {
	wire, err := s.m.Host.Capture(lab.Wired, func(p lab.Packet) bool { return bytes.Contains(bytes.ToLower(p.Frame), []byte(hostName)) })
	if err != nil {
		s.Fatal(err)
	}
	for how, script := range resolvers() {
		before := len(wire.Packets())
		name := s.name(hostName)
		s.answers(how, s.as(s.m.Alice, strings.ReplaceAll(script, "NAME", name)), name, lab.WireDNS)
		waitFor(s.T, func() bool { return len(wire.Packets()) > before }, how+": the wire sees "+name)
	}
	if _, err := wire.Stop(); err != nil {
		s.Error(err)
	}
}

func (s *dnsTest) resolvesInLane() {
	for way, run := range s.ways() {
		for how, script := range resolvers() {
			if how == "chromium" && way != "alice" {
				continue // it takes seconds
			}
			name := s.name(laneName)
			s.answers(way+", "+how, run(strings.ReplaceAll(script, "NAME", name)), name, lab.WifiDNS)
		}
		// By IPv6 a lane has no way, but its server may be asked of it.
		name := s.name(laneName)
		if r := run("dig +short " + name + " AAAA"); !strings.Contains(r.out, lab.SplitIPv6(lab.WifiDNS).String()) {
			s.Errorf("%s: for %s by IPv6 there is %+v", way, name, r)
		}
	}
}

// asksNoCache asks for names that nscd and systemd-resolved know, with another answer.
func (s *dnsTest) asksNoCache() {
	for way, run := range s.ways() {
		name := s.name(hostName)
		for range 2 {
			if got := s.may(s.m.Alice, "getent ahostsv4 "+name); !strings.Contains(got, lab.WireDNS.String()) {
				s.Errorf("outside %s is %s", name, got)
			}
		}
		if n := len(s.asked(name)); n > 2 { // A and AAAA
			s.Errorf("%d questions for %s, which shall be in a cache", n, name)
		}
		r := run("getent ahostsv4 " + name + "; getent hosts " + name)
		if !strings.Contains(r.out, lab.WifiDNS.String()) || strings.Contains(r.out, lab.WireDNS.String()) || strings.Contains(r.out, lab.SplitIPv6(lab.WireDNS).String()) {
			s.Errorf("%s: for %s there is %+v", way, name, r)
		}
		if got := s.may(s.m.Alice, "getent ahostsv4 "+name); !strings.Contains(got, lab.WireDNS.String()) {
			s.Errorf("outside, after the lane, %s is %s", name, got)
		}
	}
}

// asksNoNeighbours: by mDNS and LLMNR all of a local network is asked.
func (s *dnsTest) asksNoNeighbours() {
	wire, err := s.m.Host.Capture(lab.Wired, func(p lab.Packet) bool {
		return (p.DstPort == 5353 || p.DstPort == 5355) && bytes.Contains(bytes.ToLower(p.Frame), []byte(hostName))
	})
	if err != nil {
		s.Fatal(err)
	}
	hosts := s.sh("grep ^hosts: /etc/nsswitch.conf")
	s.sh("sed -i 's/^hosts:.*/hosts: files mdns4_minimal [NOTFOUND=return] resolve [!UNAVAIL=return] dns/' /etc/nsswitch.conf")
	defer s.sh("sed -i 's/^hosts:.*/" + hosts + "/' /etc/nsswitch.conf")
	for _, script := range []string{"getent hosts NAME.local", "getent ahostsv4 NAME"} {
		before := len(wire.Packets())
		s.count++
		s.as(s.m.Alice, strings.ReplaceAll(script, "NAME", fmt.Sprint(hostName, s.count)))
		waitFor(s.T, func() bool { return len(wire.Packets()) > before }, "outside the neighbours are asked: "+script)
	}
	if _, err := wire.Stop(); err != nil {
		s.Error(err)
	}
	for way, run := range s.ways() {
		for _, script := range []string{"getent hosts NAME.local", "getent ahostsv4 NAME.local", "getent ahostsv4 NAME", "echo NAME.local | ask-go", "echo NAME | ask-musl"} {
			s.count++
			if r := run(strings.ReplaceAll(script, "NAME", fmt.Sprint(laneName, s.count))); strings.Contains(r.out, "10.") {
				s.Errorf("%s: %s: %+v", way, script, r)
			}
		}
	}
	for _, path := range []string{"/run/avahi-daemon/socket", "/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve"} {
		for way, run := range s.ways() {
			if r := run("! test -e " + path + " && echo gone"); r.out != "gone\n" {
				s.Errorf("%s: %s is there: %+v", way, path, r)
			}
		}
		s.sh("test -S " + path)
	}
}

func (s *dnsTest) asksByTCP() {
	for _, how := range []string{"ahostsv4", "ask-go", "dig"} { // musl does so from 1.2.4 on
		name := s.name("long" + laneName)
		s.answers(how, s.as(s.m.Alice, "uplane run steam -- sh -c '"+strings.ReplaceAll(resolvers()[how], "NAME", name)+"'"), name, lab.WifiDNS)
		tcp := false
		for _, q := range s.m.Inet.Queries() {
			tcp = tcp || q.Name == name && q.TCP
		}
		if !tcp {
			s.Errorf("%s: nobody asked for %s by TCP", how, name)
		}
	}
}

func (s *dnsTest) searches() {
	s.sh("nmcli connection modify homewifi ipv4.dns-search " + lab.SplitDomain + "; nmcli connection up homewifi")
	waitFor(s.T, func() bool {
		return s.shTry("grep -x 'search "+lab.SplitDomain+"' /etc/netns/steam/resolv.conf").code == 0
	}, "the lane searches the uplink's domain")
	for _, how := range []string{"ahostsv4", "ask-go", "ask-musl"} {
		name := s.name(laneName)
		first, _, _ := strings.Cut(name, ".")
		s.answers(how, s.as(s.m.Alice, "uplane run steam -- sh -c '"+strings.ReplaceAll(resolvers()[how], "NAME", first)+"'"), name, lab.WifiDNS)
	}
}

// asksByBus: who asks systemd-resolved itself, by name, is answered by it. docs/security.md says so.
func (s *dnsTest) asksByBus() {
	name := s.name(hostName)
	s.answers("resolvectl in the lane", s.as(s.m.Alice, "uplane run steam -- resolvectl query "+name), name, lab.WireDNS)
}

// longAsking is a program in the lane that looks up one name after the other.
type longAsking struct {
	program string
	in      io.Writer
	out     *bufio.Reader
}

func (s *dnsTest) startAsking() (all []longAsking, stop func()) {
	var stops []func()
	for _, program := range asking {
		c := s.command(s.m.Alice, "exec uplane run steam -- "+program)
		in, err := c.StdinPipe()
		if err != nil {
			s.Fatal(err)
		}
		out, err := c.StdoutPipe()
		if err != nil {
			s.Fatal(err)
		}
		if err := c.Start(); err != nil {
			s.Fatal(err)
		}
		stops = append(stops, func() { in.Close(); _ = c.Wait() })
		all = append(all, longAsking{program, in, bufio.NewReader(out)})
	}
	return all, func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// ask has it look up a new name.
func (s *dnsTest) ask(a longAsking) (name, answer string) {
	s.Helper()
	name = s.name(laneName)
	if _, err := fmt.Fprintln(a.in, name); err != nil {
		s.Fatal(err)
	}
	answer, err := a.out.ReadString('\n')
	if err != nil {
		s.Fatalf("%s: %v", a.program, err)
	}
	return name, answer
}

// serve has the Wi-Fi's DHCP hand out another name server.
func (s *dnsTest) serve(server netip.Addr) {
	s.Helper()
	d := s.m.Wifi.DHCP()
	d.DNS = []netip.Addr{server}
	if err := s.m.Wifi.SetDHCP(s.ctx, d); err != nil {
		s.Fatal(err)
	}
	s.wait("steam", func(l lab.LaneStatus) bool { return len(l.DNS) == 1 && l.DNS[0] == server.String() })
}

// page asks for a new name of its own twice a second, for ever.
const page = `<script>let n = 0; setInterval(() => { new Image().src = "http://` + laneName + `page" + n++ + "x.` + lab.SplitDomain + `/" }, 500)</script>`

// followsServers has programs live through a change of servers.
func (s *dnsTest) followsServers() {
	s.write("/home/alice/page.html", page)
	browser := s.command(s.m.Alice, `exec uplane run steam -- chromium-headless-shell --no-sandbox --disable-gpu --user-data-dir=$(mktemp -d) \
		--remote-debugging-port=9999 file:///home/alice/page.html >/dev/null 2>&1`)
	if err := browser.Start(); err != nil {
		s.Fatal(err)
	}
	defer func() { _ = browser.Process.Kill(); _ = browser.Wait() }()
	// browses waits until the page's names go to a server.
	browses := func(server netip.Addr) {
		s.Helper()
		waitFor(s.T, func() bool {
			queries := s.m.Inet.Queries()
			for i := len(queries) - 1; i >= 0; i-- {
				if strings.HasPrefix(queries[i].Name, laneName+"page") {
					return queries[i].Server == server
				}
			}
			return false
		}, "the browser asks "+server.String())
	}
	programs, stop := s.startAsking()
	defer stop()
	server := lab.WifiDNS
	for _, next := range []netip.Addr{lab.WireDNS, lab.WifiDNS} {
		for _, p := range programs {
			if name, got := s.ask(p); !strings.Contains(got, server.String()) {
				s.Errorf("%s: %s is %s", p.program, name, got)
			}
		}
		browses(server)
		s.serve(next)
		start := time.Now()
		for _, p := range programs {
			var name, got string
			waitFor(s.T, func() bool { name, got = s.ask(p); return strings.Contains(got, next.String()) }, p.program+" asks the new server")
			s.Logf("%s asks %v after %v", p.program, s.asked(name), time.Since(start))
		}
		browses(next)
		s.Logf("the browser after %v", time.Since(start))
		server = next
	}
}

// keepsItsFiles has programs of the host's replace the files in whose place programs in lanes have the lane's. The kernel takes
// what is mounted over a file away, everywhere, when the file is replaced.
func (s *dnsTest) keepsItsFiles() {
	programs, stop := s.startAsking()
	defer stop()
	for _, p := range programs {
		s.ask(p)
	}
	deaf := s.command(s.m.Host.Node, "exec uplane run steam -- sleep 1000")
	if err := deaf.Start(); err != nil {
		s.Fatal(err)
	}
	defer func() { _ = deaf.Process.Kill(); _ = deaf.Wait() }()
	// Somebody in the lane who has the host's own mounts: these stay as they are.
	s.sh("nsenter --net=/run/netns/steam sleep 1001 >/dev/null 2>&1 &")
	defer func() {
		if got := s.sh("for i in 1 2 3 4 5 6 7 8 9; do mv /etc/resolv.conf /etc/resolv.old; mv /etc/resolv.old /etc/resolv.conf; done; pkill -f '^sleep 1001'; grep -c /etc/netns /proc/1/mountinfo || :"); got != "0" {
			s.Errorf("%s of the lane's files are mounted on the host", got)
		}
	}()
	for _, replace := range []string{
		"cp /etc/nsswitch.conf /etc/nsswitch.new; mv /etc/nsswitch.new /etc/nsswitch.conf",
		"ln -s ../run/systemd/resolve/resolv.conf /etc/resolv.new; mv -T /etc/resolv.new /etc/resolv.conf",
		"echo nameserver 192.0.2.1 >/etc/resolv.new; mv /etc/resolv.new /etc/resolv.conf",
		"echo nameserver 192.0.2.2 >/etc/resolv.new; mv /etc/resolv.new /etc/resolv.conf",
		"rm /etc/resolv.conf; ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",
	} {
		s.sh(replace)
		waitFor(s.T, func() bool {
			got := s.sh(`for pid in $(pgrep ask-) $(pgrep --full '^sleep 1000'); do
				nsenter --target $pid --mount cat /etc/resolv.conf /etc/nsswitch.conf | grep -E '^(nameserver|hosts)' | tr '\n' ' '; done`)
			return strings.TrimSpace(strings.ReplaceAll(got, "nameserver "+lab.WifiDNS.String()+" hosts: files dns ", "")) == "" && strings.Count(got, "hosts:") == len(programs)+1
		}, "programs in the lane have its files after "+replace)
		for _, p := range programs {
			waitFor(s.T, func() bool { _, got := s.ask(p); return strings.Contains(got, lab.WifiDNS.String()) }, p.program+" asks the lane's server")
		}
	}
}

// needsResolvConf has the host lose its resolv.conf.
func (s *dnsTest) needsResolvConf() {
	defer s.sh("ln -sfT ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf")
	for _, link := range []string{"nowhere", "/run/nowhere/resolv.conf", "../run/systemd/resolve/nothing"} {
		s.sh("ln -sfT " + link + " /etc/resolv.conf")
		for _, user := range []*lab.Node{s.m.Alice, s.m.Host.Node} {
			name := s.name(laneName)
			s.answers("a link to "+link+", "+user.Name, s.as(user, "uplane run steam -- getent ahostsv4 "+name), name, lab.WifiDNS)
		}
		// systemd makes a file where such a link leads.
		s.sh("rm -rf /etc/nowhere /run/nowhere /run/systemd/resolve/nothing")
	}
	s.sh("rm /etc/resolv.conf")
	for _, user := range []*lab.Node{s.m.Alice, s.m.Host.Node} {
		s.requireFailure(s.as(user, "uplane run steam true"), 125, "this machine has no /etc/resolv.conf", "sudo touch /etc/resolv.conf")
	}
	if s.shTry("test -e /etc/resolv.conf").code == 0 {
		s.Error("there is a resolv.conf now")
	}
}

// asksByItsTable has the Wi-Fi hand out servers that the host reaches by the wire, or is itself.
func (s *dnsTest) asksByItsTable() {
	wifi, err := s.m.Host.Capture(lab.WiFi, func(p lab.Packet) bool {
		return p.DstPort == 53 && p.Dst == s.m.Wire.LAN.Addr() && bytes.Contains(p.Frame, []byte(laneName))
	})
	if err != nil {
		s.Fatal(err)
	}
	s.serve(s.m.Wire.LAN.Addr())
	s.may(s.m.Alice, "uplane run steam -- getent ahostsv4 "+s.name(laneName)+" || :")
	if packets, err := wifi.Stop(); err != nil || len(packets) == 0 {
		s.Errorf("by the Wi-Fi nothing goes to %v: %v", s.m.Wire.LAN.Addr(), err)
	}

	d := s.m.Wifi.DHCP()
	d.DNS = []netip.Addr{s.m.Wire.DHCP().Address.Addr()}
	s.sh(fmt.Sprintf("mkdir -p /etc/systemd/resolved.conf.d; printf '[Resolve]\\nDNSStubListenerExtra=%v\\n' >/etc/systemd/resolved.conf.d/extra.conf; systemctl restart systemd-resolved", d.DNS[0]))
	if err := s.m.Wifi.SetDHCP(s.ctx, d); err != nil {
		s.Fatal(err)
	}
	s.wait("steam", isState("degraded"))
	name := s.name(hostName)
	waitFor(s.T, func() bool {
		return strings.Contains(s.as(s.m.Alice, fmt.Sprintf("dig +short @%v %s", d.DNS[0], name)).out, lab.WireDNS.String())
	}, "the host serves names at its own address")
	if r := s.as(s.m.Alice, "uplane run steam -- getent ahostsv4 "+s.name(laneName)); r.code == 0 {
		s.Errorf("the host's own resolver answers: %+v", r)
	}
	s.sh("rm /etc/systemd/resolved.conf.d/extra.conf; systemctl restart systemd-resolved")
	s.serve(lab.WifiDNS)
	s.wait("steam", isState("up"))
}

func (s *dnsTest) failsClosed() {
	if err := s.m.Wifi.Carrier(false); err != nil {
		s.Fatal(err)
	}
	s.wait("steam", isState("waiting"))
	for way, run := range s.ways() {
		if way == "service" {
			continue // it does not start
		}
		for how, script := range resolvers() {
			if how == "chromium" {
				continue // it shows a page with its own words
			}
			name := s.name(laneName)
			if r := run(strings.ReplaceAll(script, "NAME", name)); strings.Contains(r.out, "203.0.113.") || len(s.asked(name)) > 0 {
				s.Errorf("%s, %s: for %s there is %+v, and %v was asked", way, how, name, r, s.asked(name))
			}
		}
	}
}
