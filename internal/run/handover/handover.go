// Package handover tells when a program that was started in a lane has others do its work, outside: many programs
// run once for a user, and one that is started again hands over to the first and ends. That happens by sockets, files
// and buses that a lane shares with the host. So it can't be prevented, but it shows in who runs where.
//
// families.go has what is known of programs by their names, process.go what runs, and this file decides.
package handover

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"uplane/internal/run/nsexec"
)

// Soon is how long a program may take that does nothing but hand over, on a slow machine.
const Soon = 20 * time.Second

// Program is a command that is started in a lane.
type Program struct {
	lane        string
	command     []string
	names       []string // its own, and that of what it is a link to
	family      *family  // nil: not a well-known one
	independent bool     // it is told not to hand over, or only to say something of itself
	app         string   // Flatpak's name of it, if it is one of Flatpak's

	before <-chan byName // what ran when it started
}

// New is what the command says of the program. Its path is empty where it has none.
func New(lane string, command []string, path string) Program {
	p := Program{lane: lane, command: command, names: []string{filepath.Base(command[0])}}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		p.names = append(p.names, filepath.Base(real))
	}
	p.app = flatpakApp(command, path)
	p.find(p.names)
	// While the program starts, as one that ends soon shall not wait for this.
	before := make(chan byName, 1)
	go func() { before <- list() }()
	p.before = before
	return p
}

// find looks for the family of a program with these names.
func (p *Program) find(names []string) {
	args := p.command[1:]
	p.independent = informational(args)
	if len(args) > 0 {
		names = append(slices.Clip(names), names[0]+" "+args[0])
	}
	for i, f := range families {
		if slices.ContainsFunc(f.commands, func(c string) bool { return slices.Contains(names, c) }) {
			p.family, p.independent = &families[i], p.independent || f.hasNewInstanceOption(args)
		}
	}
}

// flatpakApp is the app that "flatpak run" or one of Flatpak's own scripts starts; empty: none.
func flatpakApp(command []string, path string) string {
	if dir, name := filepath.Split(path); strings.HasSuffix(dir, "/flatpak/exports/bin/") {
		return name
	}
	if filepath.Base(command[0]) != "flatpak" || len(command) < 2 || command[1] != "run" {
		return ""
	}
	for _, a := range command[2:] {
		if !strings.HasPrefix(a, "-") {
			app, _, _ := strings.Cut(a, "/") // arch and branch
			return app
		}
	}
	return ""
}

// Before returns why the program will not do its work in the lane, or nil; with strict also why it may not.
func (p Program) Before(strict bool) *nsexec.Failure {
	if !p.needsCheck(strict) {
		return nil
	}
	return p.checkBefore(p.look(""))
}

// lookTime is how long a look may take: the kernel waits for a process to tell its arguments.
const lookTime = time.Second

// look looks at those to which a program of the name may hand over. One that keeps us waiting has them all unseen.
func (p Program) look(name string) []Process {
	found := make(chan []Process, 1)
	go func() { found <- p.search(name) }()
	select {
	case all := <-found:
		return all
	case <-time.After(lookTime):
		return nil
	}
}

func (p Program) search(name string) []Process {
	switch {
	case p.app != "":
		return lookFlatpak(p.app)
	case p.family == nil:
		return (<-p.before).look(p.owners(name))
	}
	return list().look(p.owners(name)) // it may have started one
}

// needsCheck reports whether there is something to find out before the program starts.
func (p Program) needsCheck(strict bool) bool {
	f := p.family
	return !p.independent && (f != nil && (f.waits || f.delegate != "") || strict && (f != nil || p.app != ""))
}

func (p Program) checkBefore(running []Process) *nsexec.Failure {
	f := p.family
	switch {
	case f != nil && f.delegate != "":
		return p.failure("", "%s has its work done by %s, outside of lane %s", p.names[0], f.delegate, p.lane)
	case f != nil && f.opener:
		return p.failure("uplane run "+p.lane+" -- PROGRAM", "%s may hand over to any program, also outside of lane %s", p.names[0], p.lane)
	}
	outside, ok := p.owner("", running)
	switch {
	case !ok:
		return nil
	case f != nil && f.waits:
		return p.failure(p.next(), "%s leaves its work to process %d (%s), which runs %s", p.names[0], outside.PID, outside.Name, p.where(outside))
	}
	return p.failure(p.next(), "%s may hand over to process %d (%s), which runs %s", p.names[0], outside.PID, outside.Name, p.where(outside))
}

// After returns to whom a program has handed over that has ended soon and well, or nil. The name is its process's, when it ended.
func (p Program) After(name string) *nsexec.Failure {
	p.identifyAs(name)
	if !p.handsOver() {
		return nil
	}
	return p.checkAfter(name, p.look(name))
}

// identifyAs looks for the family by the name under which the program ended: a script may have executed another.
func (p *Program) identifyAs(name string) {
	if p.family == nil {
		p.find([]string{name})
	}
}

// handsOver tells whether it may have handed over without that it was told before.
func (p Program) handsOver() bool {
	return !p.independent && (p.family == nil || !p.family.waits && p.family.delegate == "")
}

func (p Program) checkAfter(name string, running []Process) *nsexec.Failure {
	outside, ok := p.owner(name, running)
	if !ok {
		return nil
	}
	return p.failure(p.next(), "%s seems to have handed over to process %d (%s), which runs %s: what it opens there does not leave by this lane",
		p.names[0], outside.PID, outside.Name, p.where(outside))
}

// owners are the names of processes to which the program may hand over.
func (p Program) owners(name string) []string {
	switch f := p.family; {
	case f == nil:
		return []string{name}
	case f.opener:
		return owned()
	case f.owners != nil:
		return f.owners
	default:
		return f.commands
	}
}

// owner is a process to which the program may hand over: the oldest, as others may be that one's children.
func (p Program) owner(name string, running []Process) (owner Process, ok bool) {
	names := p.owners(name)
	for _, r := range running {
		if r.Lane == p.lane || ok && r.PID > owner.PID {
			continue
		}
		switch {
		case p.app != "":
			if r.App != p.app {
				continue
			}
		case !slices.ContainsFunc(names, func(n string) bool { return n != "" && short(n) == r.Name }):
			continue
		case p.family == nil && (!r.Windows || !p.sameScript(r)), p.family != nil && p.family.opener && !r.Windows:
			continue
		}
		owner, ok = r, true
	}
	return owner, ok
}

// interpreters have the names of all that they run.
var interpreters = []string{"bash", "sh", "dash", "zsh", "fish", "perl", "python", "ruby", "node", "java", "gjs", "electron", "wine", "mono"}

// sameScript tells whether a process of the same name is the same program, too.
func (p Program) sameScript(r Process) bool {
	if !slices.ContainsFunc(interpreters, func(i string) bool { return strings.HasPrefix(r.Name, i) }) {
		return true
	}
	for _, a := range p.command[1:] {
		if !strings.HasPrefix(a, "-") {
			return slices.ContainsFunc(r.Args, func(b string) bool { return filepath.Base(b) == filepath.Base(a) })
		}
	}
	return false
}

// short is a process's name as the kernel has it.
func short(name string) string {
	const most = 15
	return name[:min(len(name), most)]
}

func (p Program) where(r Process) string {
	if r.Lane != "" {
		return "in lane " + r.Lane + ", not in " + p.lane
	}
	return "outside of lane " + p.lane
}

// next is what to do about it.
func (p Program) next() string {
	next := "close that one first"
	if p.family != nil && p.family.try != "" {
		next += ", or: "
		dir := ".uplane/" + p.lane + "/" + p.names[0]
		try := strings.NewReplacer("DIR", dir, "LANE", p.lane).Replace(p.family.try)
		if strings.Contains(try, dir) {
			next += "mkdir -p ~/" + dir + "; "
		}
		next += fmt.Sprintf("uplane run %s -- %s %s", p.lane, p.command[0], try)
	}
	return next
}

func (p Program) failure(next, format string, args ...any) *nsexec.Failure {
	return &nsexec.Failure{Code: nsexec.ExitFailed, Err: fmt.Errorf(format, args...), Next: next}
}
