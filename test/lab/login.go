package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// login is as whom, and in which control group, programs start. By its control group systemd, logind
// and polkit tell to which service or session a process belongs.
type login struct {
	cgroup     *os.File            // nil: this process's
	credential *syscall.Credential // nil: root
	loginUID   string              // whom the kernel's audit names; empty: nobody
	home       string
	env        []string // nil: as everywhere
}

// admit has a program start in the login.
func (l *login) admit(c *Cmd) {
	if l == nil {
		return
	}
	if c.Dir == "" {
		c.Dir = l.home
	}
	if c.Env == nil {
		c.Env = l.env
	}
	if c.SysProcAttr == nil {
		c.SysProcAttr = &syscall.SysProcAttr{}
	}
	if l.cgroup != nil {
		c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(l.cgroup.Fd())
	}
	c.SysProcAttr.Credential = l.credential
}

// audit has the calling thread's children come from the login, or from none, whosever login this process comes from.
func (l *login) audit() error {
	const file, none = "/proc/thread-self/loginuid", "4294967295"
	uid := none
	if l != nil && l.loginUID != "" {
		uid = l.loginUID
	}
	is, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || string(is) == uid { // a kernel without audit
		return nil
	}
	return os.WriteFile(file, []byte(uid), 0)
}

// User is a node from which programs start as an ordinary user, whose group has the same number, in a folder and an
// environment, as if they had logged in. It is for hosts without systemd: see [Machine] for those with it.
func (h *Host) User(name string, id uint32, home string, env ...string) *Node {
	node := *h.Node
	node.Name = name
	node.login = &login{
		credential: &syscall.Credential{Uid: id, Gid: id}, loginUID: strconv.FormatUint(uint64(id), 10), home: home, env: env,
	}
	return &node
}

// logIn sets how programs of root, Alice and Bob start from now on: hers in the session that the
// machine's alice.service opens, through PAM, at the console, all others beside systemd itself.
func (m *Machine) logIn(ctx context.Context) error {
	beside, err := m.cgroupOf("/proc/1")
	if err != nil {
		return err
	}
	pid, err := m.Host.RunContext(ctx, "systemctl", "show", "--property=MainPID", "--value", "alice.service")
	if err != nil {
		return err
	}
	leader := "/proc/" + pid
	var environ []byte
	err = poll(ctx, 10*time.Millisecond, func() (err error) {
		environ, err = os.ReadFile(m.Host.Path(leader + "/environ"))
		if err == nil && !strings.Contains(string(environ), "XDG_SESSION_ID=") {
			err = fmt.Errorf("none in %q", environ)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for alice's session: %w", err)
	}
	session, err := m.cgroupOf(leader)
	if err != nil {
		return err
	}
	loginUID, err := os.ReadFile(m.Host.Path(leader + "/loginuid")) // by PAM
	if err != nil && !errors.Is(err, fs.ErrNotExist) {              // a kernel without audit
		return err
	}
	const alice, bob = 1000, 1001 // as debian.sh makes them
	m.Host.login = &login{cgroup: beside}
	*m.Alice, *m.Bob = *m.Host.Node, *m.Host.Node
	m.Alice.Name, m.Bob.Name = "alice", "bob"
	m.Alice.login = &login{
		cgroup: session, credential: &syscall.Credential{Uid: alice, Gid: alice}, loginUID: string(loginUID), home: "/home/alice",
		env: strings.Split(strings.TrimSuffix(string(environ), "\x00"), "\x00"),
	}
	m.Bob.login = &login{
		cgroup: beside, credential: &syscall.Credential{Uid: bob, Gid: bob}, home: "/home/bob",
		env: []string{"HOME=/home/bob", "USER=bob", "LOGNAME=bob", "SHELL=/bin/sh", "PATH=/usr/local/bin:/usr/bin:/bin"},
	}
	return nil
}

// cgroupOf opens the control group of a process of the machine, given by its folder in /proc.
func (m *Machine) cgroupOf(process string) (*os.File, error) {
	text, err := os.ReadFile(m.Host.Path(filepath.Join(process, "cgroup")))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		// The path is as this process sees it, so it is the holder's mount that has it.
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			cgroup, err := os.Open(m.holder.path("/sys/fs/cgroup" + path))
			if err == nil {
				m.keep(cgroup)
			}
			return cgroup, err
		}
	}
	return nil, fmt.Errorf("no control group in %q", text)
}
