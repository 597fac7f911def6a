// Package daemon is the loop that keeps lanes true: pokes in, converged
// lanes out. It is level-triggered: whatever happened only says "look again",
// and one goroutine then compares what shall be with what is.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"uplane/internal/config"
	"uplane/internal/state"
	"uplane/policy"
)

// Kernel is the edge to links, addresses, routes, rules, namespaces, sysctls and files.
type Kernel interface {
	Observe(sysctls []string) (policy.State, *policy.Host, error)
	Apply(policy.Op) error
	RemoveLinks(names []string) error
	Glance() (defaults []policy.HostRoute, ok bool)
	Fresh(link string) bool
	Sysctl(key string) (value string, ok bool)
	MissingDirs(lane string) []string
	RemoveDir(dir string)
	Invalidate()
}

// Firewall is the edge to our own chains.
type Firewall interface {
	Observe() ([]policy.Chain, error)
	Apply(want, gone []policy.Chain) error
	Created() []string
	Missing() ([]string, error)
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

// Options are a Loop's surroundings.
type Options struct {
	Trigger
	Log      *slog.Logger
	Dirs     config.Dirs
	Kernel   Kernel
	Firewall Firewall
	Uplinks  func() Uplinks
	Grace    time.Duration // how long the kernel's word goes before NetworkManager's
	States   *state.Store[state.State]
	Runs     *state.Store[state.Run]
	// Changed is called by the loop's goroutine with every lane's status, by name,
	// after the first pass and whenever one changed.
	Changed func([]Status)
}

// Uplinks is what NetworkManager last said.
type Uplinks struct {
	All      []policy.Uplink
	Profiles []policy.Profile // that ask for a lane
	Known    bool             // it has spoken since this process started
	Running  bool             // it is on the bus now
}

// Loop owns everything that lanes are made of.
type Loop struct {
	Options
	calls chan func()

	config    config.Config
	lanes     lanes // as of the last survey
	memory    memory
	current   map[string]string // lane to its uplink's interface
	statuses  map[string]Status // nil before the first pass
	converged policy.State      // what a clean pass wanted last; nil before the first
	fights    fights
	failures  int
	clean     bool // the last pass found nothing to do
	waiters   []*waiter

	complained map[string]bool // what was logged of profiles that no lane can come from
}

// New prepares a loop; Run starts it.
func New(o Options) *Loop {
	return &Loop{
		Options: o, calls: make(chan func()),
		memory: recall(o.States, o.Runs), current: map[string]string{}, fights: fights{}, complained: map[string]bool{},
	}
}

// Run reads the configuration and keeps the lanes true until ctx is done. The
// lanes stay as they are then.
func (l *Loop) Run(ctx context.Context) error {
	l.readConfig()
	l.awaitUplinks(ctx)
	timer := time.NewTimer(time.Hour)
	look := func() {
		timer.Stop()
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
			look()
		case <-timer.C:
			look()
		}
	}
}

// firstWord is how long NetworkManager may take to speak when the daemon
// starts. It takes some ten milliseconds; where it does not run, lanes wait.
const firstWord = time.Second

// awaitUplinks lets NetworkManager speak before the first pass. Lanes that
// nothing is remembered of, and whose uplink is therefore unknown until then,
// would lose their connections for a moment. What is not built can't leak, and
// what is built has its floor.
func (l *Loop) awaitUplinks(ctx context.Context) {
	deadline := time.After(firstWord)
	for !l.Uplinks().Known {
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
		if l.clean {
			return l.list(), nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
	return l.list(), errors.Join(ErrUnsettled, ctx.Err())
}

// OnceDown is Once with every lane taken down before, as by Down.
func (l *Loop) OnceDown(ctx context.Context) ([]Status, error) {
	l.readConfig()
	l.survey()
	for _, names := range []iter.Seq[string]{maps.Keys(l.lanes.known), maps.Keys(l.lanes.broken)} {
		for name := range names {
			if err := l.memory.want(name, state.WantDown); err != nil {
				return nil, err
			}
		}
	}
	return l.Once(ctx)
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

// view is one look at everything, and what follows from it.
type view struct {
	have, want policy.State
	released   []policy.Op // bridges of ours that have become NetworkManager's
	host       *policy.Host
	lanes      []policy.LaneStatus
	uplinks    []policy.Uplink
	allocs     map[string]policy.Allocation
	fresh      bool // an uplink's routes come from the kernel, ahead of NetworkManager
}

// look observes and decides; it changes nothing. Lanes that are wanted beside
// those that are anyway are in extra.
func (l *Loop) look(extra ...policy.Lane) (*view, error) {
	l.survey()
	saved := l.memory.sysctls()
	keys := slices.Collect(maps.Keys(saved))
	for o := range l.converged {
		if s, ok := o.(policy.Sysctl); ok {
			if _, twice := saved[s.Key]; !twice {
				keys = append(keys, s.Key)
			}
		}
	}
	have, host, err := l.Kernel.Observe(keys)
	if err != nil {
		return nil, err
	}
	chains, err := l.Firewall.Observe()
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		have.Add(c)
	}
	v := &view{have: have, host: host}
	if from := l.Uplinks(); from.Known && from.Running {
		policy.TakeBack(have, host, from.Profiles)
	}

	lanes := append(l.wanted(), extra...)
	v.released = policy.TakeOver(have, host, lanes, l.lanes.held)
	var clashes map[string]string
	up, idle := l.idle(lanes)
	v.allocs, clashes = policy.Allocate(up, idle, l.memory.allocations(), host)
	v.uplinks = l.uplinks(v)
	v.want, v.lanes = policy.Build(policy.Input{
		Lanes: lanes, Uplinks: v.uplinks, Host: host, Allocs: v.allocs, Clashes: clashes,
		Current: l.current, Saved: saved, Held: l.lanes.held,
	})
	// A switch that was not asked for before is read now, so that Diff knows it.
	for o := range v.want {
		if s, ok := o.(policy.Sysctl); ok && !have.Has(o) {
			if value, exists := l.Kernel.Sysctl(s.Key); exists {
				have.Add(policy.Sysctl{Key: s.Key, Value: value})
			}
		}
	}
	return v, nil
}

// uplinks returns the uplinks as the kernel has them now.
func (l *Loop) uplinks(v *view) []policy.Uplink {
	from := l.Uplinks()
	all := from.All
	if !from.Known {
		// NetworkManager has not been seen yet: what lanes left by last is
		// still theirs as long as the kernel has it.
		all = l.memory.uplinks()
	}
	out := make([]policy.Uplink, 0, len(all))
	for _, u := range all {
		if !from.Running && u.Phase == policy.PhaseActive {
			u.Phase = policy.PhaseChanging
		}
		fresh := l.Kernel.Fresh(u.Interface) || l.awaited(u.Interface)
		v.fresh = v.fresh || fresh
		out = append(out, u.Effective(v.host, fresh))
	}
	return out
}

// pass makes one comparison and carries out what it finds. It returns after
// what time to look again without a poke; 0: never.
func (l *Loop) pass() (again time.Duration) {
	start, operations := time.Now(), 0
	defer func() { l.Log.Debug("pass", "took", time.Since(start), "operations", operations) }()
	l.clean = false
	l.hurry()
	v, err := l.look()
	if err != nil {
		l.Log.Error("observe", "error", err)
		l.Kernel.Invalidate()
		return l.backoff()
	}
	ops, wait, undone := l.fights.hold(policy.Diff(v.have, v.want), l.converged, v.managed)
	ops = append(v.released, ops...)
	operations = len(ops)
	if len(ops) > 0 {
		if err := l.memory.before(ops, v, l.Kernel, l.Firewall); err != nil {
			l.Log.Error("save state", "error", err)
			l.publish(v, map[string]string{"": err.Error()}, nil)
			return l.backoff()
		}
	}
	failed := l.apply(ops, v)
	if len(failed) == 0 {
		l.converged = v.want
	} else {
		l.Kernel.Invalidate()
	}
	l.clean = len(ops) == 0 && len(undone) == 0
	if l.clean && len(v.lanes) == 0 && len(l.Firewall.Created()) > 0 {
		// A daemon that died between our last chain's end and its table's left that.
		if err := l.Firewall.Apply(nil, nil); err != nil {
			l.Log.Warn("remove empty tables", "error", err)
		}
	}
	from := l.Uplinks()
	err = l.memory.after(v, &l.lanes, l.Firewall.Created(), l.Kernel, l.clean, from.Known && from.Running)
	if err != nil {
		l.Log.Error("save state", "error", err)
	}
	if len(failed) > 0 || err != nil {
		wait = l.backoff()
	} else {
		l.failures = 0
	}
	l.publish(v, failed, undone)
	l.wake(v, failed, undone)
	if v.fresh && (wait == 0 || wait > l.Grace) {
		wait = l.Grace // NetworkManager may have said nothing, or something else
	}
	return wait
}

// backoff returns how long to wait after a failure: from 100 ms to half a minute.
func (l *Loop) backoff() time.Duration {
	l.failures++
	return min(100*time.Millisecond<<min(l.failures-1, 10), 30*time.Second)
}

// apply carries out ops and returns what failed, by lane; "" is everybody's. After a
// failure a lane's further operations are left to the next pass.
func (l *Loop) apply(ops []policy.Op, v *view) map[string]string {
	var failed map[string]string
	var owner map[policy.Object]string
	note := func(op policy.Op, err error) {
		l.Log.Error("apply", "op", op.String(), "error", err)
		if failed == nil {
			failed, owner = map[string]string{}, owners(v.lanes)
		}
		failed[owner[op.Object]] = err.Error()
	}
	for i := 0; i < len(ops); {
		n, err := 1, error(nil)
		switch {
		case failed[owner[ops[i].Object]] != "" && owner[ops[i].Object] != "":
			i++
			continue
		case isChain(ops[i]):
			n, err = l.applyChains(ops[i:])
		case isLinkRemoval(ops[i]):
			n, err = l.removeLinks(ops[i:])
		default:
			err = l.Kernel.Apply(ops[i])
		}
		for _, op := range ops[i : i+n] {
			if err != nil {
				note(op, err)
			} else {
				l.Log.Info("applied", "verb", op.Verb.String(), "op", op.String())
			}
		}
		i += n
	}
	return failed
}

func owners(lanes []policy.LaneStatus) map[policy.Object]string {
	out := map[policy.Object]string{}
	for _, st := range lanes {
		for _, o := range st.Want {
			out[o] = st.Lane.Name
		}
	}
	return out
}

func isChain(op policy.Op) bool { _, ok := op.Object.(policy.Chain); return ok }

// applyChains applies the chain operations that ops begins with in one
// transaction, and returns how many those are.
func (l *Loop) applyChains(ops []policy.Op) (n int, err error) {
	var want, gone []policy.Chain
	for n < len(ops) && isChain(ops[n]) {
		c := ops[n].Object.(policy.Chain)
		if ops[n].Verb == policy.Remove {
			gone = append(gone, c)
		} else {
			want = append(want, c)
		}
		n++
	}
	return n, l.Firewall.Apply(want, gone)
}

func isLinkRemoval(op policy.Op) bool {
	switch op.Object.(type) {
	case policy.Bridge, policy.Veth:
		return op.Verb == policy.Remove
	}
	return false
}

// removeLinks removes the links that ops begins with in one go.
func (l *Loop) removeLinks(ops []policy.Op) (n int, err error) {
	var names []string
	for n < len(ops) && isLinkRemoval(ops[n]) {
		switch o := ops[n].Object.(type) {
		case policy.Bridge:
			names = append(names, o.Name)
		case policy.Veth:
			names = append(names, o.Name)
		}
		n++
	}
	return n, l.Kernel.RemoveLinks(names)
}
