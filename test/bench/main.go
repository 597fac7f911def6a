// Command bench measures what Uplane is to be fast at, next to what one would
// do instead, and writes docs/benchmarks.md. Everything runs in lab worlds:
// nothing of the machine is touched.
//
// What a chapter measured is kept in BINDIR/bench, so that with -only one can be measured anew, and
// the report has all.
//
// Usage: bench [-only CHAPTER,…] [-out FILE] BINDIR
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
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
	title   string
	measure func(*bench) (section, error)
}

var chapters = []chapter{
	{"growth", "Growth", growth},
	{"reaction", "Reaction to another gateway", reaction},
	{"traffic", "Traffic over changes", traffic},
	{"renewals", "Unchanged renewals", renewals},
	{"setup", "Building lanes", setUp},
	{"answer", "From a call to an answer", answers},
	{"run", "A program in a lane", runInLane},
	{"throughput", "Throughput", throughput},
	{"idle", "Idle", idle},
	{"pass", "One pass of the loop", passes},
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
	only := flag.String("only", "", "comma-separated chapters to measure anew: "+strings.Join(names(), ", "))
	out := flag.String("out", "docs/benchmarks.md", "the report")
	flag.Parse()
	if flag.NArg() != 1 {
		return errors.New("usage: bench [-only CHAPTER,…] [-out FILE] BINDIR")
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
			return fmt.Errorf("no chapter %q; there are %s", name, strings.Join(names(), ", "))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b := &bench{ctx: ctx, bin: flag.Arg(0), self: self}
	var failed error
	for _, c := range chapters {
		if !slices.Contains(wanted, c.name) {
			continue
		}
		s, err := b.measure(c)
		failed = errors.Join(failed, err, b.keep(c, s))
	}
	return errors.Join(failed, b.write(*out))
}

// measure measures one chapter and says how far it is. One that can't be measured is a section that says so.
func (b *bench) measure(c chapter) (section, error) {
	b.progress("%s …", c.name)
	began := time.Now()
	before := load()
	s, err := c.measure(b)
	s.Title = c.title
	if err != nil {
		err = fmt.Errorf("%s: %w", c.name, err)
		s.aim(false, "it can be measured", "%s", strings.ReplaceAll(err.Error(), "\n", " "))
	}
	s.When = fmt.Sprintf("Measured %s, in %.0f s, commit %s; load when it began: %s.",
		began.UTC().Format("2006-01-02 15:04 UTC"), time.Since(began).Seconds(), commit(), before)
	for _, g := range slices.Concat(s.Figures, s.Goals) {
		b.progress("  %s: %s: %s", strings.Trim(g.verdict(), "*"), g.What, g.Got)
	}
	b.progress("%s took %.0f s", c.name, time.Since(began).Seconds())
	return s, err
}

// kept is the file of what a chapter measured.
func (b *bench) kept(c chapter) string { return filepath.Join(b.bin, "bench", c.name+".json") }

func (b *bench) keep(c chapter, s section) error {
	text, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(b.kept(c)), 0o755), os.WriteFile(b.kept(c), text, 0o644))
}

// write writes the report of all chapters that were measured, and their pictures beside it.
func (b *bench) write(out string) error {
	var sections []section
	for _, c := range chapters {
		text, err := os.ReadFile(b.kept(c))
		var s section
		switch {
		case errors.Is(err, fs.ErrNotExist):
			s = section{Title: c.title, How: "Not measured yet: `go run ./test/bench -only " + c.name + " bin`."}
			s.aim(false, "it can be measured", "not measured yet")
			err = nil
		case err == nil:
			err = json.Unmarshal(text, &s)
		}
		if err != nil {
			return fmt.Errorf("what chapter %s measured: %w; measure it anew: bench -only %s", c.name, err, c.name)
		}
		sections = append(sections, s)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	for _, s := range sections {
		if s.Picture == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(out), s.Picture), []byte(s.Drawing), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(out, []byte(document(preface(), sections)), 0o644)
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
