package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"syscall"

	"uplane/internal/api"
)

// withAgent is withDaemon for calls that may need a password. At a terminal without a desktop's polkit agent,
// pkttyagent asks for it, as it does for systemctl.
func withAgent(ctx context.Context, f func(*api.Client) error) error {
	defer startAgent()()
	return withDaemon(ctx, f)
}

// startAgent starts pkttyagent and returns when it is registered for this process. stop ends it.
func startAgent() (stop func()) {
	stop = func() {}
	if os.Geteuid() == 0 || !terminal(os.Stdin) || !terminal(os.Stderr) {
		return stop
	}
	registered, w, err := os.Pipe()
	if err != nil {
		return stop
	}
	defer registered.Close()
	agent := exec.Command("pkttyagent", "--notify-fd", "3", "--fallback")
	agent.Stdin, agent.Stdout, agent.Stderr, agent.ExtraFiles = os.Stdin, os.Stdout, os.Stderr, []*os.File{w}
	err = agent.Start()
	w.Close()
	if err != nil {
		return stop // not installed: polkit's refusal says what to do
	}
	_, _ = io.Copy(io.Discard, registered) // it closes it
	return func() {
		_ = agent.Process.Signal(syscall.SIGTERM)
		_ = agent.Wait()
	}
}
