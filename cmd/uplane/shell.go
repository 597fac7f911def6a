package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"uplane/internal/enter"
)

// laneVariable tells a shell, and its prompt, in which lane it is.
const laneVariable = "UPLANE_LANE"

func shellCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "shell LANE",
		Short: "Open your shell in a lane",
		Long: `Open your shell in a lane, with the lane in its prompt. bash and sh need nothing
for that; other shells find the lane's name in $UPLANE_LANE, for their own prompt.`,
		Args: laneArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			command, environ, err := laneShell(args[0])
			if err != nil {
				return err
			}
			os.Exit(enterLane(enter.Order{Lane: args[0], Command: command}, environ))
			return nil
		},
	}
}

// laneShell is the user's shell, with the lane in its prompt.
func laneShell(lane string) (command, environ []string, err error) {
	shell := os.Getenv("SHELL")
	if shell == "" {
		shell = "/bin/sh"
	}
	environ = append(os.Environ(), laneVariable+"="+lane)
	if filepath.Base(shell) != "bash" {
		// bash would take it from its own files; dash has nothing else.
		return []string{shell}, append(environ, "PS1=("+lane+") $ "), nil
	}
	// The user's own file sets the prompt, so ours has to come after it. It is one that
	// only this shell has.
	rc, err := unix.MemfdCreate("uplane-bashrc", 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a file for the prompt: %w", err)
	}
	const text = "[ ! -r ~/.bashrc ] || . ~/.bashrc\nPS1=\"($" + laneVariable + ") $PS1\"\n"
	if _, err := unix.Write(rc, []byte(text)); err != nil {
		return nil, nil, fmt.Errorf("make a file for the prompt: %w", err)
	}
	if _, err := unix.Seek(rc, 0, 0); err != nil {
		return nil, nil, err
	}
	return []string{shell, "--rcfile", fmt.Sprintf("/proc/self/fd/%d", rc)}, environ, nil
}
