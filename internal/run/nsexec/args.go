package nsexec

import (
	"errors"
	"fmt"
	"strings"
)

// Args are the arguments of "uplane run".
type Args struct {
	Strict  bool // fail rather than run outside the lane
	Notify  bool // errors are shown on the desktop, too
	Lane    string
	Command []string
}

// Parse reads the arguments of run, "[--notify] [--strict] LANE [--] COMMAND [ARG...]".
func Parse(args []string) (a Args, err error) {
	for ; len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "--"; args = args[1:] {
		switch args[0] {
		case "--strict":
			a.Strict = true
		case "--notify":
			a.Notify = true
		default:
			return Args{}, fmt.Errorf("unknown flag %s: expected a lane and a command", args[0])
		}
	}
	if len(args) > 0 {
		a.Lane, args = args[0], args[1:]
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if a.Lane == "" || a.Lane == "--" || len(args) == 0 {
		return Args{}, errors.New("expected a lane and a command")
	}
	a.Command = args
	return a, nil
}
