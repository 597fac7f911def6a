package main

import (
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"uplane/internal/api"
)

func psCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "ps [LANE]",
		Short: "List the programs that run in lanes",
		Long: `List the programs that run in a lane, or in any: your own, or everybody's for
root. However they got there: by uplane run, ip netns exec, or as a service.`,
		Args: laneArgs(0, 1),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "for programs")
	c.RunE = func(c *cobra.Command, args []string) error {
		lane := ""
		if len(args) > 0 {
			lane = args[0]
		}
		return withDaemon(c.Context(), func(client *api.Client) error {
			all, err := client.Programs(c.Context(), lane)
			if err != nil {
				return err
			}
			programs := withCommands(all)
			if asJSON {
				return printJSON(psDocument{programs})
			}
			return printPrograms(os.Stdout, programs)
		})
	}
	return c
}

// psDocument is what --json prints; docs/json.md describes it.
type psDocument struct {
	Programs []program `json:"programs"`
}

// program is a program in a lane, with its command line.
type program struct {
	api.Program
	Command string `json:"command"` // in brackets its name, when it has none or does not tell them
}

const (
	// maxCommand is how much of a program's arguments is shown, in bytes.
	maxCommand = 256
	// commandTime is how long programs may keep us from reading theirs: the kernel waits for a program for that.
	commandTime = time.Second
)

// withCommands adds the programs' command lines. The daemon does not read them, because any program can block a reader of its
// command line.
func withCommands(all []api.Program) []program {
	out := make([]program, len(all))
	timeout := time.After(commandTime)
	for i, p := range all {
		out[i] = program{p, "[" + clean(p.Name) + "]"}
		read := make(chan string, 1)
		go func() { read <- readCommand(p.PID) }()
		select {
		case command := <-read:
			if command != "" {
				out[i].Command = command
			}
		case <-timeout:
			timeout = time.After(0)
		}
	}
	return out
}

// readCommand returns a process's command line as printable text, "" if it has none.
func readCommand(pid uint32) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	defer f.Close()
	line := make([]byte, maxCommand)
	n, _ := f.Read(line)
	return clean(string(line[:n]))
}

// clean replaces control characters, which a terminal would interpret.
func clean(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?")))
}

func printPrograms(w io.Writer, all []program) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LANE\tPID\tUSER\tSINCE\tCOMMAND")
	for _, p := range all {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\n", p.Lane, p.PID, userName(p.UID), localTime(p.Since), p.Command)
	}
	return t.Flush()
}

// userName returns a user's name, or the number if there is no name.
func userName(uid uint32) string {
	number := strconv.Itoa(int(uid))
	if u, err := user.LookupId(number); err == nil {
		return u.Username
	}
	return number
}
