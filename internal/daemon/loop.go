// Package daemon is the loop that keeps lanes right: it observes everything, has
// package policy decide, remembers what it takes to undo things, applies the
// operations, and publishes how lanes are. It is level-triggered: whatever
// happened only says "look again", and one goroutine does all of it.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"time"

	"uplane/internal/config"
	"uplane/internal/state"
	"uplane/nm"
	"uplane/policy"
)

// Kernel is the edge to links, addresses, routes, rules, namespaces, sysctls,
// files, connections and sockets.
type Kernel interface {
	Observe(sysctls []string) (policy.Parts, *policy.Host, error)
	Tracked(subnets []netip.Prefix) (map[netip.Prefix]bool, error)
	Apply(policy.Op) error
	RemoveLinks(names []string) error
	Flush([]policy.Conntrack) error
	Glance(links []string) (defaults []policy.HostRoute, ok bool)
	Fresh(link string) bool
	MissingDirs(lane string) []string
	RemoveDir(dir string)
	Invalidate()
}

// Firewall is the edge to the packet filter.
type Firewall interface {
	Name() string
	// Observe returns what is ours.
	Observe() (policy.State, error)
	// Apply carries out operations on it in one transaction, or none; want is all that shall be in the end.
	Apply(ops []policy.Op, want policy.State) error
	// Doors returns which tools' FORWARD chains drop, and our doors in them.
	Doors() (drops map[string]bool, doors policy.State, err error)
	// Missing lists tables that operations would make, and Sweep deletes those that are empty again.
	Missing(ops []policy.Op) ([]string, error)
	Sweep(created []string) (left []string, err error)
	// RemoveLeftovers removes what other backends and earlier releases have left, and returns what that was.
	RemoveLeftovers(context.Context) ([]string, error)
}

// Trigger makes the loop look again. It exists before the loop does, for
// those who notice changes.
type Trigger chan struct{}

// NewTrigger returns a trigger.
func NewTrigger() Trigger { return make(Trigger, 1) }

// Poke makes the loop look again, soon. It never blocks; pokes coalesce.
func (t Trigger) Poke() {
	select {
	case t <- struct{}{}:
	default:
	}
}

// LoopOptions are a Loop's surroundings.
type LoopOptions struct {
	Trigger
	Log      *slog.Logger
	Dirs     config.Dirs
	Kernel   Kernel
	Firewall func(mode string) (Firewall, error) // opens a backend
	NM       func() nm.Snapshot
	Grace    time.Duration // how long the kernel's word goes before NetworkManager's
	Store    *state.Store
	// Changed is called by the loop's goroutine with every lane's status, by name,
	// after the first pass and whenever one changed.
	Changed func([]Status)
}

// Loop owns everything that lanes are made of.
type Loop struct {
	LoopOptions
	calls chan func()

	config   config.Config
	files    policy.Files // what it says
	firewall Firewall     // nil: it could not be opened
	mode     string       // what it was opened with
	swept    bool         // nothing is left of other backends
	memory   policy.Memory
	undo     state.Undo
	noted    map[string]string // the switches that the disk has, as they were before us
	unsaved  error             // why the memory is not on the disk
	asked    map[string]bool
	external map[string]bool        // lanes on bridges of NetworkManager's, as of the last look
	problems map[policy.Edge]string // of the last look
	decided  policy.Decision        // the last one
	exits    map[string][]exit      // lanes' defaults in memory.Converged, by uplink
	statuses map[string]Status      // nil before the first pass
	failures int
	waiters  []*waiter
	said     map[string]string // complaints about profiles that were logged
}

// NewLoop prepares a loop; Run starts it.
func NewLoop(o LoopOptions) *Loop {
	memory := o.Store.Memory()
	l := &Loop{
		LoopOptions: o, calls: make(chan func()), asked: map[string]bool{},
		memory: memory, undo: o.Store.Undo(), noted: memory.Sysctls, said: map[string]string{},
	}
	l.Dirs.Holds, l.Dirs.Cache = l.holds, config.NewCache()
	return l
}

// Run reads the configuration and keeps the lanes right until ctx is done. The
// lanes stay as they are then.
func (l *Loop) Run(ctx context.Context) error {
	l.readConfig()
	l.awaitNM(ctx)
	timer := time.NewTimer(time.Hour)
	burst := false // the timer is for the end of one
	look := func() {
		timer.Stop()
		burst = false
		if again := l.pass(); again > 0 {
			timer.Reset(again)
		}
	}
	if ctx.Err() == nil {
		look() // before any call: until then no lane has a status
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case call := <-l.calls:
			call()
		case <-l.Trigger:
			l.followGateway()
			if !burst {
				burst = true
				timer.Reset(burstLength)
			}
		case <-timer.C:
			look()
		}
	}
}

// burstLength is how long the loop waits for what else changes when something has: NetworkManager changes an address, the
// link and the routes within some 3 ms. Only a gateway does not wait, and would, for a pass that looks or carries out.
const burstLength = 3 * time.Millisecond

// firstWord is how long NetworkManager may take to speak when the daemon
// starts. It takes some ten milliseconds; where it does not run, lanes wait.
const firstWord = time.Second

// awaitNM lets NetworkManager speak before the first pass. Lanes that
// nothing is remembered of, and whose uplink is therefore unknown until then,
// would lose their connections for a moment. What is not built can't leak, and
// what is built has its floor.
func (l *Loop) awaitNM(ctx context.Context) {
	deadline := time.After(firstWord)
	for !l.NM().Known {
		select {
		case <-l.Trigger:
		case <-deadline:
			return
		case <-ctx.Done():
			return
		}
	}
}

// maxPasses bounds Once: what fails is tried again for some three seconds.
const maxPasses = 6

// ErrUnsettled says that passes kept finding something to do.
var ErrUnsettled = errors.New("the lanes did not settle")

// Once reads the configuration and makes passes until one finds nothing to do. It
// is for a loop that does not Run.
func (l *Loop) Once(ctx context.Context) ([]Status, error) {
	l.readConfig()
	for range maxPasses {
		if ctx.Err() != nil {
			return l.list(), errors.Join(ErrUnsettled, ctx.Err())
		}
		again := l.pass()
		if l.decided.Clean {
			return l.list(), nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
	return l.list(), errors.Join(ErrUnsettled, ctx.Err())
}

// Drain makes passes until no connection of a lane that has gone lives any more, or [drainPatience] is over. It is for
// a loop that does not Run.
func (l *Loop) Drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	for {
		if len(l.memory.Draining) == 0 {
			for range maxPasses {
				if l.decided.Clean || ctx.Err() != nil {
					return
				}
				l.pass()
			}
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(drainPoll):
		}
		l.pass()
	}
}

// OnceDown is Once with every lane taken down before, as by Down, and Drain.
func (l *Loop) OnceDown(ctx context.Context) ([]Status, error) {
	l.readConfig()
	sources := l.survey()
	for name := range sources.Known {
		l.want(name, policy.WantDown)
	}
	for name := range sources.Broken {
		l.want(name, policy.WantDown)
	}
	statuses, err := l.Once(ctx)
	l.Drain(ctx)
	return statuses, err
}

// do runs f on the loop's goroutine and waits for it. A panic is f's error: no
// caller's request may end the daemon.
func (l *Loop) do(ctx context.Context, f func()) (err error) {
	done := make(chan struct{})
	call := func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				l.Log.Error("panic", "value", p, "stack", string(debug.Stack()))
				err = fmt.Errorf("internal error: %v", p)
				l.Kernel.Invalidate()
				l.Poke()
			}
		}()
		f()
	}
	select {
	case l.calls <- call:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return err
}

// holds tells whether a lane has what its file claims: it had claimed the same before.
func (l *Loop) holds(lane policy.Lane) bool {
	m := l.memory.Lanes[lane.Name]
	had := m.Definition
	return had != nil && m.Subnet.IsValid() && had.Subnet == lane.Subnet && had.Table == lane.Table && had.Bridge == lane.Bridge &&
		had.Mark == lane.Mark && had.MarkMask == lane.MarkMask
}

// readConfig loads the configuration, and opens the firewall that it names; what is wrong
// is logged and returned. Lanes whose file is broken stay as they were.
func (l *Loop) readConfig() []error {
	cfg, errs := config.Load(l.Dirs)
	l.config, l.files = cfg, filesOf(cfg)
	if err := l.openFirewall(); err != nil {
		errs = append(errs, err)
	}
	for _, err := range errs {
		l.Log.Error("configuration", "error", err)
	}
	return errs
}

// openFirewall opens the backend that the configuration names, unless it is open. What another one has built stays
// until this one has built the same.
func (l *Loop) openFirewall() error {
	mode := l.config.Firewall
	if l.firewall != nil && (mode == "" || mode == l.mode) { // nothing: the file that names it is broken
		return nil
	}
	fw, err := l.Firewall(mode)
	if err != nil {
		return err
	}
	l.firewall, l.mode, l.swept = fw, mode, false
	return nil
}
