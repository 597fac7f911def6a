package system

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uplane/test/lab"
)

// screen is a terminal at which somebody sits.
type screen struct {
	s      *machineTest
	master *os.File
	cmd    *lab.Cmd

	mu   sync.Mutex
	said string
	seen int // bytes of said
}

// sit has Alice run a program at a terminal; with own it is hers, otherwise somebody else's, as after su.
func (s *machineTest) sit(own bool, name string, args ...string) *screen {
	s.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		s.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		s.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		s.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		s.Fatal(err)
	}
	defer slave.Close()
	if own {
		if err := slave.Chown(1000, -1); err != nil {
			s.Fatal(err)
		}
	}
	t := &screen{s: s, master: master}
	t.resize(24, 80)
	t.cmd = s.m.Alice.CommandContext(s.ctx, name, args...)
	t.cmd.Stdin, t.cmd.Stdout, t.cmd.Stderr = slave, slave, slave
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := t.cmd.Start(); err != nil {
		s.Fatal(err)
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			t.mu.Lock()
			t.said += string(buf[:n])
			t.mu.Unlock()
		}
	}()
	return t
}

// shell has Alice sit at a shell with job control.
func (s *machineTest) shell(own bool) *screen {
	s.Helper()
	t := s.sit(own, "bash", "--norc", "--noprofile", "-i")
	t.types("PS1='> '; stty -echo; export GORACE=atexit_sleep_ms=0 INPUTRC=/dev/null; cd; set +o emacs; echo rea''dy\n")
	t.shows("ready")
	t.shows("> ")
	return t
}

func (t *screen) types(text string) {
	t.s.Helper()
	if _, err := t.master.WriteString(text); err != nil {
		t.s.Fatal(err)
	}
}

// shows waits until the screen shows something that it had not before.
func (t *screen) shows(text string) {
	t.s.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		t.mu.Lock()
		at := strings.Index(t.said[t.seen:], text)
		if at >= 0 {
			t.seen += at + len(text)
		}
		rest := t.said[t.seen:]
		t.mu.Unlock()
		if at >= 0 {
			return
		}
		if time.Now().After(deadline) {
			t.s.Fatalf("the terminal does not show %q, but %q, after %q", text, rest, t.said[:t.seen])
		}
	}
}

// has tells whether the screen shows something that it had not before.
func (t *screen) has(text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Contains(t.said[t.seen:], text)
}

// does types a line and waits for what it shows.
func (t *screen) does(line string, shows ...string) {
	t.s.Helper()
	t.types(line + "\n")
	for _, text := range shows {
		t.shows(text)
	}
}

func (t *screen) resize(rows, columns uint16) {
	t.s.Helper()
	if err := unix.IoctlSetWinsize(int(t.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.s.Fatal(err)
	}
}

func (t *screen) leave() {
	t.s.Helper()
	_ = t.cmd.Process.Kill()
	_ = t.cmd.Wait()
	t.master.Close()
}

const (
	ctrlC = "\x03"
	ctrlD = "\x04"
	ctrlZ = "\x1a"
)

func (s *machineTest) runsOnTerminal() {
	for _, own := range []bool{true, false} {
		t := s.shell(own)
		t.does("before=$(stty -g)", "> ")
		s.shellInLane(t)
		s.jobOfLane(t)
		s.lazyTerminal(t)
		s.killedAtTerminal(t)
		t.leave()
	}
	s.noUnits()
}

// shellInLane has a shell in the lane, with jobs of its own.
func (s *machineTest) shellInLane(t *screen) {
	t.does("uplane run steam -- bash --norc --noprofile -i")
	t.types("PS1='lane> '; stty -echo; set +o emacs; echo rea''dy\n")
	t.shows("ready")
	t.shows("lane> ")
	t.does("echo $((6*7)) $(tty) $(stty size)", "42 /dev/pts/", "24 80")
	t.does("cat </dev/tty")
	t.does("line", "line")
	t.types(ctrlC)
	t.shows("lane> ")
	t.does("echo co''de $?", "code 130")
	t.does("sleep 1000")
	s.inForeground("sleep")
	t.types(ctrlZ)
	t.shows("Stopped")
	t.does("jobs; kill %1; wait; echo all ov''er", "sleep 1000", "all over")
	t.does(`sh -c 'trap "stty size; exit" WINCH; echo set; while :; do sleep 0.02; done'`, "set")
	t.resize(40, 132)
	t.shows("40 132")
	t.shows("lane> ")
	t.types("exit 9\n")
	t.shows("> ")
	t.does("echo co''de $?; [ \"$before\" = \"$(stty -g)\" ] && echo sa''ne", "code 9", "sane")
	// What draws on the screen, byte by byte.
	t.types("uplane run steam -- top\n")
	t.shows("load average")
	t.types("q")
	t.shows("> ")
	t.does("echo co''de $?; [ \"$before\" = \"$(stty -g)\" ] && echo sa''ne", "code 0", "sane")
}

// TestMachineShells has Alice's own shell, whichever it is, say in its prompt where it is, and an editor in a lane.
func TestMachineShells(t *testing.T) {
	t.Parallel()
	onDebians(t, func(t *testing.T, release lab.Debian) {
		s := newDesktopTest(t, release)
		s.write("/home/alice/.bashrc", "PS1='own> '\n")
		s.write("/home/alice/.zshrc", "PROMPT='own> '\nunsetopt zle prompt_cr prompt_sp\n")
		s.sh("mkdir -p /home/alice/.config/fish; chown -R alice: /home/alice")
		s.write("/home/alice/.config/fish/config.fish", "function fish_prompt; printf 'own> '; end\n")
		for _, shell := range []string{"bash", "zsh", "fish", "dash"} {
			s.step(shell, func() { s.promptsWithLane(shell) })
		}
		s.step("vim", s.edits)
		if left := s.sh("ls -d /run/user/1000/uplane-* /tmp/uplane-* 2>/dev/null || :"); left != "" {
			s.Errorf("left: %s", left)
		}
	})
}

func (s *machineTest) promptsWithLane(shell string) {
	t := s.shell(true)
	defer t.leave()
	t.does("TERM=dumb ZDOTDIR=/home/alice SHELL=/usr/bin/" + shell + " uplane shell steam; echo co''de $?")
	prompt := "(steam) own> "
	if shell == "dash" {
		prompt = "(steam) $ "
	}
	t.shows(prompt)
	t.does("echo in $UPLANE_LANE $ZDOTDIR", "in steam /home/alice", prompt)
	t.does("ls -l /proc/self/fd | grep -c uplane-; true", "0", prompt)
	if shell == "dash" || shell == "bash" {
		t.does("nosuchcommand; echo co''de $?", "code 127", prompt)
	}
	t.does("exit 7", "code 7")
	// One that can't start leaves nothing.
	t.does("SHELL=/usr/bin/"+shell+" uplane shell nosuch; echo co''de $?", "there is no lane", "code 125")
}

// edits has the editor draw on the screen, hear of another size, write a file, and leave the terminal as it was.
func (s *machineTest) edits() {
	t := s.shell(true)
	defer t.leave()
	t.does("before=$(stty -g); TERM=linux uplane run steam -- vim.tiny -u NONE letter", "\"letter\" [New")
	t.types("ihello\x1b:set lines?\n")
	t.shows("lines=24")
	t.resize(33, 99)
	t.shows("~" + strings.Repeat(" ", 98)) // it draws anew
	t.types(":set columns?\n")
	t.shows("columns=99")
	t.types(":wq\n")
	t.shows("> ")
	t.does("cat letter; [ \"$before\" = \"$(stty -g)\" ] && echo sa''ne", "hello", "sane")
}

// inForeground waits until a program has the foreground of its terminal, in a lane.
func (s *machineTest) inForeground(name string) {
	s.Helper()
	waitFor(s.T, func() bool { return strings.Contains(s.sh("ps -C "+name+" -o stat= || :"), "+") }, name+" has the foreground")
}

// jobOfLane has a program in the lane as a job of the shell outside.
func (s *machineTest) jobOfLane(t *screen) {
	t.does("uplane run steam -- cat", "")
	s.inForeground("cat")
	t.does("hello", "hello")
	t.types(ctrlZ)
	t.shows("Stopped")
	t.shows("> ")
	if got := s.sh("ps -o stat= -p $(pgrep -u alice -x cat)"); !strings.HasPrefix(got, "T") {
		s.Errorf("cat is %q, not stopped", got)
	}
	t.does("echo co''de $?; [ \"$before\" = \"$(stty -g)\" ] && echo sa''ne", "sane")
	t.types("fg\n")
	t.shows("uplane run steam")
	s.inForeground("cat")
	t.does("again", "again")
	t.types(ctrlD)
	t.shows("> ")
	t.does("echo co''de $?", "code 0")

	// In the background it stops when it wants to read.
	t.types("uplane run steam -- cat &\n")
	waitFor(s.T, func() bool { // bash tells of it before a prompt
		t.types("\n")
		return t.has("Stopped")
	}, "cat stops, for it wants to read")
	t.shows("Stopped")
	t.types("fg\n")
	s.inForeground("cat")
	t.does("three", "three")
	t.types(ctrlC)
	t.shows("> ")
	t.does("echo co''de $?", "code 130")
	// It may write there.
	t.does("uplane run steam -- echo by''e &", "bye")
	t.does("wait; echo do''ne", "done")
	t.does("for i in 1 2 3 4 5; do uplane run steam -- seq 5000 | tail -n 1; uplane run steam -- seq 300; done | wc -l; echo do''ne", "1505", "done")
	t.does("for i in 1 2 3 4 5 6 7 8; do uplane run steam -- seq -s, 2000; done; echo do''ne",
		"1999,2000", "1999,2000", "1999,2000", "1999,2000", "1999,2000", "1999,2000", "1999,2000", "1999,2000", "done")
}

// lazyTerminal has programs of which only some descriptors are the terminal.
func (s *machineTest) lazyTerminal(t *screen) {
	t.does("echo x | uplane run steam -- cat > f; cat f; echo do''ne", "x\r\n", "done")
	t.does("uplane run steam -- sh -c 'read line </dev/tty; echo got $line' | cat")
	waitFor(s.T, func() bool { return s.shTry("grep -q 'read line' /proc/$(pgrep -n -f 'read line')/cmdline").code == 0 }, "it runs")
	t.does("this", "got this")
	t.shows("> ")
	t.does("uplane run steam -- sleep 1000 | cat; echo co''de ${PIPESTATUS[0]}")
	waitFor(s.T, func() bool { return s.shTry("pgrep -f '^sleep 1000'").code == 0 }, "sleep runs")
	t.types(ctrlZ)
	t.shows("Stopped")
	t.types("fg\n")
	waitFor(s.T, func() bool { return strings.HasPrefix(s.shTry("ps -o stat= -p $(pgrep -f '^sleep 1000')").out, "S") }, "sleep goes on")
	t.types(ctrlC)
	t.does("echo al''ive; [ \"$before\" = \"$(stty -g)\" ] && echo sa''ne", "alive", "sane")
}

// killedAtTerminal: nobody can catch SIGKILL, and still the terminal is as it was.
func (s *machineTest) killedAtTerminal(t *screen) {
	for signal, word := range map[string]string{"TERM": "Terminated", "KILL": "Killed"} {
		t.does("uplane run steam -- sh -c 'stty raw -echo; exec sleep 1000'")
		s.inForeground("sleep")
		s.sh("kill -" + signal + " $(pgrep -f '^uplane run steam')")
		t.shows(word)
		t.shows("> ")
		waitFor(s.T, func() bool { return s.shTry("pgrep -f '^sleep 1000'").code != 0 }, "the program has ended")
		t.does("[ \"$before\" = \"$(stty -g)\" ] && echo sa''ne", "sane")
	}
	t.does("uplane run steam -- sleep 1000")
	s.inForeground("sleep")
	s.sh("kill -9 $(pgrep -f '^sleep 1000')")
	t.shows("Killed")
	t.shows("> ")
	t.does("echo co''de $?; [ \"$before\" = \"$(stty -g)\" ] && echo sa''ne", "code 137", "sane")
}
