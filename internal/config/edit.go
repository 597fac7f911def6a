package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/pelletier/go-toml/v2/unstable"
)

// editText returns data with the changes made to it, see Edit. A key that is
// there keeps its place and the comment behind it; a new one goes to the end; a
// key that is taken out takes its line with it. The result is read back, and an
// error returned, unless it means exactly what was asked: then a person has to
// do it.
func editText(file string, data []byte, changes map[string]any) ([]byte, error) {
	old, _ := parse(file, data, builtin, false)
	want := old
	want.at = maps.Clone(old.at)
	edited := data
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		if _, ok := keyNamed(name); !ok || name == firewall.name {
			return nil, fmt.Errorf("unknown key %.40q; use %s", name, keyNames(false))
		}
	}
	for _, k := range keys {
		name := k.name
		change, ok := changes[name]
		if !ok {
			continue
		}
		var line string
		if change == nil {
			delete(want.at, name)
		} else {
			v, err := literal(change)
			if err != nil {
				return nil, fmt.Errorf("%s: %w; use %s", name, err, k.want)
			}
			line = name + " = " + v
			got, errs := parse(file, []byte(line), want.settings, false)
			if errs != nil {
				var e *Error
				errors.As(errs[0], &e)
				return nil, fmt.Errorf("%s: %s", name, e.Msg)
			}
			want.settings = got.settings
			want.at[name] = got.at[name]
		}
		var err error
		if edited, err = replaceKey(edited, name, line); err != nil {
			return nil, byHand(file, name, err)
		}
	}

	got, errs := parse(file, edited, builtin, false)
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	for _, k := range keys {
		_, is := got.at[k.name]
		_, should := want.at[k.name]
		if is != should || is && k.show(got.settings) != k.show(want.settings) {
			return nil, byHand(file, k.name, errors.New("the line cannot be told from what is around it"))
		}
	}
	return edited, nil
}

// byHand tells the user to do what we cannot do safely.
func byHand(file, key string, err error) error {
	return &Error{File: file, Key: key, Msg: err.Error() + "; edit the file by hand"}
}

// replaceKey puts line, or nothing when it is empty, in the place of the key's
// value, or at the end when the key is not there.
func replaceKey(data []byte, name, line string) ([]byte, error) {
	var p unstable.Parser
	p.KeepComments = true
	p.Reset(data)
	for p.NextExpression() {
		n := p.Expression()
		if n.Kind != unstable.KeyValue {
			continue
		}
		if key, _ := keyOf(&p, n); key != name {
			continue
		}
		for it := n.Value().Children(); it.Next(); {
			if it.Node().Kind == unstable.Comment {
				return nil, errors.New("there is a comment within the value, which would be lost")
			}
		}
		start, end := int(n.Raw.Offset), int(n.Raw.Offset+n.Raw.Length)
		if line == "" {
			start = bytes.LastIndexByte(data[:start], '\n') + 1
			if eol := bytes.IndexByte(data[end:], '\n'); eol >= 0 {
				end += eol + 1
			} else {
				end = len(data)
			}
		}
		return slices.Concat(data[:start], []byte(line), data[end:]), nil
	}
	if err := p.Error(); err != nil {
		return nil, fmt.Errorf("invalid TOML: %w", err)
	}
	if line == "" {
		return data, nil
	}
	if len(data) > 0 && data[len(data)-1] != '\n' {
		line = "\n" + line
	}
	return slices.Concat(data, []byte(line+"\n")), nil
}

// literal writes the value of a change in TOML.
func literal(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return quote(v), nil
	case bool:
		return strconv.FormatBool(v), nil
	case int:
		return strconv.Itoa(v), nil
	case uint32:
		return strconv.FormatUint(uint64(v), 10), nil
	case []string:
		return quoteList(v, false, func(s string) string { return s }), nil
	}
	return "", fmt.Errorf("a value of type %T", v)
}
