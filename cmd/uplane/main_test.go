package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestOneFilePerCommand: a command is in the file that has its name, "uplane profile add" in profile_add.go.
func TestOneFilePerCommand(t *testing.T) {
	var walk func(c *cobra.Command, words []string)
	walk = func(c *cobra.Command, words []string) {
		file := strings.Join(words, "_") + ".go"
		text, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%s: %v", c.CommandPath(), err)
		}
		if constructor := "func " + camelCase(words) + "Command() *cobra.Command {"; !strings.Contains(string(text), constructor) {
			t.Errorf("%s: %s has no %q", c.CommandPath(), file, constructor)
		}
		if n := strings.Count(string(text), "&cobra.Command{"); n != 1 {
			t.Errorf("%s makes %d commands", file, n)
		}
		for _, sub := range c.Commands() {
			walk(sub, append(words[:len(words):len(words)], sub.Name()))
		}
	}
	for _, c := range command().Commands() {
		walk(c, []string{c.Name()})
	}
}

// camelCase is profileAdd for "profile", "add".
func camelCase(words []string) string {
	name := words[0]
	for _, w := range words[1:] {
		name += strings.ToUpper(w[:1]) + w[1:]
	}
	return name
}
