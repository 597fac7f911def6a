package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"uplane/internal/run/nsexec"
)

// laneVariable tells a shell, and its prompt, in which lane it is.
const laneVariable = "UPLANE_LANE"

func shellCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "shell LANE",
		Short: "Open your shell in a lane",
		Long: `Open your shell in a lane, with the lane in its prompt: bash, zsh, fish and sh need
nothing for that; others find the lane's name in $UPLANE_LANE.`,
		Args: laneArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			command, environ, folder, err := laneShell(args[0])
			if err != nil {
				return err
			}
			code := enterLane(nsexec.Order{Lane: args[0], Command: command}, environ)
			if folder != "" {
				os.RemoveAll(folder) // a shell that did not start has left it
			}
			os.Exit(code)
			return nil
		},
	}
}

// laneShell is the user's shell, with the lane in its prompt. Prompts are set by the user's own files, so what adds the lane
// has to come after them. The folder, if there is one, is for the shell's start only.
func laneShell(lane string) (command, environ []string, folder string, err error) {
	shell := os.Getenv("SHELL")
	if shell == "" {
		shell = "/bin/sh"
	}
	environ = with(os.Environ(), laneVariable, lane)
	switch filepath.Base(shell) {
	case "bash":
		rc, err := bashRC()
		return []string{shell, "--rcfile", rc}, environ, "", err
	case "zsh":
		folder, err := zshFolder()
		if own, ok := os.LookupEnv("ZDOTDIR"); ok {
			environ = with(environ, "UPLANE_ZDOTDIR", own)
		}
		return []string{shell}, with(environ, "ZDOTDIR", folder), folder, err
	case "fish":
		return []string{shell, "--init-command", fishPrompt}, environ, "", nil
	}
	return []string{shell}, with(environ, "PS1", "("+lane+") $ "), "", nil
}

// with returns the environment with a variable, once.
func with(environ []string, name, value string) []string {
	environ = slices.DeleteFunc(environ, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
	return append(environ, name+"="+value)
}

const bashPrompt = `[ ! -r ~/.bashrc ] || . ~/.bashrc
PS1="($UPLANE_LANE) $PS1"
exec %d<&-
`

// bashRC makes a file in memory that only the shell has, and closes when it has read it.
func bashRC() (path string, err error) {
	file, err := unix.MemfdCreate("uplane-bashrc", 0)
	if err == nil {
		_, err = unix.Write(file, fmt.Appendf(nil, bashPrompt, file))
	}
	if err != nil {
		return "", fmt.Errorf("make a file for the prompt: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", file), nil
}

// zshPrompt is read first of all, takes itself away, and has the prompt changed whenever it is shown.
const zshPrompt = `rm -f -- "$ZDOTDIR/.zshenv"
rmdir -- "$ZDOTDIR"
if (( ${+UPLANE_ZDOTDIR} )); then
	ZDOTDIR=$UPLANE_ZDOTDIR
	unset UPLANE_ZDOTDIR
else
	unset ZDOTDIR
fi
[[ ! -r ${ZDOTDIR:-$HOME}/.zshenv ]] || . "${ZDOTDIR:-$HOME}/.zshenv"
_uplane_prompt() { [[ $PROMPT == "($UPLANE_LANE) "* ]] || PROMPT="($UPLANE_LANE) $PROMPT" }
precmd_functions+=(_uplane_prompt)
`

// zshFolder makes a folder of its own for the shell's first file, for zsh has no option for one.
func zshFolder() (dir string, err error) {
	if dir, err = os.MkdirTemp(os.Getenv("XDG_RUNTIME_DIR"), "uplane-zsh-"); err != nil {
		dir, err = os.MkdirTemp("", "uplane-zsh-") // that was another user's, as after su
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, ".zshenv"), []byte(zshPrompt), 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("make a file for the prompt: %w", err)
	}
	return dir, nil
}

const fishPrompt = `functions --copy fish_prompt _uplane_prompt
function fish_prompt; printf '(%s) ' $UPLANE_LANE; _uplane_prompt; end`
