package main

import (
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"uplane/internal/api"
)

// TestWithCommands: of a process that has arguments they are shown, of others the name, and no more than fits on a line.
func TestWithCommands(t *testing.T) {
	got := withCommands([]api.Program{{PID: uint32(os.Getpid()), Name: "test"}, {PID: 1 << 30, Name: "go\x1bne"}})
	if !strings.HasPrefix(got[0].Command, clean(os.Args[0])[:20]) || len(got[0].Command) > maxCommand {
		t.Errorf("this process: %q", got[0].Command)
	}
	if got[1].Command != "[go ne]" {
		t.Errorf("one that is gone: %q", got[1].Command)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x00b\x1b[2J\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) || !utf8.ValidString(got) {
			t.Errorf("%q becomes %q", s, got)
		}
	})
}
