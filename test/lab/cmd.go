package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"uplane/internal/nsthread"
)

// Cmd is an [exec.Cmd] that starts in a node. Its process is a child of this one, so signals sent
// to Process reach it, and Process.Pid is its ID outside; inside it has another. Its Path is looked
// up in the world's own file system. It dies with the world.
type Cmd struct {
	*exec.Cmd
	node    *Node
	prepare func() error // the thread that starts it; nil: nothing
	wait    func() error // once
}

// Command is like [exec.Command] for a program in the node. Dir, when empty, is "/"; Env, when nil,
// is this process's, without its D-Bus addresses and with the sbin directories in PATH.
func (n *Node) Command(name string, args ...string) *Cmd {
	return n.CommandContext(context.Background(), name, args...)
}

// CommandContext is [Node.Command] for a program that is killed when ctx ends.
func (n *Node) CommandContext(ctx context.Context, name string, args ...string) *Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Path, cmd.Err = name, nil // Start looks it up, inside
	c := &Cmd{Cmd: cmd, node: n}
	c.wait = sync.OnceValue(c.reap)
	return c
}

// Start starts the program, see [exec.Cmd.Start].
func (c *Cmd) Start() error {
	c.node.login.admit(c)
	if c.Dir == "" {
		c.Dir = "/"
	}
	if c.Env == nil {
		c.Env = environ()
	}
	return c.node.world.spawn(c, func() error {
		// A child is born into the login and the namespaces of the thread that forks it.
		return nsthread.Run(func() error {
			if err := c.node.login.audit(); err != nil {
				return err
			}
			if err := c.node.place.enter(c.node.ns); err != nil {
				return err
			}
			if c.Path == c.Args[0] {
				path, err := lookPath(c.Path)
				if err != nil {
					return err
				}
				c.Path = path
			}
			if c.prepare != nil {
				if err := c.prepare(); err != nil {
					return err
				}
			}
			return c.Cmd.Start()
		})
	})
}

// startLogged starts the program with its output in its place's log of this name.
func (c *Cmd) startLogged(name string) error {
	path := c.node.place.logPath(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.Args[0], err)
	}
	return nil
}

// Wait waits for the program to end, see [exec.Cmd.Wait]. It may be called more than once.
func (c *Cmd) Wait() error {
	if c.Process == nil {
		return errors.New("lab: not started")
	}
	return c.wait()
}

func (c *Cmd) reap() error {
	defer c.node.world.reaped(c)
	return c.Cmd.Wait()
}

// Run starts the program and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the program and returns its standard output.
func (c *Cmd) Output() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout = &out
	err := c.Run()
	return out.Bytes(), err
}

// CombinedOutput runs the program and returns its standard output and standard error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// Run runs a program in the node and returns what it printed, on either stream and without the last
// newline. The error, if any, has the command line and that output.
func (n *Node) Run(name string, args ...string) (string, error) {
	return n.RunContext(context.Background(), name, args...)
}

// RunContext is [Node.Run] for a program that is killed when ctx ends.
func (n *Node) RunContext(ctx context.Context, name string, args ...string) (string, error) {
	return n.CommandContext(ctx, name, args...).text()
}

// text runs the command for [Node.Run].
func (c *Cmd) text() (string, error) {
	out, err := c.CombinedOutput()
	text := strings.TrimSuffix(string(out), "\n")
	if err != nil {
		return text, fmt.Errorf("%s: %s: %w: %s", c.node.Name, strings.Join(c.Args, " "), err, text)
	}
	return text, nil
}

// environ is this process's environment, less what would lead a program out of the world.
func environ() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "DBUS_") || strings.HasPrefix(v, "XDG_") || strings.HasPrefix(v, "PATH=")
	})
	return append(env, "PATH="+searchPath())
}

// searchPath is PATH with the directories that root's tools are in: a plain su leaves them out.
func searchPath() string {
	return os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
}

// lookPath is [exec.LookPath] on the calling thread's file system and on searchPath.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(searchPath()) {
		path := filepath.Join(dir, name)
		if filepath.IsAbs(path) && unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}
