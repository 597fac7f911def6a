package api

import (
	"context"
	"strings"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"

	"uplane/internal/busguard"
)

// iface is an interface of an object on the bus.
type iface struct {
	name       string
	methods    []method
	signals    []introspect.Signal
	properties []property
}

// method is something that can be called.
type method struct {
	name    string
	in, out string // "name:signature", separated by spaces
	// needs tells what the caller must be allowed; nil: nothing.
	needs func(*request) Action
	// reads tells that run only reads what the server has told of; it then runs
	// where no signal can come between it and its answer.
	reads bool
	// process tells that run needs to know which process the caller is.
	process bool
	run     func(*request) ([]any, error)
}

// request is a call of a method.
type request struct {
	*busguard.Call
	ctx     context.Context // of the connection
	session *session
	method  *method
	path    dbus.ObjectPath
	lane    string // whose object it is; empty: another object
	allowed Action // what the caller was asked for
	uid     uint32 // whose the caller is
	caller  Caller // if the method needs it
}

// arg is an argument, whose type has been checked.
func arg[T any](r *request, i int) T { return r.Body[i].(T) }

// signature puts arguments' types together.
func signature(args string) string {
	var b strings.Builder
	for arg := range strings.FieldsSeq(args) {
		_, sig, _ := strings.Cut(arg, ":")
		b.WriteString(sig)
	}
	return b.String()
}

// introspect describes the interface.
func (i *iface) introspect() introspect.Interface {
	out := introspect.Interface{Name: i.name, Signals: i.signals}
	for _, m := range i.methods {
		out.Methods = append(out.Methods, introspect.Method{Name: m.name, Args: append(describe(m.in, "in"), describe(m.out, "out")...)})
	}
	for _, p := range i.properties {
		described := introspect.Property{Name: p.name, Type: p.signature, Access: "read"}
		if p.constant {
			described.Annotations = []introspect.Annotation{{Name: properties + ".EmitsChangedSignal", Value: "const"}}
		}
		out.Properties = append(out.Properties, described)
	}
	return out
}

func describe(args, direction string) (out []introspect.Arg) {
	for arg := range strings.FieldsSeq(args) {
		name, sig, _ := strings.Cut(arg, ":")
		out = append(out, introspect.Arg{Name: name, Type: sig, Direction: direction})
	}
	return out
}
