package system

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"uplane/test/lab"
)

// forkTest is a host without systemd, with a real polkit, whose users are as a machine's.
type forkTest struct{ *machineTest }

// TestForkRun runs programs in a lane for Alice, where there is no systemd that could start them. Polkit lets her use lanes.
func TestForkRun(t *testing.T) {
	s := newForkTest(t)
	s.step("where it leaves", s.leaves)
	s.step("exit codes", s.runsWithExitCodes)
	s.step("the caller's likeness", s.runsLikeItsCaller)
	s.step("the caller's groups", s.runsWithGroups)
	s.step("what nobody sees", s.isBornClean)
	s.step("control group", s.runsInControlGroup)
	s.step("redirections", s.runsInPipes)
	s.step("signals", s.runsUnderSignals)
	s.step("names", s.runsWithLaneNames)
	s.step("terminal", s.runsOnTerminal)
	s.step("ps and stop", s.listsPrograms)
	s.step("refusals", s.refuses)
	s.step("many at a time", s.runsMany)
	s.step("a daemon that restarts", s.outlivesDaemon)
	s.step("nothing stays", s.buries)
}

func newForkTest(t *testing.T) *forkTest {
	site := newSite(t, lab.Plain, lab.Options{})
	site.longer(5 * time.Minute)
	// The machine's own folders, which a world sees, stay untouched.
	site.sh(`mount --make-rshared /
		mount -t tmpfs -o mode=1777 tmpfs /tmp; mount -t tmpfs -o mode=755 tmpfs /home
		echo host >/etc/hostname; sed -i '/^[^:]*:[^:]*:100[01]:/d' /etc/passwd /etc/group
		for user in alice bob; do useradd --create-home --shell /bin/sh --user-group $user; done
		for id in 1000 1001; do mkdir -p -m 700 /run/user/$id; chown $id:$id /run/user/$id; done
		mkdir -p /etc/polkit-1/rules.d`)
	site.write("/etc/polkit-1/rules.d/10-alice.rules", `polkit.addRule(function(action, subject) {
		if (action.id == "org.uplane.lanes.use" && subject.user == "alice")
			return polkit.Result.YES;
	});`)
	user := func(name string, id uint32) *lab.Node {
		home := "/home/" + name
		return site.world.Host.User(name, id, home, "HOME="+home, "USER="+name, "LOGNAME="+name, "SHELL=/bin/sh",
			"TERM=linux", "PATH=/usr/local/bin:/usr/bin:/bin", fmt.Sprintf("XDG_RUNTIME_DIR=/run/user/%d", id))
	}
	m := &lab.Machine{World: site.world, Alice: user("alice", 1000), Bob: user("bob", 1001)}
	s := &forkTest{&machineTest{site: site, m: m}}
	t.Cleanup(func() {
		if t.Failed() {
			all, _ := m.Host.Run("ps", "-eo", "user,pid,ppid,pgid,sid,tty,tpgid,stat,args")
			t.Logf("processes:\n%s", all)
		}
	})
	s.run("up", "steam", "--uplink", lab.WiFi)
	return s
}

func (s *forkTest) leaves() {
	if got := s.may(s.m.Alice, "uplane run steam -- "+ask); strings.TrimSpace(got) != s.m.Wifi.Public.String() {
		s.Errorf("the internet sees %q", got)
	}
	if got := s.may(s.m.Alice, ask); strings.TrimSpace(got) != s.m.Wire.Public.String() {
		s.Errorf("outside of the lane the internet sees %q", got)
	}
	s.may(s.m.Alice, "uplane run steam -- uplane list")
	s.may(s.m.Alice, "uplane run steam -- uplane up steam")
}

// inherited is what a process has of whoever started it, and shows to nobody who does not look.
const inherited = `grep -E '^(Uid|Gid|Groups|Umask|Cap...|NoNewPrivs|Seccomp|SigBlk|SigIgn|Shd|Cpus_allowed)' /proc/self/status | sed -E '` + sameSignals + `'
	cat /proc/self/loginuid /proc/self/oom_score_adj /proc/self/cgroup /proc/self/limits; nice; ls /proc/self/fd`

// isBornClean has a daemon that has much of root's, of which the program has nothing. It looks at the keeper, too.
func (s *forkTest) isBornClean() {
	s.uplane.Kill()
	// Descriptors, signals, priority, groups, capabilities that are inherited, and keys.
	s.write("/run/dirty", `import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
for n in range(20, 30):
    os.dup2(os.open("/etc/shadow", os.O_RDONLY), n)
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMIN):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGALRM])
os.nice(7)
os.umask(0o7)
os.setgroups([0, 4, 27])
open("/proc/self/oom_score_adj", "w").write("100")
class Header(ctypes.Structure): _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
header, data = Header(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capget(ctypes.byref(header), data) == 0
data[2], data[5] = data[1], data[4]
assert libc.capset(ctypes.byref(header), data) == 0
PR_CAP_AMBIENT, RAISE = 47, 2
assert libc.prctl(PR_CAP_AMBIENT, RAISE, 12, 0, 0) == 0
PR_SET_SECUREBITS, NO_SETUID_FIXUP = 28, 4
assert libc.prctl(PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0, 0, 0) == 0
os.environ["SECRET"] = "roots"
os.execvp("uplaned", ["uplaned"])
`)
	daemon, err := s.m.Host.Start("python3", "/run/dirty")
	if err != nil {
		s.Fatal(err)
	}
	waitFor(s.T, func() bool { return s.uplaneTry("list").code == 0 }, "the daemon answers")
	status := s.sh("cat /proc/$(pgrep -x uplaned)/status; ls /proc/$(pgrep -x uplaned)/fd")
	for _, dirt := range []string{"CapAmb:\t0000000000001000", "SigIgn:\t00000002", "\n29"} {
		if !strings.Contains(status, dirt) {
			s.Errorf("no %q of the daemon:\n%s", dirt, status)
		}
	}

	for _, set := range []string{
		"", "setpriv --no-new-privs ", "nice -n 3 ", "choom -n 300 -- ", "prlimit --core=4096:8192 ",
	} {
		outside, inside := s.may(s.m.Alice, set+"sh -c '"+strings.ReplaceAll(inherited, "'", `'\''`)+"'"),
			s.may(s.m.Alice, set+"uplane run steam -- sh -c '"+strings.ReplaceAll(inherited, "'", `'\''`)+"'")
		requireSame(s.T, outside, inside)
		if !strings.Contains(inside, "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n") {
			s.Errorf("capabilities:\n%s", inside)
		}
	}
	// The keeper: its own user sees it as any other process of theirs.
	s.write("/home/alice/keeper", `keeper=$PPID
		[ "$(tr '\0' ' ' </proc/$keeper/cmdline | cut -d ' ' -f 2)" = inside ] || exit 9
		echo fds $(ls /proc/$keeper/fd | wc -l); readlink /proc/$keeper/fd/[012]; ls -l /proc/$keeper/fd | grep -c shadow
		tr '\0' '\n' </proc/$keeper/environ; readlink /proc/$keeper/cwd /proc/$keeper/exe
		grep -E "^(Uid|Gid|Groups|Cap(Inh|Prm|Eff|Amb))" /proc/$keeper/status; ps -o sid= -o tty= -p $keeper | tr -s ' '
		stat -c %u /proc/$keeper/status; cat /proc/$keeper/attr/current 2>/dev/null; echo`)
	got := s.may(s.m.Alice, "uplane run steam -- sh keeper </dev/null")
	for _, want := range []string{
		"\n/dev/null\n/dev/null\n/dev/null\n0\n", "PATH=", "\n/home/alice\n/usr/bin/uplane\n", "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t \n",
		"CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n", " ?\n1000\n",
	} {
		if !strings.Contains(got, want) {
			s.Errorf("the keeper has no %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "SECRET") {
		s.Errorf("the keeper's environment:\n%s", got)
	}
	_ = daemon.Process.Kill()
	_ = daemon.Wait()
	s.start()
}

// runsInControlGroup has Alice bounded to some processes, and the program as well.
func (s *forkTest) runsInControlGroup() {
	s.sh("mkdir /run/cgroup; mount -t cgroup2 none /run/cgroup; mkdir /run/cgroup/uplane-test-alice")
	defer s.sh("until rmdir /run/cgroup/uplane-test-alice; do sleep 0.05; done 2>/dev/null; umount /run/cgroup")
	show := s.asAlice("setpriv", "uplane run steam -- cat /proc/self/cgroup")
	if got := s.sh("echo $$ >/run/cgroup/uplane-test-alice/cgroup.procs; " + show); !strings.Contains(got+"\n", "\n0::/uplane-test-alice\n") {
		s.Errorf("of a caller in a control group: %s", got)
	}
	if got := s.sh(show); strings.Contains(got, "uplane-test") {
		s.Errorf("of a caller in none: %s", got)
	}
}

func (s *forkTest) refuses() {
	refused := func(user *lab.Node, script string, words ...string) {
		s.Helper()
		s.requireFailure(s.as(user, script), 125, words...)
	}
	refused(s.m.Bob, "uplane run steam true", "uplane: run: permission denied: org.uplane.lanes.use: polkit wants a password", "sudo")
	const where = "a lane's program runs among the host's own files and users, and who asks is in a "
	refused(s.m.Alice, "uplane run steam -- uplane run steam true", where+"mount namespace")
	for args, words := range map[string]string{
		"ss steam socket":     "is not absolute",
		"ss steam '/tmp/%h'":  "has other characters",
		"ss nosuch /tmp/sock": "there is no lane",
	} {
		if r := s.as(s.m.Alice, callManager+"Run "+args); r.code == 0 || !strings.Contains(r.err, words) {
			s.Errorf("Run %s: %+v", args, r)
		}
	}
	refused(s.m.Alice, "unshare --user --map-current-user uplane run steam true", where+"user namespace")
	// What can't be executed, or not by her.
	s.sh("cp /usr/bin/uplane /tmp/uplane; chmod 755 /tmp/uplane; chmod 700 /usr/bin/uplane")
	refused(s.m.Alice, "/tmp/uplane run steam true", "start it: execute /usr/bin/uplane: permission denied")
	s.sh("chmod 755 /usr/bin/uplane; rm /tmp/uplane")
	// More processes than she may have.
	r := s.as(s.m.Alice, "sleep 1000 >/dev/null 2>&1 & trap 'kill $!' EXIT; prlimit --nproc=1 "+callManager+"Run ss steam /run/user/1000/none")
	if r.code == 0 || !strings.Contains(r.err, "start it: execute /usr/bin/uplane: resource temporarily unavailable") {
		s.Errorf("with no process more: %+v", r)
	}
	// A kernel that lets users trace what becomes theirs. The real setting is the whole machine's.
	s.sh("echo 1 >/run/one; mount --bind /run/one /proc/sys/fs/suid_dumpable")
	refused(s.m.Alice, "uplane run steam true", "users can trace what becomes theirs")
	s.sh("umount /proc/sys/fs/suid_dumpable")
	s.noUnits()
}

// runsMany has fifty programs at a time. Half of them ask at once: the daemon hears 32 calls of a user.
func (s *forkTest) runsMany() {
	const many, half = 50, 25
	s.may(s.m.Alice, "rm -f go many; touch many")
	var all [many]*lab.Cmd
	var said [many]bytes.Buffer
	for i := range all {
		all[i] = s.command(s.m.Alice, "exec uplane run steam -- sh -c 'echo here >>many; until [ -e go ]; do sleep 1; done; exit 3'")
		all[i].Stderr = &said[i]
		if err := all[i].Start(); err != nil {
			s.Fatal(err)
		}
		started := i + 1
		for late := time.Now().Add(time.Minute); started%half == 0 && s.may(s.m.Alice, "wc -l <many") != fmt.Sprintln(started) && time.Now().Before(late); {
			time.Sleep(100 * time.Millisecond)
		}
	}
	if got := s.may(s.m.Alice, "uplane ps steam | grep -c 'echo here'; touch go"); got != "50\n" {
		s.Errorf("of %d programs there are %s", many, got)
	}
	for i, c := range all {
		_ = c.Wait()
		if code := c.ProcessState.ExitCode(); code != 3 {
			s.Errorf("program %d ends with %d: %s", i, code, said[i].String())
		}
	}
	s.noUnits()
}

// outlivesDaemon: a program and its exit code need no daemon any more, and the next daemon knows it.
func (s *forkTest) outlivesDaemon() {
	start := func(name string) *lab.Cmd {
		c := s.command(s.m.Alice, "rm -f go; exec uplane run steam -- sh -c 'echo $$ >"+name+"; until [ -e go ]; do sleep 0.01; done; exit 7'")
		if err := c.Start(); err != nil {
			s.Fatal(err)
		}
		waitFor(s.T, func() bool { return s.as(s.m.Alice, "test -s "+name).code == 0 }, "the program runs")
		return c
	}
	lasts, stopped := start("lasts"), start("stopped")
	s.uplane.Kill()
	s.start()
	if got := s.may(s.m.Alice, "uplane ps steam"); strings.Count(got, "until [ -e go ]") != 2 {
		s.Errorf("the next daemon sees\n%s", got)
	}
	s.may(s.m.Alice, "kill -USR1 $(cat stopped); touch go")
	_, _ = lasts.Wait(), stopped.Wait()
	if a, b := lasts.ProcessState.ExitCode(), stopped.ProcessState.String(); a != 7 || b != "exit status 138" {
		s.Errorf("they end with %d and %s", a, b)
	}
	s.noUnits()
	c := start("third")
	s.uplane.Kill()
	s.start()
	s.may(s.m.Alice, "uplane stop steam")
	if err := c.Wait(); err == nil || err.Error() != "signal: terminated" {
		s.Errorf("a stopped program ends with %v", err)
	}
	s.noUnits()
}

// buries: of what has ended nothing stays, neither processes, as zombies, nor descriptors.
func (s *forkTest) buries() {
	const daemon, open = "$(pgrep -x uplaned)", "ls /proc/$(pgrep -x uplaned)/fd | wc -l"
	s.may(s.m.Alice, "uplane run steam true")
	before := s.sh(open)
	s.may(s.m.Alice, "for i in 1 2 3 4 5 6 7 8 9 10; do uplane run steam true; done; ! uplane run nosuch true")
	waitFor(s.T, func() bool { return s.sh("ps --ppid "+daemon+" -o stat=,args= || :") == "" }, "all children of the daemon are buried")
	if after := s.sh(open); after != before {
		s.Errorf("the daemon has %s files open, and before had %s", after, before)
	}
	if left := s.sh("ls -d /tmp/uplane-run-* /run/user/1000/uplane-run-* 2>/dev/null || :"); left != "" {
		s.Errorf("left: %s", left)
	}
	if got := s.sh("grep -E ' /etc/netns|/resolv.conf |/nsswitch.conf ' /proc/self/mountinfo || :"); got != "" {
		s.Errorf("mounts leak out:\n%s", got)
	}
}
