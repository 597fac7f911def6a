// Command bench measures what Uplane is to be fast at, next to what one would
// do instead, and writes docs/benchmarks.md. Everything runs in lab worlds:
// nothing of the machine is touched.
//
// Usage: bench [-only SECTION,…] [-out FILE] BINDIR
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// chapter measures one thing; they run in this order.
type chapter struct {
	name    string
	measure func(*bench) (section, error)
}

var chapters = []chapter{
	{"reaction", reaction},
	{"traffic", traffic},
	{"renewals", renewals},
	{"setup", setUp},
	{"answer", answers},
	{"run", runInLane},
	{"throughput", throughput},
	{"idle", idle},
	{"pass", passes},
}

// helpers are what bench does in other processes, mostly in a world's host.
var helpers = map[string]func(args []string) error{
	"profile": profile,
	"mirror":  mirror,
	"minimal": minimal,
	"spawn":   spawn,
	"ask":     ask,
	"loop":    loop,
}

func main() {
	if len(os.Args) > 1 {
		if helper := helpers[os.Args[1]]; helper != nil {
			exit(helper(os.Args[2:]))
		}
	}
	exit(run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// bench is one run of the program.
type bench struct {
	ctx  context.Context
	bin  string // folder with our binaries
	self string // this program
}

func run() error {
	only := flag.String("only", "", "comma-separated sections: "+strings.Join(names(), ", ")+"; then nothing is written but to standard output")
	out := flag.String("out", "docs/benchmarks.md", "the report")
	flag.Parse()
	if flag.NArg() != 1 {
		return errors.New("usage: bench [-only SECTION,…] [-out FILE] BINDIR")
	}
	if os.Geteuid() != 0 {
		return errors.New("needs root for network namespaces: sudo make bench")
	}
	wanted := names()
	if *only != "" {
		wanted = strings.Split(*only, ",")
	}
	for _, name := range wanted {
		if !slices.Contains(names(), name) {
			return fmt.Errorf("no section %q; there are %s", name, strings.Join(names(), ", "))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b := &bench{ctx: ctx, bin: flag.Arg(0), self: self}
	start := time.Now()
	var sections []section
	var failed error
	for _, c := range chapters {
		if !slices.Contains(wanted, c.name) {
			continue
		}
		began := time.Now()
		b.progress("%s …", c.name)
		s, err := c.measure(b)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", c.name, err))
			s.aim(false, "it can be measured", "%s", strings.ReplaceAll(err.Error(), "\n", " "))
		}
		for _, g := range s.goals {
			b.progress("  %s: %s: %s", strings.Trim(g.verdict(), "*"), g.text, g.got)
		}
		b.progress("%s took %.0f s", c.name, time.Since(began).Seconds())
		sections = append(sections, s)
	}
	text := document(preface(start), sections)
	if *only != "" {
		fmt.Print(text)
		return failed
	}
	return errors.Join(failed, os.MkdirAll(filepath.Dir(*out), 0o755), os.WriteFile(*out, []byte(text), 0o644))
}

func names() []string {
	var out []string
	for _, c := range chapters {
		out = append(out, c.name)
	}
	return out
}

// progress says on standard error how far it is.
func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}
