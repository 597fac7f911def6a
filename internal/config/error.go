package config

import (
	"errors"
	"fmt"
	"strings"
)

// Error is what is wrong with a configuration file.
type Error struct {
	File   string
	Line   int    // from 1; 0: no single line is to blame, such as for a missing key
	Column int    // in bytes, from 1; 0 together with Line
	Key    string // "": the file as a whole, or not within a key
	Msg    string // what is wrong, and what is allowed
}

// Error gives "FILE:LINE: KEY: MSG", without the parts that are not known.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Msg)
	return b.String()
}

// Refused is an error about what was asked for, not about the machine: another
// value helps, and nothing was written.
type Refused struct{ error }

func (e *Refused) Unwrap() error { return e.error }

// LacksUplink tells whether all that is missing is the lane's uplink.
func (e *Refused) LacksUplink() bool {
	var one *Error
	return errors.As(e.error, &one) && one.Key == "uplink" && one.Line == 0
}
