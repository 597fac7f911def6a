// Package desktop makes launchers: desktop entries that start an installed
// program in a lane, out of the entry by which it starts outside. It follows
// freedesktop.org's Desktop Entry Specification 1.5, and never runs anything.
package desktop

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxSize is the longest entry that is read, bytes. The longest of Debian's, with
// all its translations, has a tenth of that.
const MaxSize = 1 << 20

// mainGroup is the first group of an entry; actionGroup begins the name of an action's.
const mainGroup, actionGroup = "Desktop Entry", "Desktop Action "

// laneKey marks our launchers, and only those.
const laneKey = "X-Uplane-Lane"

// Entry is a desktop entry.
type Entry struct{ lines []line }

// line is a line of an entry. What it means counts as glib and KDE read it; what we do not change goes on as it is.
type line struct {
	text  string
	group string // the group that it is in, or begins
	key   string // with its locale, as in Name[de]; empty: a comment, or a group's header
	value string // as it is written, with escapes
}

// Parse reads a desktop entry.
func Parse(data []byte) (Entry, error) {
	if len(data) > MaxSize {
		return Entry{}, fmt.Errorf("larger than %d KiB", MaxSize>>10)
	}
	var e Entry
	group := ""
	for n, text := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		l := line{text: strings.TrimSuffix(text, "\r")}
		bare := trim(l.text)
		switch {
		case bare == "" || bare[0] == '#':
		case bare[0] == '[':
			name, closed := strings.CutSuffix(bare[1:], "]")
			if !closed || strings.ContainsAny(name, "[]") {
				return Entry{}, fmt.Errorf("line %d is no group's header: %.60q", n+1, bare)
			}
			if group == "" && name != mainGroup {
				return Entry{}, fmt.Errorf("line %d: the first group is not [%s]", n+1, mainGroup)
			}
			group = name
		default:
			key, value, found := strings.Cut(bare, "=")
			l.key, l.value = trim(key), trim(value)
			if !found || l.key == "" || group == "" {
				return Entry{}, fmt.Errorf("line %d is no desktop entry's: %.60q", n+1, bare)
			}
		}
		l.group = group
		e.lines = append(e.lines, l)
	}
	if group == "" {
		return Entry{}, errors.New("it has no group [" + mainGroup + "]")
	}
	return e, nil
}

// trim takes white space away, which is ASCII's.
func trim(text string) string { return strings.Trim(text, " \t\r\v\f") }

// get returns a value as it is written. Of several the last counts, as for glib.
func (e Entry) get(group, key string) (value string, found bool) {
	for _, l := range e.lines {
		if l.group == group && l.key == key {
			value, found = l.value, true
		}
	}
	return value, found
}

func (e Entry) is(key string) bool {
	value, _ := e.get(mainGroup, key)
	return value == "true" || value == "1" // as glib has it
}

// Name is the program's name, for a line of text.
func (e Entry) Name() string {
	value, _ := e.get(mainGroup, "Name")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, unescape(value))
}

// Lane is the lane of a launcher of ours; empty: it is none.
func (e Entry) Lane() string {
	lane, _ := e.get(mainGroup, laneKey)
	return lane
}

// Shown tells whether menus show the entry as a program.
func (e Entry) Shown() bool {
	kind, _ := e.get(mainGroup, "Type")
	return kind == "Application" && !e.is("Hidden") && !e.is("NoDisplay")
}

var escapes = map[byte]byte{'s': ' ', 'n': '\n', 't': '\t', 'r': '\r', '\\': '\\'}

// unescape returns what a value of type string says.
func unescape(value string) string {
	var out strings.Builder
	for i := 0; i < len(value); i++ {
		if value[i] == '\\' && i+1 < len(value) && escapes[value[i+1]] != 0 {
			i++
			out.WriteByte(escapes[value[i]])
			continue
		}
		out.WriteByte(value[i])
	}
	return out.String()
}

var escaper = strings.NewReplacer("\\", "\\\\", "\n", "\\n", "\t", "\\t", "\r", "\\r")

// escape is the value of type string that says text.
func escape(text string) string {
	escaped := escaper.Replace(text)
	if strings.HasPrefix(escaped, " ") { // which would be the separator's
		escaped = "\\s" + escaped[1:]
	}
	return escaped
}
