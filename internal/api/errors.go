package api

import (
	"errors"
	"fmt"

	"github.com/godbus/dbus/v5"
)

// Kind is what is wrong, for programs: the last word of an error's name.
type Kind string

// The kinds of error, org.uplane.Uplane1.Error.KIND on the bus.
const (
	NoSuchLane      Kind = "NoSuchLane"
	InvalidArgument Kind = "InvalidArgument"
	UplinkMissing   Kind = "UplinkMissing" // of a lane to be made
	NotAuthorized   Kind = "NotAuthorized"
	Refused         Kind = "Refused" // a program of this caller, whoever it is
	Failed          Kind = "Failed"  // all else
)

const errorPrefix = Name + ".Error."

// Error is an error that crosses the bus: its text is for people.
type Error struct {
	Kind Kind
	Text string
}

func (e *Error) Error() string { return e.Text }

// Errorf makes an Error.
func Errorf(kind Kind, format string, args ...any) *Error {
	return &Error{kind, fmt.Sprintf(format, args...)}
}

// D-Bus's own errors, for callers that got the API itself wrong. Their names
// are what the tools and bindings know.
const (
	unknownObject    = driver + ".Error.UnknownObject"
	unknownInterface = driver + ".Error.UnknownInterface"
	unknownMethod    = driver + ".Error.UnknownMethod"
	unknownProperty  = driver + ".Error.UnknownProperty"
	readOnly         = driver + ".Error.PropertyReadOnly"
	invalidArgs      = driver + ".Error.InvalidArgs"
	limitsExceeded   = driver + ".Error.LimitsExceeded"
	// interactiveRequired tells that polkit would ask the user if the caller allowed it.
	interactiveRequired = driver + ".Error.InteractiveAuthorizationRequired"
)

func protocolError(name, format string, args ...any) error {
	return &dbus.Error{Name: name, Body: []any{fmt.Sprintf(format, args...)}}
}

// busError returns the name and text of an error on the bus.
func busError(err error) (name, text string) {
	var ours *Error
	var theirs *dbus.Error
	switch {
	case errors.As(err, &ours):
		return errorPrefix + string(ours.Kind), err.Error()
	case errors.As(err, &theirs):
		return theirs.Name, theirs.Error()
	}
	return errorPrefix + string(Failed), err.Error()
}
