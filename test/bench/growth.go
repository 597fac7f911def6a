package main

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"uplane/test/lab"
)

const (
	growthTurns   = 3    // of each contender, at each visit of a size
	tripsEach     = 2000 // round trips in a turn
	tripsWarm     = 100  // before them, which do not count
	changeRounds  = 10   // of each change, at each visit of a size
	fewLanes      = 10   // a change among these is what one among manyLanes is measured by
	manyLanes     = 1000
	tripFactor    = 1.2
	hostFactor    = 1.1
	rateFactor    = 0.9
	changeFactor  = 1.5
	measured      = "measured" // the lane: by its name the last, so it is placed last
	growthPicture = "growth.svg"
)

// visits are the sizes in the order in which they are measured: up and down again, so that what the machine does
// meanwhile does not count for one size only.
var visits = []int{1, 10, 100, 1000, 10, 1}

// handCounts are the sizes of the hand recipe's host. A thousand would take minutes.
var handCounts = []int{1, 10, 100, 400}

// grown is what was measured with so many lanes.
type grown struct {
	lane, host        samples   // round trips
	out, in           []float64 // of the lane, bytes a second
	gateway, up, down samples   // one change
	built, cleared    samples   // all lanes at once
	visits            int
	rss               float64 // MiB
}

// growing is the chapter's world.
type growing struct {
	*site
	wire, lane *lab.Node // wire is the host
	profile    nmProfile
	changes    int // of the gateway
	sizes      map[int]*grown
	none       samples // the host's round trips without any lane
}

func growth(b *bench) (section, error) {
	s := section{
		How: fmt.Sprintf(`A real daemon next to a real NetworkManager, with 1, 10, 100 and 1000 lanes, which are made by their files and one Reload. Sizes
are measured up and down again (%s), and samples of one size are pooled. All lanes but one leave by the wired
card. The measured lane leaves by the Wi-Fi, and its number is the last, so its rules stand last.

- **A round trip** is a UDP datagram of 64 bytes to a server in the internet and its answer, %d of them a turn, %d turns
  at each visit, in turns: the lane, the host itself by the wire, and the lane's TCP (%v in each direction). Both ends of the round
  trip are real-time threads on one processor, so what is measured is the path of the packet.
- **Hand recipe**: the same round trips with as many lanes made by the recipe's script (bridge, MARK, a rule and a table a lane,
  MASQUERADE), in a world of its own without the daemon, going up only, and to 400.`,
			strings.Trim(fmt.Sprint(visits), "[]"), tripsEach, growthTurns, throughputTime),
		Table: table{{"lanes", "what", "by", "n", "median", "p95", "next to 1"}},
	}
	g, err := b.newGrowing()
	if err != nil {
		return s, err
	}
	defer g.close()
	for _, n := range visits {
		b.progress("  %d lanes", n)
		if err := g.visit(n); err != nil {
			return s, fmt.Errorf("%d lanes: %w", n, err)
		}
	}
	hand, err := b.growByHand()
	if err != nil {
		err = fmt.Errorf("hand recipe: %w", err) // ours is measured all the same
	}
	g.report(&s, hand)
	s.Picture, s.Drawing = growthPicture, g.picture(hand)
	return s, err
}

func (b *bench) newGrowing() (*growing, error) {
	s, err := b.newUplaneSite(0)
	if err != nil {
		return nil, err
	}
	g := &growing{site: s, wire: s.world.Host.Node, sizes: map[int]*grown{}}
	if g.profile, err = s.nmProfile(); err == nil {
		err = g.profile.setGateway(s.gateways()[0])
	}
	if err != nil {
		s.close()
		return nil, err
	}
	time.Sleep(settleTime)
	return g, nil
}

// visit makes n lanes, measures, and takes them away again.
func (g *growing) visit(n int) error {
	size := g.sizes[n]
	if size == nil {
		size = &grown{}
		g.sizes[n] = size
	}
	size.visits++
	none, err := g.roundTrips(g.wire, g.world.Wire.Public)
	if err != nil {
		return err
	}
	g.none = append(g.none, none...)
	if err := g.writeGrowth(n); err != nil {
		return err
	}
	if err := g.reload(&size.built); err != nil {
		return err
	}
	begun := time.Now()
	if g.lane, err = g.world.Host.Namespace(measured); err != nil {
		return err
	}
	if err := g.traffic(size); err != nil {
		return err
	}
	if err := g.lane.Close(); err != nil { // or the namespace, and what is in it, would outlive the lane
		return err
	}
	if n == fewLanes || n == manyLanes {
		time.Sleep(time.Until(begun.Add(bridgeTime)))
		if err := g.change(size); err != nil {
			return err
		}
	}
	if size.rss, err = mebibytes(firstMatch(fmt.Sprintf("/proc/%d/status", g.uplane.PID()), "VmRSS:")); err != nil {
		return err
	}
	if err := os.RemoveAll(g.world.Host.Path(lanesDir)); err != nil {
		return err
	}
	if err := g.reload(&size.cleared); err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // the kernel goes on clearing up
	return awaitRest(g.uplane.PID())
}

const lanesDir = "/etc/uplane/lanes.d"

// writeGrowth writes the files of n lanes, of which the measured one is the last.
func (g *growing) writeGrowth(n int) error {
	dir := g.world.Host.Path(lanesDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := range n - 1 {
		if err := os.WriteFile(laneFile(dir, i), []byte("uplink = \""+lab.Wired+"\"\n"), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, measured+".toml"), []byte("uplink = \""+lab.WiFi+"\"\n"), 0o644)
}

// reload has the daemon read the files, and waits until it has come to rest.
func (s *site) reload(took *samples) error {
	start := time.Now()
	if err := s.manager("Reload"); err != nil {
		return err
	}
	*took = append(*took, time.Since(start))
	return awaitRest(s.uplane.PID())
}

// traffic measures round trips and throughput, in turns.
func (g *growing) traffic(size *grown) error {
	listener, err := g.world.Inet.Listen("tcp", netip.AddrPortFrom(lab.WhoamiAddr, throughputPort).String())
	if err != nil {
		return err
	}
	defer listener.Close()
	for range growthTurns {
		for _, x := range []struct {
			from   *lab.Node
			public netip.Addr
			to     *samples
		}{{g.lane, g.world.Wifi.Public, &size.lane}, {g.wire, g.world.Wire.Public, &size.host}} {
			took, err := g.roundTrips(x.from, x.public)
			if err != nil {
				return err
			}
			*x.to = append(*x.to, took...)
		}
		for _, out := range []bool{true, false} {
			rate, err := g.transfer(g.lane, listener, out)
			if err != nil {
				return err
			}
			if out {
				size.out = append(size.out, rate)
			} else {
				size.in = append(size.in, rate)
			}
		}
	}
	// A lane whose peers may still send drains when it goes down, which is another thing to measure.
	return g.wire.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
}

// change measures one change among all the lanes: another gateway for the measured lane's uplink, and the measured lane
// down and up.
func (g *growing) change(size *grown) error {
	status, err := g.uplane.Lane(g.ctx, measured)
	if err != nil {
		return err
	}
	o, err := observe(g.world)
	if err != nil {
		return err
	}
	defer o.close()
	pid := g.uplane.PID()
	for tries := 3 * changeRounds; tries > 0 && len(size.gateway) < 2*changeRounds*size.visits; tries-- {
		if err := awaitRest(pid); err != nil {
			return err
		}
		g.changes++
		gateway := g.gateways()[g.changes%2]
		o.reset()
		if err := g.profile.setGateway(gateway); err != nil {
			return err
		}
		from, ok := o.wait(unix.RT_TABLE_MAIN, gateway, changeLimit)
		if !ok {
			continue // on a busy machine NetworkManager now and then makes no change
		}
		to, ok := o.wait(uint32(status.Table), gateway, changeLimit)
		if !ok {
			return fmt.Errorf("table %d has no default by %v within %v", status.Table, gateway, changeLimit)
		}
		size.gateway = append(size.gateway, to.Sub(from))
	}
	for range changeRounds {
		for _, call := range []struct {
			to     *samples
			method string
			args   []any
		}{{&size.down, "Down", []any{measured}}, {&size.up, "Up", []any{measured, map[string]any{}}}} {
			if err := awaitRest(pid); err != nil {
				return err
			}
			start := time.Now()
			if err := g.manager(call.method, call.args...); err != nil {
				return err
			}
			*call.to = append(*call.to, time.Since(start))
		}
	}
	return nil
}

// roundTrips measures those of a node that the internet has to see as public.
func (s *site) roundTrips(from *lab.Node, public netip.Addr) (samples, error) {
	server := netip.AddrPortFrom(lab.WhoamiAddr, echoPort)
	stop, done := make(chan struct{}), make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- s.world.Inet.Do(func() error { return bounce(server, ready, stop) }) }()
	select {
	case err := <-done:
		return nil, err
	case <-ready:
	}
	var took samples
	err := from.Do(func() (err error) {
		took, err = pingPong(server, public)
		return err
	})
	close(stop)
	if berr := <-done; err == nil {
		err = berr
	}
	return took, err
}

// tripPatience is for an answer: on a busy machine the kernel's own threads, through which a packet may go, wait for others.
const tripPatience = 5 * time.Second

// trip is a datagram's size. The answer begins with the address that it seemed to come from.
const trip = 64

// pingPong sends datagrams from the calling thread and waits for each one's answer.
func pingPong(server netip.AddrPort, public netip.Addr) (samples, error) {
	fd, err := tripSocket(tripPatience)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()}); err != nil {
		return nil, err
	}
	took := make(samples, 0, tripsEach)
	var packet [trip]byte
	for i := range tripsWarm + tripsEach {
		start := time.Now()
		if _, err := unix.Write(fd, packet[:]); err != nil {
			return nil, fmt.Errorf("send: %w", err)
		}
		if _, err := unix.Read(fd, packet[:]); err != nil {
			return nil, fmt.Errorf("datagram %d has no answer: %w", i, err)
		}
		if i >= tripsWarm {
			took = append(took, time.Since(start))
		}
	}
	if seen := netip.AddrFrom4([4]byte(packet[:4])); seen != public {
		return nil, fmt.Errorf("it leaves by %v instead of %v", seen, public)
	}
	return took, nil
}

// bounce answers datagrams until stop is closed.
func bounce(server netip.AddrPort, ready chan<- struct{}, stop <-chan struct{}) error {
	fd, err := tripSocket(200 * time.Millisecond)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()}); err != nil {
		return err
	}
	close(ready)
	var packet [trip]byte
	for {
		n, from, err := unix.Recvfrom(fd, packet[:], 0)
		select {
		case <-stop:
			return nil
		default:
		}
		if err != nil {
			continue // nothing came for a while
		}
		peer, ok := from.(*unix.SockaddrInet4)
		if !ok {
			continue
		}
		copy(packet[:4], peer.Addr[:])
		if err := unix.Sendto(fd, packet[:n], 0, peer); err != nil {
			return err
		}
	}
}

// tripSocket is a blocking UDP socket. Its thread runs before every ordinary one, on the same processor as the other end's:
// between two that sleep, waking the other one up is most of a round trip.
func tripSocket(patience time.Duration) (int, error) {
	var one unix.CPUSet
	one.Set(0)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return -1, err
	}
	if err := realTime(); err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	timeout := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// growByHand measures round trips with lanes that the recipe's script made.
func (b *bench) growByHand() (map[int]*grown, error) {
	s, err := b.newSite(0)
	if err != nil {
		return nil, err
	}
	defer s.close()
	// What it has set up stays, and that it looks at a thousand new bridges is no part of what is measured.
	if err := s.world.StopNM(); err != nil {
		return nil, err
	}
	sizes := map[int]*grown{}
	made := 0
	for _, n := range handCounts {
		b.progress("  %d lanes by hand", n)
		for ; made < n; made++ {
			r := recipe{fmt.Sprintf("hand%04d", made), scriptTable + made, s.gateways()[0].String()}
			if _, err := s.sh(r.up()); err != nil {
				return sizes, err
			}
		}
		lane, err := s.world.Host.Namespace(fmt.Sprintf("hand%04d", n-1))
		if err != nil {
			return sizes, err
		}
		g := growing{site: s, wire: s.world.Host.Node, lane: lane}
		size := &grown{}
		if err := g.traffic(size); err != nil {
			return sizes, err
		}
		sizes[n] = size
	}
	return sizes, nil
}

// report makes the table and the goals.
func (g *growing) report(s *section, hand map[int]*grown) {
	one, most := g.sizes[1], g.sizes[manyLanes]
	s.Table.row("0", "the host's round trip", "nobody", fmt.Sprint(len(g.none)), us(g.none.median()), us(g.none.p95()), times(ratio(g.none.median(), one.host.median())))
	for _, by := range []struct {
		who   string
		sizes map[int]*grown
	}{{"Uplane", g.sizes}, {"hand recipe", hand}} {
		first := by.sizes[1]
		for _, n := range slices.Sorted(maps.Keys(by.sizes)) {
			size := by.sizes[n]
			trip := func(what string, took, to samples) {
				s.Table.row(fmt.Sprint(n), what, by.who, fmt.Sprint(len(took)), us(took.median()), us(took.p95()), times(ratio(took.median(), to.median())))
			}
			rate := func(what string, got, to []float64) {
				slices.Sort(got)
				s.Table.row(fmt.Sprint(n), what, by.who, fmt.Sprint(len(got)), gbits(middle(got)), "", times(middle(got)/middle(slices.Sorted(slices.Values(to)))))
			}
			trip("a lane's round trip", size.lane, first.lane)
			trip("the host's round trip", size.host, first.host)
			rate("a lane's TCP, out", size.out, first.out)
			rate("a lane's TCP, in", size.in, first.in)
		}
	}
	few := g.sizes[fewLanes]
	kinds := []struct {
		what      string
		few, most samples
	}{{"another gateway for one lane", few.gateway, most.gateway}, {"one lane up", few.up, most.up}, {"one lane down", few.down, most.down}}
	for _, k := range kinds {
		s.Table.row(fmt.Sprint(fewLanes), k.what, "Uplane", fmt.Sprint(len(k.few)), ms(k.few.median()), ms(k.few.p95()), "")
		s.Table.row(fmt.Sprint(manyLanes), k.what, "Uplane", fmt.Sprint(len(k.most)), ms(k.most.median()), ms(k.most.p95()), times(ratio(k.most.median(), k.few.median()))+" next to 10")
	}
	for _, n := range laneCounts {
		size := g.sizes[n]
		s.Table.row(fmt.Sprint(n), "all lanes up (Reload)", "Uplane", fmt.Sprint(len(size.built)), ms(size.built.median()), ms(size.built.p95()), "")
		s.Table.row(fmt.Sprint(n), "all lanes down (Reload)", "Uplane", fmt.Sprint(len(size.cleared)), ms(size.cleared.median()), ms(size.cleared.p95()), "")
		s.Table.row(fmt.Sprint(n), "resident memory after that traffic", "Uplane", "1", fmt.Sprintf("%.1f MiB", size.rss), "", times(size.rss/one.rss))
	}
	s.note("*Another gateway* is from the kernel's main table to the lane's, as in the chapter on that. *Up* and *down* are D-Bus calls, from call to\n" +
		"answer, of the lane that was measured; in the answer all is in place, and down makes two passes, of which the second sees that nothing is left.")

	worst, x := 1, 0.0
	for _, n := range laneCounts[1:] {
		if r := ratio(g.sizes[n].lane.median(), one.lane.median()); r > x {
			worst, x = n, r
		}
	}
	s.figure(x <= tripFactor, "a lane's round trip with 10, 100, 1000 lanes, next to 1", "≤ 1.2×",
		"%s with %d (%s to %s)", times(x), worst, us(g.sizes[worst].lane.median()), us(one.lane.median()))
	x = ratio(most.host.median(), one.host.median())
	s.figure(x <= hostFactor, "the host's own round trip with 1000 lanes, next to 1", "≤ 1.1×",
		"%s (%s to %s); next to none %s", times(x), us(most.host.median()), us(one.host.median()), times(ratio(most.host.median(), g.none.median())))
	for _, d := range []struct {
		word      string
		one, most []float64
	}{{"out", one.out, most.out}, {"in", one.in, most.in}} {
		slices.Sort(d.one)
		slices.Sort(d.most)
		x = middle(d.most) / middle(d.one)
		s.figure(x >= rateFactor, "a lane's TCP throughput with 1000 lanes, next to 1, "+d.word, "≥ 0.9×", "%s (%s to %s)", times(x), gbits(middle(d.most)), gbits(middle(d.one)))
	}
	for _, k := range kinds {
		x = ratio(k.most.median(), k.few.median())
		s.figure(x <= changeFactor, k.what+" among 1000 lanes, next to among 10", "≤ 1.5×", "%s (%s to %s)", times(x), ms(k.most.median()), ms(k.few.median()))
	}
}

// us is a duration in microseconds.
func us(d time.Duration) string { return fmt.Sprintf("%.1f µs", float64(d.Nanoseconds())/1000) }

// picture shows round trips and throughput.
func (g *growing) picture(hand map[int]*grown) string {
	const blue, green, orange, purple = "#0072b2", "#009e73", "#d55e00", "#aa4499"
	trips := panel{title: "Round trip, µs: median, and p95 above", least: 5, most: 1000, marks: []float64{5, 10, 20, 50, 100, 200, 500, 1000}, format: "%.0f"}
	rates := panel{title: "TCP from a lane, Gbit/s", format: "%.0f"}
	for _, by := range []struct {
		who        string
		sizes      map[int]*grown
		lane, host string
	}{{"Uplane", g.sizes, blue, green}, {"hand recipe", hand, orange, purple}} {
		lane := curve{name: "lane, " + by.who, colour: by.lane, at: map[int]float64{}, upto: map[int]float64{}}
		host := curve{name: "host, " + by.who, colour: by.host, dashed: true, at: map[int]float64{}, upto: map[int]float64{}}
		rate := curve{name: by.who, colour: by.lane, at: map[int]float64{}}
		for n, size := range by.sizes {
			micro := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
			lane.at[n], lane.upto[n] = micro(size.lane.median()), micro(size.lane.p95())
			host.at[n], host.upto[n] = micro(size.host.median()), micro(size.host.p95())
			rate.at[n] = middle(slices.Sorted(slices.Values(size.out))) * 8 / 1e9
			rates.most = max(rates.most, rate.at[n])
		}
		trips.curves = append(trips.curves, lane, host)
		rates.curves = append(rates.curves, rate)
	}
	step := 5.0
	rates.most = math.Ceil(rates.most*1.3/step) * step // room for the names of the curves
	for v := 0.0; v <= rates.most; v += step {
		rates.marks = append(rates.marks, v)
	}
	return svg(trips, rates)
}
