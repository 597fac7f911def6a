package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/pelletier/go-toml/v2/unstable"
)

// parsed is what one file says and where.
type parsed struct {
	settings
	at map[string]position // of every key that is there
}

// maxErrors ends a file that is no lane file at all.
const maxErrors = 20

// parse reads the file named file, a lane's or with defaults set uplane.toml,
// on top of base. The errors are all of type *Error and in the file's order;
// wrong TOML, and a table, end the file there.
func parse(file string, data []byte, base settings, defaults bool) (parsed, []error) {
	got := parsed{base, make(map[string]position)}
	var errs []error
	var p unstable.Parser
	p.Reset(data)
	for len(errs) < maxErrors && p.NextExpression() {
		if err := got.expression(&p, file, defaults, func(err error) { errs = append(errs, err) }); err != nil {
			errs = append(errs, err)
		}
		if p.Expression().Kind != unstable.KeyValue {
			return got, errs // what follows belongs to that table, and would be judged as if it did not
		}
	}
	if err := p.Error(); err != nil {
		errs = append(errs, syntaxError(&p, file, data, err))
	}
	return got, errs
}

// expression takes the parser's current line, mostly KEY = VALUE. An error ends
// the line; wrong values in it are reported one by one.
func (got *parsed) expression(p *unstable.Parser, file string, defaults bool, report func(error)) error {
	name, at := keyOf(p, p.Expression())
	refuse := func(at position, format string, args ...any) error {
		return &Error{file, at.line, at.column, name, fmt.Sprintf(format, args...)}
	}
	if kind := p.Expression().Kind; kind != unstable.KeyValue {
		return refuse(at, "a table has no meaning here; use KEY = VALUE lines without [%s] above them", name)
	}
	k, known := keyNamed(name)
	switch {
	case !known:
		return refuse(at, "unknown key; use %s", keyNames(defaults))
	case !defaults && name == firewall.name:
		return refuse(at, "it is for all lanes together; set it in uplane.toml")
	case defaults && k.own != "":
		return refuse(at, "not a default: %s", k.own)
	}
	if first, twice := got.at[name]; twice {
		return refuse(at, "duplicate key; it is in line %d already, use it once", first.line)
	}
	got.at[name] = at
	k.read(&got.settings, valueOf(p, p.Expression().Value(), at), func(v value, err error) {
		msg := err.Error()
		if errors.As(err, new(vague)) {
			msg += "; use " + k.want
		}
		report(refuse(v.position, "%s", msg))
	})
	if defaults && name == "bridge" && got.lane.Bridge != "" {
		return refuse(at, "not a default: %s, or use false or true here", onlyOne)
	}
	return nil
}

// keyOf returns the possibly dotted key of an expression, or the name of a
// table, fit to print, and where it is.
func keyOf(p *unstable.Parser, n *unstable.Node) (string, position) {
	var parts []string
	var at position
	for it := n.Key(); it.Next(); {
		if at.line == 0 {
			at = positionOf(p, it.Node().Raw)
		}
		part := string(it.Node().Data)
		if !bareKey().MatchString(part) {
			part = fmt.Sprintf("%.40q", part) // it will be printed on terminals
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "."), at
}

var bareKey = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_-]{1,40}$`) })

// keyLine finds the key, and the start of its value unless that is a string or
// a list, in a line that is no valid TOML.
var keyLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\s*([a-z0-9]+)\s*=\s*([^"'\[\s]?)`) })

// syntaxError gives the parser's error its place, the key if the line still
// shows it, and what is allowed if the value has no quotes: to forget them is the
// most common slip.
func syntaxError(p *unstable.Parser, file string, data []byte, err error) error {
	e := &Error{File: file, Line: 1, Column: 1, Msg: "invalid TOML: " + err.Error()}
	var perr *unstable.ParserError
	if errors.As(err, &perr) {
		at := positionOf(p, p.Range(perr.Highlight))
		e.Line, e.Column = at.line, at.column
	}
	line := strings.Split(string(data), "\n")[e.Line-1]
	if m := keyLine().FindStringSubmatch(line); m != nil {
		if k, ok := keyNamed(m[1]); ok {
			e.Key = k.name
			if m[2] != "" {
				e.Msg += "; use " + k.want
			}
		}
	}
	return e
}
