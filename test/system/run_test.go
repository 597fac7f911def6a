package system

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"uplane/test/lab"
)

// TestRun runs programs in a lane, as root.
func TestRun(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.sh("mount --make-rshared /") // as systemd has it; only then could mounts travel at all
	s.run("up", "steam", "--uplink", lab.WiFi)

	for _, sub := range []struct {
		name string
		test func(*site)
	}{
		{"exit codes", (*site).runExitCodes},
		{"program", (*site).runProgram},
		{"proxies", (*site).runProxies},
		{"names", (*site).runNames},
		{"resolv.conf", (*site).runResolvConf},
		{"resolver sockets", (*site).runResolverSockets},
		{"mounts", (*site).runMounts},
		{"waiting", (*site).runWaiting},
	} {
		t.Run(sub.name, func(t *testing.T) {
			in := *s
			in.T = t
			sub.test(&in)
		})
	}
}

func (s *site) runExitCodes() {
	s.sh(`printf 'no program' > /run/t-text; chmod 644 /run/t-text; printf '\177ELF' > /run/t-garbage; chmod 755 /run/t-garbage
	printf '#!/no/such/shell\n' > /run/t-script; chmod 755 /run/t-script
	ip netns add foreign; : > /run/netns/plain`)
	defer s.sh("ip netns del foreign; rm /run/netns/plain /run/t-text /run/t-garbage /run/t-script")
	for _, tt := range []struct {
		script string
		code   int
		words  []string
	}{
		{"uplane run steam true", 0, nil},
		{"uplane run steam -- true", 0, nil},
		{"uplane run steam sh -c 'exit 42'", 42, nil},
		{"uplane run steam -- sh -c 'exit 125'", 125, nil},
		// The program itself dies by the signal, so what the shell makes of it is as without uplane.
		{"uplane run steam -- sh -c 'kill -TERM $$'", 128 + 15, nil},
		{"uplane run steam -- sh -c 'kill -KILL $$'", 128 + 9, nil},
		{"uplane run steam -- sh -c 'kill -PIPE $$'", 128 + 13, nil},
		{"uplane run steam -- sh -c 'kill -INT $$'", 128 + 2, nil},

		{"uplane run", 2, []string{"uplane: run: expected a lane and a command", "try: uplane"}},
		{"uplane run steam", 2, []string{"expected a lane and a command"}},
		{"uplane run steam --", 2, []string{"expected a lane and a command"}},
		{"uplane run -- true", 2, []string{"expected a lane and a command"}},
		{"uplane run --user steam true", 2, []string{"--user"}},

		{"uplane run nosuch true", 125, []string{"uplane: run: there is no lane nosuch", "try: uplane up nosuch"}},
		{"uplane run foreign true", 125, []string{"foreign exists, but it is no lane"}},
		{"uplane run plain true", 125, []string{"plain"}},
		{"uplane run ../../etc/passwd true", 125, []string{"invalid lane name"}},
		{"uplane run '' true", 2, nil},
		{"setpriv --reuid 65534 --regid 65534 --clear-groups uplane run steam true", 125, []string{"permission denied: org.uplane.lanes.use: ", "sudo"}},

		{"uplane run steam /run/t-text", 126, []string{"/run/t-text", "permission denied"}},
		{"uplane run steam /run/t-garbage", 126, []string{"/run/t-garbage"}},
		{"uplane run steam /tmp", 126, []string{"/tmp"}},
		{"uplane run steam nosuchcommand", 127, []string{"nosuchcommand: command not found"}},
		{"uplane run steam /no/such/command", 127, []string{"/no/such/command"}},
		{"uplane run steam /run/t-script", 127, []string{"/run/t-script"}},
	} {
		r := s.shTry(tt.script + "\nexit $?") // a shell that stays, and reports
		if r.code != tt.code {
			s.Errorf("%s: exit code %d, not %d: %s", tt.script, r.code, tt.code, r.err)
		}
		for _, w := range tt.words {
			if !strings.Contains(r.err, w) {
				s.Errorf("%s: no %q in %q", tt.script, w, r.err)
			}
		}
		if len(tt.words) == 0 && tt.code != 2 && strings.Contains(r.err, "uplane:") {
			s.Errorf("%s: says %q", tt.script, r.err)
		}
	}
}

// runProgram checks that a program has all that it has outside, but for the network.
func (s *site) runProgram() {
	if got := s.sh("printf 'a\\nb\\n' | uplane run steam -- sed s/^/x/ | tr '\\n' ' '"); got != "xa xb " {
		s.Errorf("through pipes comes %q", got)
	}
	if got := s.sh("cd /usr/share && uplane run steam pwd"); got != "/usr/share" {
		s.Errorf("the working directory is %q", got)
	}
	if got := s.sh("FOO='b a r' uplane run steam -- sh -c 'echo \"$FOO\" \"$@\"' x -- -v ''"); got != "b a r -- -v " {
		s.Errorf("environment and arguments: %q", got)
	}
	if got := s.sh("exec 7</etc/passwd; uplane run steam -- ls /proc/self/fd"); !strings.Contains(got, "7") {
		s.Errorf("descriptors: %q", got)
	}
	// Nothing of the Go runtime stays: no thread, no limit, no signal's disposition.
	const show = `grep -hE "Threads|Sig(Blk|Ign|Cgt)|open files" /proc/self/status /proc/self/limits`
	outside, inside := s.sh("ulimit -Sn 512; nohup "+show), s.sh("ulimit -Sn 512; nohup uplane run steam -- "+show)
	if outside != inside {
		s.Errorf("limits and signals outside:\n%s\ninside:\n%s", outside, inside)
	}
	if got := s.sh("uplane run steam -- ip -o -4 addr show scope global; readlink /proc/self/ns/pid"); !strings.Contains(got, "eth0    inet 10.0.1.2/24") {
		s.Errorf("addresses in the lane: %q", got)
	}
	// The process that was started is the program, so its parent can signal it and wait for it.
	cmd := s.world.Host.CommandContext(s.ctx, "uplane", "run", "steam", "--", "sleep", "60")
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	waitFor(s.T, func() bool {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
		return err == nil && string(comm) == "sleep\n"
	}, "the process becomes the program")
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err == nil || err.Error() != "signal: terminated" {
		s.Errorf("a program in the lane that is sent SIGTERM ends with %v", err)
	}
}

func (s *site) runProxies() {
	r := s.shTry(`http_proxy=http://user:secret@127.0.0.1:7890 HTTPS_PROXY=localhost:8080 all_proxy=socks5h://[::1]:1080 \
		ftp_proxy=http://proxy.example:3128 no_proxy=localhost NOTAPROXY=127.0.0.1 uplane run steam env`)
	if r.code != 0 {
		s.Errorf("exit code %d: %s", r.code, r.err)
	}
	for _, gone := range []string{"http_proxy", "HTTPS_PROXY", "all_proxy"} {
		if strings.Contains(r.out, gone) || !strings.Contains(r.err, "dropped "+gone) {
			s.Errorf("%s: have\n%s\nsays %s", gone, r.out, r.err)
		}
	}
	for _, kept := range []string{"ftp_proxy=http://proxy.example:3128", "no_proxy=localhost", "NOTAPROXY=127.0.0.1"} {
		if !strings.Contains(r.out, kept+"\n") || strings.Contains(r.err, kept) {
			s.Errorf("%s: have\n%s\nsays %s", kept, r.out, r.err)
		}
	}
	if strings.Contains(r.err, "secret") {
		s.Errorf("a password is shown: %s", r.err)
	}
}

// runNames resolves a name in the lane: the lane's DNS server is asked, by the lane's uplink.
func (s *site) runNames() {
	if got := s.sh("uplane run steam -- cat /etc/resolv.conf"); !strings.Contains(got, "nameserver "+lab.WifiDNS.String()) {
		s.Errorf("resolv.conf in the lane:\n%s", got)
	}
	if got := s.sh("cat /etc/resolv.conf"); got != "nameserver "+lab.WireDNS.String() {
		s.Errorf("resolv.conf of the host:\n%s", got)
	}
	before := len(s.world.Inet.Queries())
	s.shTry("uplane run steam -- getent ahostsv4 whoami.test")
	queries := s.world.Inet.Queries()[before:]
	if len(queries) == 0 {
		s.Error("nobody was asked for the name")
	}
	for _, q := range queries {
		if q.Server != lab.WifiDNS || q.From.Addr() != s.world.Wifi.Public {
			s.Errorf("the wrong server, or by the wrong way: %+v", q)
		}
	}
}

func (s *site) runResolvConf() {
	const show = "uplane run steam -- cat /etc/resolv.conf"
	defer s.sh("rm -rf /etc/resolv.conf /run/resolvconf; echo nameserver " + lab.WireDNS.String() + " > /etc/resolv.conf")

	// A link, as most distributions have it, relative and through another.
	s.sh("mkdir -p /run/resolvconf; mv /etc/resolv.conf /run/resolvconf/real; ln -s real /run/resolvconf/resolv.conf; ln -s ../run/resolvconf/resolv.conf /etc/resolv.conf")
	if got := s.sh(show); !strings.Contains(got, "nameserver "+lab.WifiDNS.String()) {
		s.Errorf("through a link:\n%s", got)
	}
	if got := s.sh("cat /run/resolvconf/real"); got != "nameserver "+lab.WireDNS.String() {
		s.Errorf("behind the link, outside:\n%s", got)
	}
	// A program that runs sees the lane's file change.
	s.write("/run/t-look", "touch /run/t-looking; until grep 198.51.100.53 /etc/resolv.conf; do sleep 0.05; done")
	seen := s.world.Host.CommandContext(s.ctx, "uplane", "run", "steam", "--", "sh", "/run/t-look")
	if err := seen.Start(); err != nil {
		s.Fatal(err)
	}
	waitFor(s.T, func() bool { return s.shTry("test -e /run/t-looking").code == 0 }, "the program runs")
	s.writeLane("steam", "uplink = \""+lab.WiFi+"\"\ndns = [\"198.51.100.53\"]\n")
	s.run("reload")
	if err := seen.Wait(); err != nil {
		s.Errorf("a running program does not see resolv.conf change: %v", err)
	}
	s.writeLane("steam", "uplink = \""+lab.WiFi+"\"\n")
	s.run("reload")

	s.sh("rm /run/resolvconf/real")
	if got := s.sh(show); !strings.Contains(got, "nameserver "+lab.WifiDNS.String()) {
		s.Errorf("through a link to nowhere:\n%s", got)
	}
	s.sh("rm /etc/resolv.conf")
	s.requireFailure(s.uplaneTry("run", "steam", "true"), 125, "uplane: run: ", "no /etc/resolv.conf", "touch /etc/resolv.conf")
}

// runResolverSockets has programs outside of the lane that would resolve names for it.
func (s *site) runResolverSockets() {
	const nscd, resolved = "/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve"
	listen := func(path string) {
		s.Helper()
		path = s.world.Host.Path(path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			s.Fatal(err)
		}
		_ = os.Remove(path)
		server, err := net.Listen("unix", path)
		if err != nil {
			s.Fatal(err)
		}
		s.Cleanup(func() { _ = server.Close() })
	}
	listen(nscd)
	listen(resolved)
	// resolved's own files stand where resolv.conf leads to.
	s.sh("echo nameserver 127.0.0.53 > /run/systemd/resolve/stub-resolv.conf; ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf")
	defer s.sh("rm /etc/resolv.conf; echo nameserver " + lab.WireDNS.String() + " > /etc/resolv.conf")
	for _, path := range []string{nscd, resolved} {
		s.sh(connect(path))
		if r := s.shTry("uplane run steam -- " + connect(path)); r.code == 0 {
			s.Errorf("%s answers in the lane", path)
		}
	}
	if got := s.sh("uplane run steam -- cat /etc/resolv.conf"); !strings.Contains(got, "nameserver "+lab.WifiDNS.String()) {
		s.Errorf("resolv.conf in the lane:\n%s", got)
	}
	// A service that is restarted makes its socket anew, while the lane's program runs.
	s.write("/run/t-again", "touch /run/t-waits; until [ -e /run/t-restarted ]; do sleep 0.05; done; "+connect(nscd)+" || "+connect(resolved))
	late := s.world.Host.CommandContext(s.ctx, "uplane", "run", "steam", "--", "sh", "/run/t-again")
	if err := late.Start(); err != nil {
		s.Fatal(err)
	}
	waitFor(s.T, func() bool { return s.shTry("test -e /run/t-waits").code == 0 }, "the program runs")
	listen(nscd)
	listen(resolved)
	s.sh("touch /run/t-restarted")
	if late.Wait() == nil {
		s.Error("a restarted resolver answers in the lane")
	}
}

// connect is a command that succeeds when somebody listens on a socket.
func connect(path string) string { return "nc -zU " + path }

func (s *site) runMounts() {
	const sys = `sed -n "s/^[0-9]* [0-9]* \([^ ]* [^ ]* \/sys[^ ]* [^ ]*\) .* - /\1 /p" /proc/self/mountinfo`
	s.sh("mkdir -p /run/t-cg && mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null || :")
	outside, inside := s.sh(sys), s.sh("uplane run steam -- sh -c '"+strings.ReplaceAll(sys, "'", "")+"'")
	if outside == "" || outside != inside {
		s.Errorf("/sys outside:\n%s\ninside:\n%s", outside, inside)
	}
	// Programs keep their mounts for themselves and see those of the host come.
	s.sh("mkdir -p /mnt/in /mnt/out")
	s.write("/run/t-mounts", `mount -t tmpfs lane /mnt/out; touch /mnt/out/lane /run/t-mounted
		until [ -e /mnt/in/host ]; do sleep 0.05; done`)
	prog := s.world.Host.CommandContext(s.ctx, "uplane", "run", "steam", "--", "sh", "/run/t-mounts")
	if err := prog.Start(); err != nil {
		s.Fatal(err)
	}
	waitFor(s.T, func() bool { return s.shTry("test -e /run/t-mounted").code == 0 }, "the program has mounted")
	if got := s.sh("grep -E ' /mnt/out | /etc/netns|/resolv.conf ' /proc/self/mountinfo || :"); got != "" {
		s.Errorf("the lane's mounts leak out:\n%s", got)
	}
	s.sh("mount -t tmpfs host /mnt/in; touch /mnt/in/host")
	defer s.sh("umount /mnt/in")
	if err := prog.Wait(); err != nil {
		s.Errorf("the host's mounts do not come in: %v", err)
	}
}

// runWaiting runs programs in a lane without an uplink: they run, and nothing leaves.
func (s *site) runWaiting() {
	s.sh("nmcli device disconnect " + lab.WiFi)
	s.wait("steam", isState("waiting"))
	if got := s.sh("uplane run steam echo here"); got != "here" {
		s.Errorf("a program in a waiting lane: %q", got)
	}
	r := s.uplaneTry("run", "steam", "ping", "-c1", "-W5", lab.WhoamiAddr.String())
	if r.code == 0 || !strings.Contains(r.err, "No route to host") { // by its own socket
		s.Errorf("a waiting lane does not fail at once: %+v", r)
	}
	s.sh("nmcli connection up homewifi")
	s.wait("steam", isState("up"))
	s.run("down", "steam")
	s.requireFailure(s.uplaneTry("run", "steam", "true"), 125, "there is no lane steam, or it is down", "uplane up steam")
}
