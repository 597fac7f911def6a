package system

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"uplane/test/lab"
)

// TestMachineRun runs programs in a lane for Alice, who is not root and sits in front of a booted Debian.
func TestMachineRun(t *testing.T) {
	t.Parallel()
	lab.RequireRoot(t)
	onDebians(t, func(t *testing.T, release lab.Debian) {
		s := newMachineTest(t, release)
		// Programs shall not sleep a second before they end, as those with the race detector do.
		s.sh("mkdir -p /etc/systemd/system.conf.d; printf '[Manager]\\nDefaultEnvironment=GORACE=atexit_sleep_ms=0\\n' >/etc/systemd/system.conf.d/lab.conf; systemctl daemon-reexec")
		t.Cleanup(func() {
			if t.Failed() {
				log, _ := s.m.Host.Run("journalctl", "--no-pager", "--lines=20", "--unit=uplane-run-*", "--output=cat")
				t.Logf("programs' units:\n%s", log)
				all, _ := s.m.Host.Run("ps", "-eo", "user,pid,ppid,pgid,sid,tty,tpgid,stat,args")
				t.Logf("processes:\n%s", all)
			}
		})
		s.step("where it leaves", s.runsInLane)
		s.step("exit codes", s.runsWithExitCodes)
		s.step("the caller's likeness", s.runsLikeItsCaller)
		s.step("the caller's groups", s.runsWithGroups)
		s.step("redirections", s.runsInPipes)
		s.step("signals", s.runsUnderSignals)
		s.step("children", s.leavesChildren)
		s.step("names", s.runsWithLaneNames)
		s.step("terminal", s.runsOnTerminal)
		s.step("ps and stop", s.listsPrograms)
		s.step("refusals", s.refusesToRun)
		s.step("one after the other", s.runsEachTime)
		s.step("a unit that fails", s.tellsWhatFailed)
		s.step("a daemon that restarts", s.runsWithoutDaemon)
		s.step("nothing stays", s.runsWithoutTrace)
	})
}

// ask is a program that prints as whom the internet sees it.
var ask = fmt.Sprintf(`python3 -c 'import socket
s = socket.create_connection(("%v", %d), 5)
print(s.recv(64).decode().rsplit(":", 1)[0])'`, lab.WhoamiAddr, lab.WhoamiPort)

func (s *machineTest) runsInLane() {
	if got := s.may(s.m.Alice, "uplane run steam -- "+ask); strings.TrimSpace(got) != s.m.Wifi.Public.String() {
		s.Errorf("the internet sees %q", got)
	}
	if got := s.may(s.m.Alice, ask); strings.TrimSpace(got) != s.m.Wire.Public.String() {
		s.Errorf("outside of the lane the internet sees %q", got)
	}
	got := "\n" + s.may(s.m.Alice, "uplane run steam -- cat /proc/self/cgroup")
	if !strings.Contains(got, "\n0::/user.slice/user-1000.slice/uplane-run-1000-steam-") {
		s.Errorf("its control group is %q", got)
	}
	// polkit knows from it that Alice sits there.
	s.may(s.m.Alice, "uplane run steam -- uplane up steam")
}

func (s *machineTest) runsWithExitCodes() {
	s.sh(`printf 'no program' > /tmp/text; printf '\177ELF' > /tmp/garbage; printf '#!/no/such/shell\n' > /tmp/script; chmod 755 /tmp/garbage /tmp/script`)
	defer s.sh("rm /tmp/text /tmp/garbage /tmp/script")
	for _, tt := range []struct {
		script string
		code   int
		words  string
	}{
		{"uplane run steam true", 0, ""},
		{"uplane run steam -- sh -c 'exit 42'", 42, ""},
		{"uplane run steam -- sh -c 'exit 125'", 125, ""},
		{"uplane run steam -- sh -c 'kill -TERM $$'", 128 + 15, ""},
		{"uplane run steam -- sh -c 'kill -KILL $$'", 128 + 9, ""},
		{"uplane run steam -- sh -c 'kill -PIPE $$'", 128 + 13, ""},
		{"uplane run steam -- sh -c 'kill -INT $$'", 128 + 2, ""},
		{"uplane run steam -- sh -c 'kill -SEGV $$'", 128 + 11, ""},

		{"uplane run steam", 2, "expected a lane and a command"},
		{"uplane run nosuch true", 125, "uplane: run: there is no lane \"nosuch\", or it is down\n  try: uplane up nosuch"},
		{"uplane run ../../etc/passwd true", 125, "invalid lane name"},

		{"uplane run steam /tmp/text", 126, "/tmp/text: permission denied"},
		{"uplane run steam /tmp/garbage", 126, "/tmp/garbage"},
		{"uplane run steam /tmp", 126, "/tmp"},
		{"uplane run steam nosuchcommand", 127, "uplane: run: nosuchcommand: command not found"},
		{"uplane run steam /no/such/command", 127, "/no/such/command"},
		{"uplane run steam /tmp/script", 127, "/tmp/script"},
		{"PATH=/nowhere /usr/bin/uplane run steam true", 127, "true: command not found"},
	} {
		r := s.as(s.m.Alice, tt.script+"\nexit $?")
		// A shell that is told of a signal says so.
		quiet := r.err == "" || tt.code > 128 && !strings.Contains(r.err, "uplane:")
		if r.code != tt.code || !strings.Contains(r.err, tt.words) || tt.words == "" && !quiet {
			s.Errorf("%s: %+v, not exit code %d and %q", tt.script, r, tt.code, tt.words)
		}
	}
}

// sameSignals, for sed, takes signals 32 and 33 out of those that are ignored: the C library's posix_spawn, as make uses it, ignores them.
const sameSignals = `s/^(SigIgn:.{8})../\1__/`

// likeness is what a program has from whoever started it. (Services come and go, and what they have in /tmp with them.)
const likeness = `id; umask; pwd; pwd -P; nice; cat /proc/self/limits; env | sort; grep -E "Sig(Blk|Ign)|NoNewPrivs|Cap(Prm|Eff|Bnd|Amb)" /proc/self/status | sed -E "` + sameSignals + `"
	cat /proc/self/loginuid; readlink /proc/self/ns/user /proc/self/ns/pid /proc/self/ns/ipc; ls /tmp /run/user/1000 | grep -v systemd-private; stat -c "%a %u" /dev/shm /sys/fs/cgroup; ls /proc/self/fd`

func (s *machineTest) runsLikeItsCaller() {
	s.write("/home/alice/show", likeness)
	for _, set := range []string{
		":", "umask 077; cd /usr/share", "ulimit -Sn 512; ulimit -c 0; ulimit -Hs 65536; ulimit -Ss 16384", "nice -n 5 ", "setpriv --no-new-privs ",
		"ulimit -n 300; ulimit -u 5000; ulimit -v unlimited", "nohup ", "env -i PATH=$PATH A='b  c' D='$HOME %h' E=\"$(printf 'x\\ny\\377')\" ", "trap '' INT",
	} {
		join := "; "
		if strings.HasSuffix(set, " ") {
			join = ""
		}
		outside, inside := s.may(s.m.Alice, set+join+"sh /home/alice/show"), s.may(s.m.Alice, set+join+"uplane run steam -- sh /home/alice/show")
		requireSame(s.T, outside, inside)
	}
	// What only root can take from a login, or give it.
	for _, set := range []string{"setpriv --bounding-set=-sys_admin,-net_raw", "printf 1001 >/proc/self/loginuid; setpriv", "printf 1000 >/proc/self/loginuid; setpriv --no-new-privs"} {
		requireSame(s.T, s.sh(s.asAlice(set, "sh /home/alice/show")), s.sh(s.asAlice(set, "uplane run steam -- sh /home/alice/show")))
	}
	// A folder that is gone, one that is private to the user, arguments that are no text.
	s.may(s.m.Alice, "mkdir gone; cd gone; rmdir ../gone; uplane run steam true")
	s.may(s.m.Alice, "mkdir -m 700 own; cd own; uplane run steam touch here; test -e here")
	if got := s.may(s.m.Alice, `uplane run steam printf '%s|' '' '$HOME' '%h' "$(printf 'a\377b')" '\' '"'`); got != "|$HOME|%h|a\xffb|\\|\"|" {
		s.Errorf("arguments come as %q", got)
	}
	if r := s.as(s.m.Alice, "http_proxy=127.0.0.1:3128 uplane run steam env"); strings.Contains(r.out, "http_proxy") || !strings.Contains(r.err, "dropped http_proxy") {
		s.Errorf("a proxy on the loopback: %+v", r)
	}
}

// asAlice is a script of root's that puts itself into Alice's session, if systemd knows of one, becomes her by setpriv, and runs a command.
func (s *machineTest) asAlice(setpriv, command string) string {
	return "cd /home/alice; [ ! -d /run/systemd/system ] || echo $$ >$(echo /sys/fs/cgroup/user.slice/user-1000.slice/session-*.scope/cgroup.procs)\n" +
		setpriv + " --reuid=1000 --regid=1000 --init-groups env -i HOME=/home/alice PATH=/usr/bin:/bin XDG_RUNTIME_DIR=/run/user/1000 " + command
}

// runsWithGroups has Alice lose a group that a process of hers still has.
func (s *machineTest) runsWithGroups() {
	s.sh("groupadd --gid 7777 dev; gpasswd --add alice dev")
	c := s.command(s.m.Alice, `exec sg dev -c 'touch ready; read go; id -G; uplane run steam -- id -G'`)
	stdin, err := c.StdinPipe()
	if err != nil {
		s.Fatal(err)
	}
	var out strings.Builder
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		s.Fatal(err)
	}
	waitFor(s.T, func() bool { return s.shTry("test -e /home/alice/ready").code == 0 }, "the shell has the group")
	s.sh("gpasswd --delete alice dev")
	fmt.Fprintln(stdin)
	if err := c.Wait(); err != nil || out.String() != "7777\n7777\n" { // outside, and in the lane
		s.Errorf("groups: %v: %q", err, out.String())
	}
	if got := s.may(s.m.Alice, "uplane run steam -- id -G"); got != "1000\n" {
		s.Errorf("groups without it: %q", got)
	}
}

func (s *machineTest) runsInPipes() {
	for script, want := range map[string]string{
		"echo x | uplane run steam -- cat > f; cat f":                                                      "x\n",
		"printf 'a\\nb\\n' | uplane run steam -- sed s/^/x/ | tr '\\n' ' '":                                "xa xb ",
		"uplane run steam -- sh -c 'echo out; echo err >&2' 2>&1 >/dev/null":                               "err\n",
		"exec 7</etc/hostname; uplane run steam -- sh -c 'cat <&7'":                                        "host\n",
		"head -c 3000000 /dev/zero | uplane run steam -- cat | wc -c":                                      "3000000\n",
		"yes | uplane run steam -- head -n 1":                                                              "y\n",
		"uplane run steam -- yes | head -n 1":                                                              "y\n",
		"uplane run steam cat </dev/null":                                                                  "",
		"seq 3 | while read n; do uplane run steam echo $n </dev/null; done | tr '\\n' ' '":                "1 2 3 ",
		"for i in 1 2 3 4 5 6 7 8; do uplane run steam echo x & done; wait":                                strings.Repeat("x\n", 8),
		`bash -c 'uplane run steam -- cat <(echo one) <(uplane run steam echo two)'`:                       "one\ntwo\n",
		`uplane run steam -- sleep 1000 & kill $!; wait $!; echo $?`:                                       "143\n",
		`uplane run steam -- python3 -c 'import os; print(os.path.realpath("/proc/self/fd/1"))' >f; cat f`: "/home/alice/f\n",
	} {
		if got := s.may(s.m.Alice, script); got != want {
			s.Errorf("%s: %q, not %q", script, got, want)
		}
	}
}

func (s *machineTest) runsUnderSignals() {
	for signal, code := range map[string]int{"TERM": 143, "HUP": 129, "USR1": 138, "INT": 130, "QUIT": 131, "KILL": 137} {
		// What a shell starts in the background ignores SIGINT and SIGQUIT, unless it has job control.
		r := s.as(s.m.Alice, fmt.Sprintf(`exec bash -c 'set -m; rm -f runs; uplane run steam -- sh -c "echo \$\$ >runs; exec sleep 1000" & uplane=$!
			until [ -s runs ]; do sleep 0.01; done; kill -%s $uplane; wait $uplane; code=$?
			while kill -0 $(cat runs) 2>/dev/null; do sleep 0.01; done; exit $code'`, signal))
		if r.code != code {
			s.Errorf("SIG%s: %+v, not exit code %d", signal, r, code)
		}
	}
}

// leavesChildren: who outlives the program lives on, in the lane and in the unit, until somebody ends it.
func (s *machineTest) leavesChildren() {
	s.may(s.m.Alice, "uplane run steam -- sh -c 'sleep 1234 >/dev/null 2>&1 & echo $! >child'")
	if got := s.may(s.m.Alice, "sleep 0.2; cat /proc/$(cat child)/cgroup"); !strings.Contains(got, "uplane-run-1000-steam-") {
		s.Errorf("what outlives its parent is in %q", got)
	}
	s.may(s.m.Alice, "kill $(cat child)")
	s.noUnits()
}

// noUnits: nothing is left of programs, be it units or, without systemd, processes.
func (s *machineTest) noUnits() {
	s.Helper()
	const left = "if [ -d /run/systemd/system ]; then systemctl list-units --all --plain --no-legend 'uplane-run-*'; else ip netns pids steam | grep -vx \"$(pgrep -x uplaned)\" || :; fi" // the daemon's threads go in and out
	waitFor(s.T, func() bool { return s.sh(left) == "" }, "no program's unit is left")
}

func (s *machineTest) runsWithLaneNames() {
	const hosts = "hosts: files mymachines mdns4_minimal [NOTFOUND=return] resolve [!UNAVAIL=return] dns myhostname"
	s.sh("cp -a /etc/nsswitch.conf /tmp/nsswitch; sed -i 's/^hosts:.*/" + hosts + "/' /etc/nsswitch.conf; grep '^hosts: files mym' /etc/nsswitch.conf")
	defer s.sh("mv /tmp/nsswitch /etc/nsswitch.conf")
	// Resolvers of the host's that would answer.
	for _, path := range []string{"/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve"} {
		s.sh("mkdir -p $(dirname " + path + ")")
		server, err := net.Listen("unix", s.m.Host.Path(path))
		if err != nil {
			s.Fatal(err)
		}
		defer server.Close()
		if err := os.Chmod(s.m.Host.Path(path), 0o666); err != nil {
			s.Fatal(err)
		}
		go func() {
			for {
				conn, err := server.Accept()
				if err != nil {
					return
				}
				conn.Close() // systemd asks nscd too, and would wait
			}
		}()
		talk := "python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect(\"" + path + "\")'"
		s.may(s.m.Alice, talk)
		if r := s.as(s.m.Alice, "uplane run steam -- "+talk); r.code == 0 {
			s.Errorf("%s answers in the lane", path)
		}
	}
	s.sh("echo nameserver 127.0.0.53 >/run/systemd/resolve/stub-resolv.conf; cp /etc/resolv.conf /tmp/resolv.conf; ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf")
	defer s.sh("rm /etc/resolv.conf; mv /tmp/resolv.conf /etc/resolv.conf")
	got := s.may(s.m.Alice, "uplane run steam -- cat /etc/resolv.conf /etc/nsswitch.conf")
	if !strings.Contains(got, "nameserver "+lab.WifiDNS.String()) || !strings.Contains(got, "\nhosts: files myhostname dns\n") {
		s.Errorf("in the lane:\n%s", got)
	}
	before := len(s.m.Inet.Queries())
	s.as(s.m.Alice, "uplane run steam -- getent ahostsv4 whoami.test")
	queries := s.m.Inet.Queries()[before:]
	if len(queries) == 0 {
		s.Error("nobody was asked for the name")
	}
	for _, q := range queries {
		if q.Server != lab.WifiDNS || q.From.Addr() != s.m.Wifi.Public {
			s.Errorf("the wrong server, or by the wrong way: %+v", q)
		}
	}
	if got := s.sh("cat /etc/resolv.conf; grep ^hosts: /etc/nsswitch.conf"); got != "nameserver 127.0.0.53\n"+hosts {
		s.Errorf("outside:\n%s", got)
	}
}

// listsPrograms has a program of root's, and of Alice's: a polite one, a deaf one, and a shell.
func (s *machineTest) listsPrograms() {
	if got := s.may(s.m.Alice, "uplane ps; uplane ps --json"); got != "LANE  PID  USER  SINCE  COMMAND\n{\n  \"programs\": []\n}\n" {
		s.Errorf("without programs: %s", got)
	}
	if r := s.as(s.m.Alice, "uplane stop steam"); r.code != 0 || r.err != "nothing of yours runs in lane steam\n" {
		s.Errorf("stop without programs: %+v", r)
	}
	start := func(user *lab.Node, script string) *lab.Cmd {
		c := s.command(user, "exec uplane run steam -- "+script)
		if err := c.Start(); err != nil {
			s.Fatal(err)
		}
		return c
	}
	roots := start(s.m.Host.Node, "sleep 1001")
	// A sandbox with a network of its own is no longer in the lane's, but in the unit.
	s.may(s.m.Alice, "uplane run steam -- sh -c 'unshare --user --net sleep 1004 >/dev/null 2>&1 &'")
	polite, deaf := start(s.m.Alice, "sleep 1002"), start(s.m.Alice, "sh -c 'trap \"\" TERM HUP; echo; while :; do sleep 0.1; done'")
	s.may(s.m.Alice, "echo sleep 1003 >inside")
	sham := start(s.m.Alice, "sh inside /uplane-run-1/socket 0") // as if it were uplane's own
	t := s.shell(true)
	t.does("SHELL=/bin/bash uplane shell steam")
	t.shows("(steam) ")
	t.does("echo in $UPLANE_LANE $PS1", "in steam (steam)")
	const ps = "uplane ps steam | sed 's/  */ /g'"
	waitFor(s.T, func() bool {
		got := s.may(s.m.Alice, ps)
		return strings.Contains(got, " alice 20") && strings.Contains(got, " sleep 1002\n") && strings.Contains(got, " sh inside /uplane-run-1/socket 0\n") && strings.Contains(got, "trap") && strings.Contains(got, " /bin/bash --rcfile")
	}, "alice sees her programs")
	if got := s.may(s.m.Alice, ps); strings.Contains(got, "sleep 1001") || strings.Contains(got, "uplane inside") {
		s.Errorf("alice sees\n%s", got)
	}
	if got := s.sh(ps); !strings.Contains(got, " root 20") || !strings.Contains(got, "sleep 1001") || !strings.Contains(got, "sleep 1002") {
		s.Errorf("root sees\n%s", got)
	}
	if got := s.may(s.m.Bob, ps); strings.Contains(got, "sleep") {
		s.Errorf("bob sees\n%s", got)
	}
	if got := s.sh("uplane status steam; uplane status --json"); !strings.Contains(got, "  programs   ") || !strings.Contains(got, `"programs": `) {
		s.Errorf("status:\n%s", got)
	}
	s.mayNot(s.m.Bob, "uplane stop steam", "permission denied")
	s.may(s.m.Alice, "uplane stop steam")
	for c, code := range map[*lab.Cmd]string{polite: "signal: terminated", sham: "signal: terminated", deaf: "signal: killed"} {
		if err := c.Wait(); err == nil || err.Error() != code {
			s.Errorf("%v ends with %v, not %s", c.Args, err, code)
		}
	}
	// Without systemd nobody knows whose it is.
	waitFor(s.T, func() bool {
		return s.shTry("[ -d /run/systemd/system ] || pkill -f '^sleep 1004'; pgrep -f '^sleep 1004'").code != 0
	}, "the sandbox has ended")
	t.shows("> ")
	t.does("echo ba''ck", "back")
	t.leave()
	if got := s.sh(ps); strings.Contains(got, "alice") || !strings.Contains(got, "sleep 1001") {
		s.Errorf("after alice's stop root sees\n%s", got)
	}
	s.sh("uplane stop steam")
	_ = roots.Wait()
	s.noUnits()
}

func (s *machineTest) refusesToRun() {
	refused := func(user *lab.Node, script string, words ...string) {
		s.Helper()
		s.requireFailure(s.as(user, script), 125, words...)
	}
	refused(s.m.Bob, "uplane run steam true", "uplane: run: permission denied: org.uplane.lanes.use: polkit wants a password", "sudo")
	const where = "a lane's program runs among the host's own files and users, and who asks is in a "
	refused(s.m.Alice, "unshare --user --map-current-user uplane run steam true", where+"user namespace")
	refused(s.m.Alice, "unshare --user --map-current-user --mount uplane run steam true", where)
	refused(s.m.Alice, "unshare --user --map-current-user --net uplane run steam true", where)
	refused(s.m.Alice, "uplane run steam -- uplane run steam true", where+"mount namespace")

	s.requireFailure(s.shTry("systemd-run --wait --pipe --quiet --collect --uid=alice --slice=user-1000.slice --property=SystemCallFilter=~reboot uplane run steam true"), 125,
		"who asks has a filter of system calls")
	s.sh("mount -t tmpfs root /mnt; for d in bin dev etc lib lib64 proc run tmp usr; do mkdir /mnt/$d; mount --bind /$d /mnt/$d; done")
	s.requireFailure(s.shTry(s.asAlice("chroot /mnt setpriv", "uplane run steam true")), 125, where+"folder that it has as its root")
	s.sh("umount --recursive /mnt")

	for args, words := range map[string]string{
		"ss steam ''":                                      "is not absolute",
		"ss steam socket":                                  "is not absolute",
		"ss steam /tmp/../socket":                          "is not absolute, or not in its shortest form",
		"ss ../../etc /tmp/socket":                         "there is no lane",
		"ss '' /tmp/socket":                                "there is no lane",
		"ss steam \"$(printf '/tmp/a\\nb')\"":              "has other characters",
		"ss steam '/tmp/%h'":                               "has other characters",
		"s steam":                                          "takes \"ss\"",
		"sas steam 1 /bin/true":                            "takes \"ss\"",
		"ss steam /$(yes x | tr -d '\\n' | head -c 200)":   "no more than 107 bytes",
		"ss steam /$(yes x | tr -d '\\n' | head -c 20000)": "",
	} {
		r := s.as(s.m.Alice, callManager+"Run "+args)
		if r.code == 0 || !strings.Contains(r.err, words) {
			s.Errorf("Run %.60s: %+v", args, r)
		}
	}
	s.noUnits()
	// A lane that is down, and one whose name somebody else has given to a namespace.
	s.may(s.m.Alice, "uplane down steam")
	refused(s.m.Alice, "uplane run steam true", "there is no lane \"steam\", or it is down", "uplane up steam")
	s.sh("ip netns add steam")
	s.shTry("uplane up steam")
	s.wait("steam", isState("error"))
	refused(s.m.Alice, "uplane run steam true", "namespace steam exists, but it is no lane")
	s.sh("ip netns delete steam")
	s.noUnits()
	// A daemon that is not there.
	s.may(s.m.Alice, "uplane up steam")
	s.wait("steam", isState("up"))
	s.sh("systemctl mask --now uplaned")
	refused(s.m.Alice, "uplane run steam true", "the daemon is not running", "unmask")
	s.sh("systemctl unmask uplaned")
	s.start()
}

// runsEachTime: a login is a thread's own, and which one has it shows only now and then.
func (s *machineTest) runsEachTime() {
	const loginUID = "cat /proc/self/loginuid; echo"
	if got := s.may(s.m.Alice, loginUID); got != "1000\n" {
		s.Errorf("alice has login %q; a desktop's user has one", got)
	}
	s.longer(5 * time.Minute) // on a busy machine
	got := s.may(s.m.Alice, "for i in $(seq 150); do uplane run steam -- sh -c '"+loginUID+"' || exit; done | uniq -c")
	if got := strings.Fields(got); !slices.Equal(got, []string{"150", "1000"}) {
		s.Errorf("150 programs have logins, each so many times: %v", got)
	}
	s.longer(3 * time.Minute)
}

// tellsWhatFailed: nobody waits for a unit that has failed.
func (s *machineTest) tellsWhatFailed() {
	failed := func(script string, words ...string) {
		s.Helper()
		start := time.Now()
		s.requireFailure(s.as(s.m.Alice, script), 125, words...)
		// A fraction of a second, unless the machine is busy; uplane run waits for the socket for 20 s.
		if took := time.Since(start); took > 10*time.Second {
			s.Errorf("%s: told after %v", script, took)
		}
	}
	// A folder that programs in lanes see empty.
	s.sh("install -d -m 1777 /run/nscd")
	failed("XDG_RUNTIME_DIR=/run/nscd uplane run steam true", "uplane: run: the lane's half of uplane failed: dial unix /run/nscd/uplane-run-", "no such file or directory")
	s.sh("chmod 755 /run/nscd")
	// A program that ends before it can say why.
	s.sh("cp -a /usr/bin/uplane /tmp/uplane")
	for end, words := range map[string]string{"exit 3": "result exit-code, status 3", "kill -KILL $$": "result signal, status 9", "exit 0": "result protocol, status 0"} {
		s.sh("printf '#!/bin/sh\n" + end + "\n' >/tmp/broken; chmod 755 /tmp/broken; mv /tmp/broken /usr/bin/uplane")
		failed("/tmp/uplane run steam true", "uplane: run: the lane's half of uplane failed, "+words+": journalctl --unit=uplane-run-1000-steam-")
	}
	s.sh("printf garbage >/usr/bin/uplane")
	failed("/tmp/uplane run steam true", "uplane: run: systemd could not start it: the program can't be executed")
	s.sh("mv /tmp/uplane /usr/bin/uplane")
	s.may(s.m.Alice, "uplane run steam true")
	s.noUnits()
}

// runsWithoutDaemon: a program and its exit code need no daemon any more.
func (s *machineTest) runsWithoutDaemon() {
	c := s.command(s.m.Alice, `rm -f lasts go; uplane run steam -- sh -c 'echo $$ >lasts; until [ -e go ]; do sleep 0.01; done; exit 7'`)
	var said strings.Builder
	c.Stderr = &said
	if err := c.Start(); err != nil {
		s.Fatal(err)
	}
	waitFor(s.T, func() bool { return s.as(s.m.Alice, "test -s lasts").code == 0 }, "the program runs")
	for _, restart := range []string{"systemctl restart uplaned", "systemctl daemon-reload", "systemctl daemon-reexec"} {
		s.sh(restart)
	}
	// systemd has read the unit's file again by now, and it says no more than it shall.
	got := s.sh("systemctl show --property=LoadState,Description,ExecStart,User 'uplane-run-*'")
	for _, want := range []string{"LoadState=loaded", "Description=uplane run in lane steam, for user 1000", "argv[]=/usr/bin/uplane inside /", "User=1000"} {
		if !strings.Contains(got, want) {
			s.Errorf("no %q in\n%s", want, got)
		}
	}
	s.may(s.m.Alice, "touch go")
	_ = c.Wait()
	if code := c.ProcessState.ExitCode(); code != 7 {
		s.Errorf("exit code %d after restarts: %s", code, said.String())
	}
	s.wait("steam", isState("up"))
}

func (s *machineTest) runsWithoutTrace() {
	const open = `ls /proc/$(systemctl show --property=MainPID --value uplaned)/fd | wc -l`
	before := s.sh(open)
	s.may(s.m.Alice, "for i in 1 2 3 4 5 6 7 8 9 10; do uplane run steam true; done")
	s.noUnits()
	if after := s.sh(open); after != before {
		s.Errorf("the daemon has %s files open, and before had %s", after, before)
	}
	if left := s.sh("ls -d /tmp/uplane-run-* /run/user/1000/uplane-run-* 2>/dev/null || :"); left != "" {
		s.Errorf("left: %s", left)
	}
	if got := s.sh("systemctl --failed --plain --no-legend"); got != "" {
		s.Errorf("units have failed:\n%s", got)
	}
}
