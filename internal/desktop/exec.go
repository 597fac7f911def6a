package desktop

import (
	"errors"
	"path"
	"strings"
)

// word is an argument of an Exec line.
type word struct {
	raw  string // as it is in the line
	text string // without its quotes
}

// words splits an Exec line, whose escapes of the value have been undone. Many lines quote as a shell
// does and not as the specification says; desktops take them, and so do we.
func words(exec string) (all []word, err error) {
	for i := 0; i < len(exec); {
		if exec[i] == ' ' || exec[i] == '\t' || exec[i] == '\n' {
			i++
			continue
		}
		w, end, err := nextWord(exec[i:])
		if err != nil {
			return nil, err
		}
		all = append(all, w)
		i += end
	}
	return all, nil
}

var errQuote = errors.New("it has a quote that does not end")

// nextWord returns the word that a line begins with, and where it ends.
func nextWord(line string) (w word, end int, err error) {
	var text strings.Builder
	quote := byte(0)
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote == 0 && (c == ' ' || c == '\t' || c == '\n'):
			return word{line[:i], text.String()}, i, nil
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case c == quote:
			quote = 0
		case c == '\\' && i+1 < len(line) && (quote == 0 || quote == '"' && strings.IndexByte("\"`$\\", line[i+1]) >= 0):
			i++
			text.WriteByte(line[i])
		default:
			text.WriteByte(c)
		}
	}
	if quote != 0 {
		return w, 0, errQuote
	}
	return word{line, text.String()}, len(line), nil
}

// quote is an argument as an Exec line has it.
func quote(argument string) string {
	argument = strings.ReplaceAll(argument, "%", "%%")
	if argument != "" && !strings.ContainsAny(argument, " \t\n\"'\\><~|&;$*?#()`") {
		return argument
	}
	return `"` + strings.NewReplacer("\\", "\\\\", "\"", "\\\"", "`", "\\`", "$", "\\$").Replace(argument) + `"`
}

// isSnap tells whether a command is a snap's. Those confine themselves, and end up outside of the lane.
func isSnap(command []word) bool {
	for len(command) > 0 && (path.Base(command[0].text) == "env" || strings.Contains(command[0].text, "=") || strings.HasPrefix(command[0].text, "-")) {
		command = command[1:]
	}
	if len(command) == 0 {
		return false
	}
	program := command[0].text
	return path.Base(program) == "snap" || strings.HasPrefix(program, "/snap/bin/") || strings.HasPrefix(program, "/var/lib/snapd/snap/bin/")
}
