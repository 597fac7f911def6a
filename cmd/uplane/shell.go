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

// laneVariable is the environment variable with the lane's name, for prompts.
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
			code := enterLane(nsexec.Args{Lane: args[0], Command: command}, environ)
			if folder != "" {
				os.RemoveAll(folder) // a shell that did not start has left it
			}
			os.Exit(code)
			return nil
		},
	}
}

// laneShell returns the user's shell with the lane in its prompt. The user's own startup files set the prompt, so the lane is
// added after them. folder, if not empty, is needed only while the shell starts.
func laneShell(lane string) (command, environ []string, folder string, err error) {
	shell := os.Getenv("SHELL")
	if shell == "" {
		shell = "/bin/sh"
	}
	environ = setVariable(os.Environ(), laneVariable, lane)
	switch filepath.Base(shell) {
	case "bash":
		rc, err := bashRC()
		return []string{shell, "--rcfile", rc}, environ, "", err
	case "zsh":
		folder, err := zshFolder()
		if own, ok := os.LookupEnv("ZDOTDIR"); ok {
			environ = setVariable(environ, "UPLANE_ZDOTDIR", own)
		}
		return []string{shell}, setVariable(environ, "ZDOTDIR", folder), folder, err
	case "fish":
		return []string{shell, "--init-command", fishPrompt}, environ, "", nil
	}
	return []string{shell}, setVariable(environ, "PS1", "("+lane+") $ "), "", nil
}

// setVariable returns environ with one variable set.
func setVariable(environ []string, name, value string) []string {
	environ = slices.DeleteFunc(environ, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
	return append(environ, name+"="+value)
}

const bashPrompt = `[ ! -r ~/.bashrc ] || . ~/.bashrc
PS1="($UPLANE_LANE) $PS1"
exec %d<&-
`

// bashRC makes a startup file in memory. Only the shell has it, and closes it after reading.
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

// zshPrompt is the first startup file that zsh reads. It deletes itself, and adds the lane each time the prompt is shown.
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

// zshFolder makes a folder with that startup file, because zsh has no option to name one.
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
