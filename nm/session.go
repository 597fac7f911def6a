package nm

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/Wifx/gonetworkmanager/v3"
	"github.com/godbus/dbus/v5"

	"uplane/policy"
)

// session is one connection to the bus. Its methods run in the goroutine of
// [Watcher.Run].
type session struct {
	w    *Watcher
	ctx  context.Context
	conn *dbus.Conn

	owner   string // NetworkManager's unique name; empty: it is not on the bus
	synced  bool   // tree is the owner's
	tree    *tree
	uplinks []policy.Uplink // of the tree
	lanes   []policy.Profile
	stale   bool // the tree has changed since

	// since is the place, among the messages of the connection, of the newest
	// answer: signals before it bring nothing new.
	since dbus.Sequence

	// While a fetch is under way, signals are taken in and also noted, for the
	// answer may be older than they are.
	fetch  <-chan *dbus.Call
	cancel context.CancelFunc
	noted  []*dbus.Signal

	// again is when to fetch again; nil, as long as all is well: never.
	again <-chan time.Time
	pause time.Duration
	// asked is what was missing when the last fetch began.
	asked map[dbus.ObjectPath]gonetworkmanager.NmDeviceState

	hearing bool // the manager's signals come, see hearManager
	reading reading
	// left is when a bridge that outlives its deleted profile counts as somebody else's.
	left <-chan time.Time
}

const (
	// fetchTimeout is for a NetworkManager that hangs; it answers in 2 ms.
	fetchTimeout = 25 * time.Second
	// leaveTimeout is for a bridge whose profile is deleted; NetworkManager takes 50 ms.
	leaveTimeout = 5 * time.Second
	// quitTimeout is how long a NetworkManager that seems to end may take for it.
	quitTimeout = 5 * time.Second
)

var errGone = errors.New("the bus closed the connection")

// follow connects to the bus and follows NetworkManager until the connection
// ends. It tells whether it got as far as hearing signals.
func (w *Watcher) follow(ctx context.Context) (connected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := dial(ctx, w.options.Address)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	// Buffered, so that a burst is handled as one.
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	if err := subscribe(ctx, conn); err != nil {
		return false, err
	}
	s := &session{w: w, ctx: ctx, conn: conn, uplinks: w.Snapshot().Uplinks, lanes: w.Snapshot().Profiles, reading: newReading()}
	name, at, err := owner(ctx, conn)
	if err != nil {
		return false, err
	}
	s.since = at
	s.meet(name)
	for {
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case sig, ok := <-signals:
			if !ok {
				return true, errGone
			}
			s.receive(sig)
			for range len(signals) { // not for ever: others must not delay us by sending
				if sig, ok = <-signals; ok {
					s.receive(sig)
				}
			}
		case call := <-s.fetch:
			s.fetched(call)
		case call := <-s.reading.answers:
			s.profileRead(call)
		case <-s.reading.retry:
			s.reading.resume()
		case <-s.again:
			s.start()
		case <-s.left:
			s.left = nil
			s.tree.forgetLeft(true)
			s.assemble()
		}
		s.publish()
	}
}

// meet starts afresh with another owner of NetworkManager's name, or with none.
func (s *session) meet(owner string) {
	if s.cancel != nil {
		s.cancel()
	}
	s.owner, s.synced, s.fetch, s.cancel, s.noted, s.again = owner, false, nil, nil, nil, nil
	s.tree, s.asked, s.pause = newTree(), nil, minPause
	s.reading.stop()
	s.reading = newReading()
	if owner == "" {
		s.w.options.Log.Info("NetworkManager is not running; keeping the last known uplinks")
		s.w.lost()
		return
	}
	s.start()
}

// hearManager has the bus send the manager's signals, or no more. The bus does it before what we ask next.
func (s *session) hearManager(hear bool) {
	if s.hearing == hear {
		return
	}
	s.hearing = hear
	method := ".RemoveMatch"
	if hear {
		method = ".AddMatch"
	}
	s.conn.BusObject().Go(driver+method, dbus.FlagNoReplyExpected, nil, managerRule)
}

// start asks for all of NetworkManager's objects, and does not wait.
func (s *session) start() {
	s.again = nil
	ctx, cancel := context.WithTimeout(s.ctx, fetchTimeout)
	done := make(chan *dbus.Call, 1)
	s.hearManager(true)
	// By its unique name: the well-known one would start a stopped NetworkManager.
	s.conn.Object(s.owner, objectRoot).GoWithContext(ctx, objectManager+".GetManagedObjects", dbus.FlagNoAutoStart, done)
	s.fetch, s.cancel, s.noted = done, cancel, nil
}

// fetched replaces the tree with the answer and takes in what came after it.
func (s *session) fetched(call *dbus.Call) {
	s.cancel()
	noted := s.noted
	s.fetch, s.cancel, s.noted = nil, nil, nil
	objects, err := managedObjects(call)
	if err != nil {
		if s.pause == minPause {
			s.w.options.Log.Warn("can't read NetworkManager's devices; trying again", "error", err)
		}
		s.again = time.After(s.pause)
		s.pause = min(2*s.pause, maxPause)
		return
	}
	if !s.synced {
		s.w.options.Log.Info("following NetworkManager", "objects", len(objects))
	}
	s.since, s.synced, s.pause = call.ResponseSequence, true, minPause
	old := s.tree
	s.tree = newTree()
	for path, p := range old.profiles { // what they say has been followed all the time
		if _, exists := objects[path][ifaceProfile]; exists && p.read || p.Leaving {
			s.tree.profiles[path] = p
		}
	}
	for path, ifaces := range objects {
		s.tree.add(path, ifaces)
	}
	s.assemble()
	for _, sig := range noted {
		s.receive(sig)
	}
}

func managedObjects(call *dbus.Call) (map[dbus.ObjectPath]map[string]props, error) {
	if call.Err != nil {
		return nil, call.Err
	}
	if len(call.Body) > 0 {
		if objects, ok := call.Body[0].(map[dbus.ObjectPath]map[string]props); ok {
			return objects, nil
		}
	}
	return nil, errors.New("the answer is not of the type a{oa{sa{sv}}}")
}

// receive takes in one signal. Package wire drops what others send to this
// process directly, but who comes after NetworkManager may bear its name, so
// the unique one tells whether a signal is this NetworkManager's.
func (s *session) receive(sig *dbus.Signal) {
	if sig.Sequence < s.since {
		return
	}
	switch {
	case sig.Sender == driver && sig.Name == nameOwnerChanged:
		name, _ := arg[string](sig, 0)
		to, ok := arg[string](sig, 2)
		if ok && name == busName && to != s.owner {
			s.meet(to)
		}
		return
	case s.owner == "" || sig.Sender != s.owner:
		return
	}
	if s.fetch != nil {
		s.noted = append(s.noted, sig)
	}
	if !s.synced {
		return
	}
	was := s.tree.isUp(sig.Path)
	if !s.apply(sig) {
		return
	}
	// Once for all signals of a burst: a thousand new bridges make ten thousand of them.
	s.stale = true
	if was && !s.tree.isUp(sig.Path) {
		// But a device that went down and is coming up again must have forgotten its addresses.
		s.assemble()
	}
}

// apply changes the tree and tells whether the signal was one that does.
func (s *session) apply(sig *dbus.Signal) bool {
	switch sig.Name {
	case propertiesChanged:
		iface, _ := arg[string](sig, 0)
		changed, _ := arg[props](sig, 1)
		s.tree.change(sig.Path, iface, changed)
		if unsaid, _ := arg[[]string](sig, 2); len(unsaid) > 0 && s.fetch == nil {
			s.start() // it names properties without their values; NetworkManager never does
		}
	case interfacesAdded:
		path, _ := arg[dbus.ObjectPath](sig, 0)
		ifaces, _ := arg[map[string]props](sig, 1)
		s.tree.add(path, ifaces)
	case interfacesRemoved:
		path, _ := arg[dbus.ObjectPath](sig, 0)
		ifaces, _ := arg[[]string](sig, 1)
		if s.tree.remove(path, ifaces) && s.again == nil {
			s.again = time.After(quitTimeout) // in case it does not end after all
		}
	case profileUpdated:
		if s.tree.profiles[sig.Path] != nil {
			s.reading.add(sig.Path)
		}
		return false
	default:
		return false
	}
	return true
}

// arg is an argument of a signal; false if it is not there or not a T.
func arg[T any](sig *dbus.Signal, i int) (v T, ok bool) {
	if i < len(sig.Body) {
		v, ok = sig.Body[i].(T)
	}
	return v, ok
}

func (s *session) assemble() {
	s.uplinks, s.lanes, s.stale = s.tree.uplinks(s.uplinks), s.tree.lanes(s.lanes), false
}

// publish makes what is known the watcher's snapshot, and fetches what the tree
// turns out to lack: once for each object and state of its device, for an object
// that stays away must not keep two processes busy.
func (s *session) publish() {
	if !s.synced {
		return
	}
	if s.stale {
		s.assemble()
	}
	if s.fetch == nil && !s.tree.startup {
		s.hearManager(false)
	}
	s.readProfiles()
	if s.reading.first && !s.reading.idle() {
		return // what is known of lanes and limits is not complete yet
	}
	s.reading.first = false
	if s.left == nil && slices.ContainsFunc(s.lanes, func(p policy.Profile) bool { return p.Leaving }) {
		s.left = time.After(leaveTimeout)
	}
	s.w.publish(Snapshot{Known: true, Running: true, Uplinks: s.uplinks, Profiles: s.lanes})
	if s.fetch != nil || s.again != nil {
		return
	}
	missing := s.tree.missing()
	for path, state := range missing {
		if was, ok := s.asked[path]; !ok || was != state {
			s.start()
			break
		}
	}
	s.asked = missing
}
