package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"uplane/internal/api"
	"uplane/internal/oneshot"
	"uplane/nm"
)

// usageError is an error in the command line.
type usageError struct{ error }

// hinted is an error with a command that helps.
type hinted struct {
	error
	next string
}

// report prints an error as "uplane: WHAT: WHY", and below it what to try next.
func report(err error, next string) {
	fmt.Fprintln(os.Stderr, "uplane:", err)
	if next != "" {
		fmt.Fprintln(os.Stderr, "  try:", next)
	}
}

// hint returns what to try after an error, or "".
func hint(err error) string {
	var known hinted
	switch {
	case errors.As(err, &known):
		return known.next
	case errors.Is(err, api.ErrNoDaemon) && masked():
		return "sudo systemctl unmask uplaned; sudo systemctl start uplaned"
	case errors.Is(err, api.ErrNoDaemon):
		return "sudo systemctl enable --now uplaned, or sudo uplaned"
	case errors.Is(err, api.ErrDenied), errors.Is(err, nm.ErrDenied), errors.Is(err, fs.ErrPermission):
		return "the same with sudo"
	case errors.Is(err, oneshot.ErrDaemon):
		return "uplane reload, uplane status"
	case errors.Is(err, api.ErrNoBus):
		return "systemctl status dbus"
	}
	return ""
}

// masked reports whether an administrator has masked the daemon's unit.
func masked() bool {
	for _, dir := range []string{"/etc", "/run"} {
		if target, _ := os.Readlink(dir + "/systemd/system/uplaned.service"); target == os.DevNull {
			return true
		}
	}
	return false
}
