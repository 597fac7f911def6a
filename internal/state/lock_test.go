package state

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func TestLock(t *testing.T) {
	dir := t.TempDir() + "/run/uplane"
	first, err := Acquire(t.Context(), dir, OneShot)
	must(t, err)

	// For a one-shot run others wait, but not for ever.
	ctx, cancel := context.WithTimeout(t.Context(), 3*lockPoll)
	defer cancel()
	if _, err := Acquire(ctx, dir, Daemon); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `held by "uplane apply"`) {
		t.Errorf("have %v", err)
	}
	time.AfterFunc(2*lockPoll, first.Release)
	daemon, err := Acquire(t.Context(), dir, Daemon)
	must(t, err)

	// For a daemon nobody waits.
	for _, who := range []string{OneShot, Daemon} {
		if _, err := Acquire(t.Context(), dir, who); !errors.Is(err, ErrDaemon) {
			t.Errorf("%s: have %v", who, err)
		}
	}
	daemon.Release()
	last, err := Acquire(t.Context(), dir, OneShot)
	must(t, err)
	last.Release()
	if text, _ := os.ReadFile(dir + "/lock"); !strings.HasPrefix(string(text), "uplane apply ") {
		t.Errorf("the lock says %q", text)
	}
}

// A daemon that was killed left its lock to a child for a moment.
func TestLockOfTheDead(t *testing.T) {
	dir := t.TempDir()
	child, err := Acquire(t.Context(), dir, Daemon)
	must(t, err)
	must(t, os.WriteFile(dir+"/lock", []byte("uplaned 2147483646\n"), 0o600))
	time.AfterFunc(2*lockPoll, child.Release)
	next, err := Acquire(t.Context(), dir, Daemon)
	must(t, err)
	next.Release()
}

func TestLockIsNoLink(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/precious", []byte("precious"), 0o600))
	must(t, os.Symlink("precious", dir+"/lock"))
	if _, err := Acquire(t.Context(), dir, Daemon); err == nil {
		t.Error("took a link for the lock")
	}
	if text, _ := os.ReadFile(dir + "/precious"); string(text) != "precious" {
		t.Errorf("wrote %q through a link", text)
	}
}
