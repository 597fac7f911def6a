package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestCompletionWithoutBus presses the key where nobody can be asked: no lanes, not a word, no files.
func TestCompletionWithoutBus(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("XDG_DATA_DIRS", t.TempDir())
	for _, line := range []string{"up ", "down ", "remove ", "status ", "plan ", "run ", "adopt game.service ", "profile add ", "profile limit hotspot a ",
		"shell ", "ps ", "stop ", "desktop add ", "desktop remove ", "desktop add a ", "desktop remove a ", "up a --uplink ", "up a --subnet ", "profile add a --uplink="} {
		root := command()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(&out)
		root.SetArgs(append([]string{cobra.ShellCompNoDescRequestCmd}, strings.Split(line, " ")...))
		if err := root.Execute(); err != nil || !strings.HasPrefix(out.String(), ":4\n") {
			t.Errorf("%s: %v\n%s", line, err, &out)
		}
	}
}

// TestCompletionKnowsLanes: every command that takes a lane completes it.
func TestCompletionKnowsLanes(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if strings.Contains(c.Use, "LANE") != (c.ValidArgsFunction != nil) {
			t.Errorf("%s: completes lanes: %v", c.CommandPath(), c.ValidArgsFunction != nil)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(command())
}
