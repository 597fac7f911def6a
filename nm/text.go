package nm

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxDomain is the longest domain name, see RFC 1035.
const maxDomain = 253

// isDomain tells whether name is one word of letters, digits, dots, dashes and
// underscores that no program can take for an option.
func isDomain(name string) bool {
	if name == "" || len(name) > maxDomain || name[0] == '-' || name[0] == '.' {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// decodeSSID is a network's name as nmcli shows it: its bytes if they are UTF-8,
// else read as Latin-1, which is what NetworkManager falls back to in most
// locales. Control characters become question marks: anybody can name a network.
func decodeSSID(bytes []byte) string {
	if utf8.Valid(bytes) {
		return printable(string(bytes))
	}
	runes := make([]rune, len(bytes))
	for i, b := range bytes {
		runes[i] = rune(b)
	}
	return printable(string(runes))
}

// printable replaces what a terminal could take for a command, and what no
// selector can name. It is a copy, as what assign sets.
func printable(s string) string {
	return strings.Clone(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s))
}
