package nsexec

import (
	"errors"
	"fmt"
	"io/fs"
)

// Exit codes of run, as env(1) and nohup(1) have them.
const (
	ExitFailed     = 125 // uplane itself failed
	exitCannotExec = 126
	exitNotFound   = 127
)

// Failure is an error that has an exit code, and may have a hint.
type Failure struct {
	Code int
	Err  error
	Next string // what to try
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// CannotExec tells that a program was found and still can't be executed.
func CannotExec(path string, err error) *Failure {
	code := exitCannotExec
	if errors.Is(err, fs.ErrNotExist) { // its interpreter
		code = exitNotFound
	}
	return &Failure{Code: code, Err: fmt.Errorf("%s: %w", path, err)}
}
