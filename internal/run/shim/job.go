package shim

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// suspend does to ourselves what was done to the program, so that the shell sees it, and has it
// go on with us.
func (p *program) suspend(by syscall.Signal) {
	wants := by == syscall.SIGTTIN || by == syscall.SIGTTOU // it wants the terminal, which it has not
	t := p.terminal
	if wants && t != nil && t.foreground() {
		t.attach()
		p.conn.send(order{Continue: true, Foreground: true})
		return
	}
	had := t != nil && t.detach()
	// Nobody would have a job without a shell go on.
	if wants || !orphaned() {
		p.stopSelf(by)
	}
	foreground := t != nil && t.foreground() && (had || wants)
	if foreground {
		t.attach()
	}
	p.conn.send(order{Continue: true, Foreground: foreground})
}

// stopSelf stops our job and returns when it goes on.
func (p *program) stopSelf(by syscall.Signal) {
	if by == syscall.SIGTSTP {
		by = syscall.SIGSTOP // Go does not give up a signal that it once has caught
	}
	_ = syscall.Kill(0, by)
	for s := range p.signals {
		switch s {
		case syscall.SIGCONT:
			return
		case syscall.SIGHUP, syscall.SIGTERM: // the program shall hear of it before it goes on
			p.forward(s.(syscall.Signal))
		}
	}
}

// orphaned tells whether no shell looks after our job: no parent of it is in
// another job of our session. The kernel does not stop such a job either.
func orphaned() bool {
	session, err := unix.Getsid(0)
	if err != nil {
		return true
	}
	job := unix.Getpgrp()
	for pid := os.Getppid(); pid > 1; pid = parent(pid) {
		if sid, err := unix.Getsid(pid); err != nil || sid != session {
			return true
		}
		if group, err := unix.Getpgid(pid); err != nil || group != job {
			return err != nil
		}
	}
	return true
}

// parent is a process's parent; 0 if it has gone.
func parent(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}
