package system

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"uplane/test/lab"
)

// chaosLane is a lane, how it is made, and what it may do.
type chaosLane struct {
	name  string
	file  string   // empty: it is a profile
	cards []string // by which it may leave, the one that it takes when it can first
	// neighbour is what the lane may reach beside its uplink.
	neighbour netip.Addr
	profile   bool

	server netip.Addr // nobody else talks to it
}

// chaosLanes are lanes with all kinds of keys.
func chaosLanes() []*chaosLane {
	wire := netip.MustParseAddr("192.168.10.1")
	lanes := []*chaosLane{
		{name: "plain", file: `uplink = "wlp6s0"`, cards: []string{lab.WiFi}},
		{name: "marked", file: "uplink = \"connection:homewifi\"\nmark = 100\ntable = 300\nbridge = \"br-marked\"", cards: []string{lab.WiFi}},
		{name: "direct", file: "uplink = \"wlp6s0\"\nbridge = false\nsubnet = \"10.77.0.0/24\"\ndns = [\"203.0.113.54\"]", cards: []string{lab.WiFi}},
		{name: "open", file: "uplink = \"wlp6s0\"\nallow = [\"192.168.10.0/24\"]", cards: []string{lab.WiFi}, neighbour: wire},
		{name: "either", file: `uplink = ["wlp6s0", "enp7s0"]`, cards: []string{lab.WiFi, lab.Wired}},
		{name: "wired", file: "uplink = \"enp7s0\"\nmark = \"0x200/0xf00\"", cards: []string{lab.Wired}},
		{name: "managed", profile: true, cards: []string{lab.WiFi}},
	}
	for i, lane := range lanes {
		lane.server = netip.AddrFrom4([4]byte{203, 0, 113, byte(100 + i)})
	}
	return lanes
}

// chaos is a world in which it breaks out.
type chaos struct {
	*site
	random   *rand.Rand
	lanes    []*chaosLane
	programs map[string]*programs // by lane
	judge    *judge
	captures []*lab.Capture
	dhcp     map[*lab.Gateway]lab.DHCP // as it is at rest

	undos   []func() // of what this burst has done
	stopped bool     // the daemon hangs
	history []string
	events  int
	counts  map[string]int // events by name
}

// newChaos makes a world with the lanes' servers, the judge, and the daemon; no lane yet.
func newChaos(t *testing.T, lasting time.Duration, random *rand.Rand, lanes []*chaosLane) *chaos {
	t.Helper()
	t.Parallel()
	ctx, w := lab.Start(t, lab.Plain, wired)
	if err := w.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	u, err := w.Install(bin)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Start(ctx); err != nil {
		t.Fatal(err)
	}
	c := &chaos{
		site:     &site{T: t, ctx: ctx, world: w, uplane: u},
		random:   random,
		lanes:    lanes,
		programs: map[string]*programs{},
		judge:    &judge{lanes: map[netip.Addr]*chaosLane{}, inet: w.Inet, left: map[string]int{}},
		dhcp:     map[*lab.Gateway]lab.DHCP{w.Wire: w.Wire.DHCP(), w.Wifi: w.Wifi.DHCP()},
		counts:   map[string]int{},
	}
	c.longer(lasting)
	t.Cleanup(func() {
		if strings.Contains(u.Log(), "DATA RACE") || strings.Contains(u.Log(), "panic:") {
			t.Errorf("the daemon has a race or a panic")
		}
		if t.Failed() {
			t.Logf("events so far:\n%s\nthe daemon's log ends so:\n%s", strings.Join(c.history, "\n"), lastLines(u.Log(), 150))
		}
	})
	if err := w.Inet.Sysctl("net/ipv4/tcp_synack_retries", "1"); err != nil { // as with the servers' other packets
		t.Fatal(err)
	}
	for _, lane := range c.lanes {
		if err := serve(w, lane); err != nil {
			t.Fatal(err)
		}
		c.judge.lanes[lane.server] = lane
	}
	if err := serveDatagrams(w.Wire.Node, w.Wire.LAN.Addr()); err != nil {
		t.Fatal(err)
	}
	for card := range cardNets {
		capture, err := c.judge.watch(w.Host, card)
		if err != nil {
			t.Fatal(err)
		}
		c.captures = append(c.captures, capture)
	}
	return c
}

// lanesUp makes all lanes and starts the programs in them.
func (c *chaos) lanesUp() {
	c.Helper()
	for _, lane := range c.lanes {
		if lane.profile {
			c.run("profile", "add", lane.name, "--uplink", lane.cards[0])
			continue
		}
		c.writeLane(lane.name, lane.file+"\n")
	}
	c.run("reload")
	ctx, cancel := context.WithCancel(c.ctx)
	var wg sync.WaitGroup
	for _, lane := range c.lanes {
		p := newPrograms(c.world, lane)
		c.programs[lane.name] = p
		wg.Go(func() { p.run(ctx) })
	}
	c.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// note adds to what is shown when the test fails.
func (c *chaos) note(format string, args ...any) {
	c.history = append(c.history, time.Now().UTC().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// burst has some events happen, with little time between them.
func (c *chaos) burst() {
	c.Helper()
	theme := themes[c.random.IntN(len(themes))]
	c.note("burst, breaks %s", theme)
	if theme == answering {
		c.quiet()
	}
	var last *event
	broken := false
	for range 3 + c.random.IntN(6) {
		e := c.pick(theme, last, broken)
		c.note("%s", e.name)
		c.events++
		c.counts[e.name]++
		if undo := e.do(c); undo != nil {
			c.undos = append(c.undos, undo)
		}
		if e.breaks == onePart {
			broken = true // two parts may be all that there is
		}
		last = e
		time.Sleep(time.Duration(c.random.IntN(300)) * time.Millisecond)
	}
}

// pick chooses an event of those that may happen while something is broken.
func (c *chaos) pick(theme guard, last *event, broken bool) *event {
	// Only the table keeps a card from passing on what comes for an address that it has lost.
	alone := theme == answering || theme == table || theme == onePart
	may := func(e *event) bool {
		return e != last && (e.breaks != nothing && e.breaks == theme && !broken || e.breaks == nothing && !(alone && e.loses))
	}
	total := 0
	weight := func(e *event) int {
		if e.breaks != nothing {
			return 3 * e.weight // there are few of them, and the burst is for them
		}
		return e.weight
	}
	for i := range chaosEvents {
		if e := &chaosEvents[i]; may(e) {
			total += weight(e)
		}
	}
	n := c.random.IntN(total)
	for i := range chaosEvents {
		e := &chaosEvents[i]
		if !may(e) {
			continue
		}
		if n -= weight(e); n < 0 {
			return e
		}
	}
	panic("unreachable")
}

// quiet waits until nothing comes any more for connections that the host has lost.
func (c *chaos) quiet() { time.Sleep(streamed + patience) }

// rest undoes what others have done, and checks that every lane is right again.
func (c *chaos) rest() {
	c.Helper()
	c.signal(syscall.SIGCONT)
	c.stopped = false
	c.startDaemon()
	c.edit("reload") // returns when it has healed what was broken, before connections are lost by what follows
	for _, undo := range slices.Backward(c.undos) {
		undo()
	}
	c.undos = nil
	c.note("at rest")
	c.connected()
	deadline := time.Now().Add(2 * time.Minute)
	for _, lane := range c.lanes {
		c.becomesRight(lane, deadline)
	}
	c.blameless()
	c.modest()
}

// connected waits until both cards are as they were.
func (c *chaos) connected() {
	c.Helper()
	for card, profile := range map[string]string{lab.Wired: "wired", lab.WiFi: "homewifi"} {
		for deadline := time.Now().Add(2 * time.Minute); ; {
			out := c.shTry("nmcli --terse --fields DEVICE,STATE,CONNECTION device status").out
			if strings.Contains(out, card+":connected:"+profile) {
				break
			}
			if time.Now().After(deadline) {
				c.Fatalf("%s does not connect:\n%s\n%s", card, out, c.world.NMLog())
			}
			if strings.Contains(out, card+":disconnected") {
				c.shTry("nmcli --wait 20 connection up " + profile)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// becomesRight waits until a lane is up by its best uplink, is as it shall be, and everything in it gets answers.
func (c *chaos) becomesRight(lane *chaosLane, deadline time.Time) {
	c.Helper()
	p := c.programs[lane.name]
	before := p.count()
	p.seenAs.Store(nil)
	for {
		c.blameless()
		why := c.wrongWith(lane, before)
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			c.Fatalf("lane %s does not become right: %s\n%s", lane.name, why,
				c.shTry("uplane status; uplane plan "+lane.name+"; conntrack -L 2>/dev/null | grep "+lane.server.String()+
					"; ip rule; ip route show table all proto uplane; ip route; ip -br addr; ip neigh; bridge link; nft list ruleset"+
					"; ip netns exec "+lane.name+" sh -c 'ip addr; ip route; ip neigh; ss -anp; ping -c2 -W1 "+lane.server.String()+"'").out)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// wrongWith says what is not yet right with a lane; empty: nothing.
func (c *chaos) wrongWith(lane *chaosLane, before map[kind]int64) string {
	st, err := c.uplane.Lane(c.ctx, lane.name)
	if err != nil {
		return err.Error()
	}
	// That somebody keeps undoing things is true for a minute more, and no fault of the lane's.
	fight := st.State == "degraded" && !slices.ContainsFunc(strings.Split(st.Reason, "; "), func(part string) bool {
		return !strings.HasPrefix(part, "another program keeps undoing")
	})
	if st.State != "up" && !fight || st.Uplink.Interface != lane.cards[0] {
		return fmt.Sprintf("it is %s by %q: %s", st.State, st.Uplink.Interface, st.Reason)
	}
	if plan := c.uplaneTry("plan", lane.name); plan.code != 0 || plan.out != "" {
		return "its plan is not empty: " + plan.out + plan.err
	}
	p := c.programs[lane.name]
	var silent []kind
	for k, n := range p.count() {
		if n <= before[k]+2 {
			silent = append(silent, k)
		}
	}
	if silent != nil {
		return fmt.Sprintf("%q get no answers", silent)
	}
	want := map[string]netip.Addr{
		c.world.Wire.LAN.Addr().String():  lab.WirePublic,
		c.world.Wifi.LAN.Addr().String():  lab.WifiPublic,
		c.world.Wifi2.LAN.Addr().String(): lab.Wifi2Public,
	}[st.IPv4.Gateway]
	if seen := p.seenAs.Load(); seen == nil || *seen != want {
		p.seenAs.Store(nil)
		return fmt.Sprintf("its server sees it as %v, not %v, with the gateway %s", seen, want, st.IPv4.Gateway)
	}
	return ""
}

func (p *programs) count() map[kind]int64 {
	out := map[kind]int64{}
	for k, n := range p.answers {
		out[k] = n.Load()
	}
	return out
}

// blameless checks that the judge has found nothing.
func (c *chaos) blameless() {
	c.Helper()
	if found := c.judge.look(); len(found) > 0 {
		c.Errorf("%d packets or questions that must not be, such as", len(found))
		for _, f := range found[:min(len(found), 20)] {
			c.Log(f)
		}
		c.FailNow()
	}
}

// modest checks that the daemon has not grown, whatever it has gone through.
func (c *chaos) modest() {
	c.Helper()
	const mostDescriptors, mostThreads, mostMemory = 60, 60, 300 << 10 // with the race detector; memory in KiB
	files, threads, memory := c.daemonSize()
	if files > mostDescriptors || threads > mostThreads || memory > mostMemory {
		c.Fatalf("the daemon has %d descriptors, %d threads and %d KiB", files, threads, memory)
	}
}

// daemonSize returns the daemon's descriptors, threads and memory in KiB.
func (c *chaos) daemonSize() (files, threads, memory int) {
	c.Helper()
	proc := filepath.Join("/proc", strconv.Itoa(c.uplane.PID()))
	entries, err := os.ReadDir(proc + "/fd")
	if err != nil {
		c.Fatal(err)
	}
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		c.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		_, _ = fmt.Sscanf(line, "Threads: %d", &threads)
		_, _ = fmt.Sscanf(line, "VmRSS: %d", &memory)
	}
	return len(entries), threads, memory
}

// size is how much of everything there is for the lanes, less what is about cards' addresses, as that of former ones stays
// for ten minutes, and those of blocks, as a lane that had a number of its own keeps it.
func (c *chaos) size() string {
	c.Helper()
	return c.sh(`echo rules $(ip rule show protocol uplane | grep -Evc 'from 192\.168\.|/16')
		echo routes $(ip route show table all proto uplane | wc -l)
		echo links $(ip -o link | wc -l)
		echo namespaces $(ip netns | wc -l)
		echo tables $(nft list tables | grep -c uplane)
		echo table $(nft list table inet uplane | tr , '\n' | grep -vc '192\.168\.')
		echo files $(ls /etc/netns/* /etc/uplane/lanes.d | wc -l)`)
}

// sameSize checks that there is as much for the lanes as at first. What drains goes with its connections.
func (c *chaos) sameSize(fresh string) {
	c.Helper()
	c.attempt("conntrack -F")
	now := c.size()
	for deadline := time.Now().Add(2 * time.Minute); now != fresh && time.Now().Before(deadline); now = c.size() {
		time.Sleep(100 * time.Millisecond)
	}
	if now != fresh {
		c.Errorf("at first there was\n%s\nand at the end\n%s\n%s", fresh, now, c.sh("ip rule; ip route show table all proto uplane"))
	}
}

// bareTraces are the traces, less what others' tools leave behind.
func (c *chaos) bareTraces() string {
	c.Helper()
	c.sh(`for t in filter nat mangle raw; do nft delete table ip $t 2>/dev/null || :; done; mkdir -p /etc/netns /run/netns /etc/uplane/lanes.d`)
	return c.traces()
}

// requireNothingLeft checks that the host is as it was before there were lanes.
func (c *chaos) requireNothingLeft(before string) {
	c.Helper()
	c.connected()
	c.sh("nmcli connection up wired; nmcli connection up homewifi") // with what the DHCP servers say by now
	deadline := time.Now().Add(30 * time.Second)
	after := c.bareTraces()
	for ; after != before && time.Now().Before(deadline); after = c.bareTraces() {
		time.Sleep(100 * time.Millisecond)
	}
	requireSame(c.T, before, after)
}

// signal sends a signal to the daemon.
func (c *chaos) signal(sig syscall.Signal) {
	if c.uplane.Running() {
		_ = syscall.Kill(c.uplane.PID(), sig)
	}
}

// lastLines is the end of a log.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// summary says how many packets of lanes left as they shall.
func (j *judge) summary() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return fmt.Sprintf("packets that left as they shall: %v; names asked: %d", j.left, j.asked)
}
