package config

import (
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// value is a TOML value with its position in the file.
type value struct {
	kind  unstable.Kind
	text  string  // a string's content, otherwise the value as it is written
	items []value // of an array; what arrays and tables within it hold is not kept
	position
}

// position is a place in a file, both counted from 1.
type position struct{ line, column int }

// valueOf copies the parser's node, whose memory the next expression reuses.
// Arrays have no position of their own in the parser's tree; they get at.
func valueOf(p *unstable.Parser, n *unstable.Node, at position) value {
	v := scalarOf(p, n, at)
	if n.Kind == unstable.Array {
		for it := n.Children(); it.Next(); {
			v.items = append(v.items, scalarOf(p, it.Node(), at))
		}
	}
	return v
}

func scalarOf(p *unstable.Parser, n *unstable.Node, at position) value {
	if n.Raw.Length > 0 {
		at = positionOf(p, n.Raw)
	}
	return value{kind: n.Kind, text: string(n.Data), position: at}
}

func positionOf(p *unstable.Parser, r unstable.Range) position {
	start := p.Shape(r).Start
	return position{start.Line, start.Column}
}

// list returns the items of an array, or the value itself as the only one: a
// list of one may be written without brackets.
func (v value) list() []value {
	if v.kind == unstable.Array {
		return v.items
	}
	return []value{v}
}

// kindWords are the values' kinds in the words of error messages.
var kindWords = map[unstable.Kind]string{
	unstable.Array:         "a list",
	unstable.InlineTable:   "a table",
	unstable.String:        "a string",
	unstable.Bool:          "true or false",
	unstable.Float:         "a fraction",
	unstable.Integer:       "a number",
	unstable.LocalDate:     "a date",
	unstable.LocalTime:     "a time",
	unstable.LocalDateTime: "a date",
	unstable.DateTime:      "a date",
}

// quote writes s as a TOML string. It differs from strconv.Quote in the control
// characters: TOML knows no \x and no \a.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			hex := strconv.FormatInt(int64(r), 16)
			b.WriteString(`\u` + strings.Repeat("0", 4-len(hex)) + hex)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// quoteList writes items as a TOML array of strings, or as a plain string when
// bare is set and there is exactly one.
func quoteList[T any](items []T, bare bool, text func(T) string) string {
	quoted := make([]string, len(items))
	for i, it := range items {
		quoted[i] = quote(text(it))
	}
	if bare && len(items) == 1 {
		return quoted[0]
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
