package system

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"time"

	"uplane/test/lab"
)

// result is what a program printed and how it ended.
type result struct {
	out, err string
	code     int
}

// try runs a program on the host, which may fail.
func (s *site) try(name string, args ...string) result {
	s.Helper()
	return s.finish(s.world.Host.CommandContext(s.ctx, name, args...))
}

// uplaneTry runs uplane, which may fail.
func (s *site) uplaneTry(args ...string) result {
	s.Helper()
	return s.try("uplane", args...)
}

// shTry runs a script on the host, which may fail.
func (s *site) shTry(script string) result {
	s.Helper()
	return s.try("sh", "-c", script)
}

func (s *site) finish(c *lab.Cmd) result {
	s.Helper()
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.Fatalf("%v: %v", c.Args, err)
	}
	return result{out.String(), errs.String(), c.ProcessState.ExitCode()}
}

// requireFailure checks the exit code and that stderr says all of words, with nothing on stdout.
func (s *site) requireFailure(r result, code int, words ...string) {
	s.Helper()
	if r.code != code || r.out != "" {
		s.Errorf("exit code %d, not %d, with %q on stdout and on stderr:\n%s", r.code, code, r.out, r.err)
	}
	for _, w := range words {
		if !strings.Contains(r.err, w) {
			s.Errorf("no %q in:\n%s", w, r.err)
		}
	}
}

// write writes a file on the host.
func (s *site) write(path, text string) {
	s.Helper()
	if err := os.WriteFile(s.world.Host.Path(path), []byte(text), 0o644); err != nil {
		s.Fatal(err)
	}
}

// writeLane writes a lane's file, as an administrator with an editor does.
func (s *site) writeLane(name, text string) {
	s.Helper()
	s.sh("mkdir -p /etc/uplane/lanes.d")
	s.write("/etc/uplane/lanes.d/"+name+".toml", text)
}

// longer gives a test that takes its time a context of its own.
func (s *site) longer(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	s.Cleanup(cancel)
	s.ctx = ctx
}

// start starts the daemon again.
func (s *site) start() {
	s.Helper()
	if err := s.uplane.Start(s.ctx); err != nil {
		s.Fatal(err)
	}
}

// settled waits until the daemon has nothing more to do for a lane.
func (s *site) settled(lane string) {
	s.Helper()
	waitFor(s.T, func() bool {
		r := s.uplaneTry("plan", lane)
		return r.code == 0 && r.out == ""
	}, "lane "+lane+" is as it shall be")
}

// withoutTrace waits until the host is as it was.
func (s *site) withoutTrace(before string) {
	s.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for s.traces() != before && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	requireSame(s.T, before, s.traces())
}
