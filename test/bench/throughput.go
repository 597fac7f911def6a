package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"uplane/test/lab"
)

const (
	throughputRounds = 10
	throughputTime   = 500 * time.Millisecond
	throughputPort   = 5001
	throughputGoal   = 0.97
)

func throughput(b *bench) (section, error) {
	s := section{
		How: fmt.Sprintf(`One TCP connection from a lane to a server in the internet and back, %v at a time, %d times in each direction, in turns
with a lane that a shell script built by the hand recipe next to it (bridge, MARK, fwmark rule, MASQUERADE). All of it is
this machine's processor: both ends, and every router between them.`, throughputTime, throughputRounds),
		Table: table{{"lane", "direction", "n", "median", "worst"}},
	}
	site, err := b.newUplaneSite(0)
	if err != nil {
		return s, err
	}
	defer site.close()
	// The recipe first: forwarding that Uplane finds switched off on the card is its own lanes' alone.
	hand := recipe{"hand", scriptTable, site.gateways()[0].String()}
	if _, err := site.sh(hand.up()); err != nil {
		return s, err
	}
	if err := site.lane("steam"); err != nil {
		return s, err
	}
	listener, err := site.world.Inet.Listen("tcp", netip.AddrPortFrom(lab.WhoamiAddr, throughputPort).String())
	if err != nil {
		return s, err
	}
	defer listener.Close()
	var lanes [2]*lab.Node
	for i, name := range []string{"steam", hand.name} {
		if lanes[i], err = site.world.Host.Namespace(name); err != nil {
			return s, err
		}
	}
	var got [2][2][]float64 // by lane and direction
	for range throughputRounds {
		for lane := range lanes {
			for direction := range 2 {
				rate, err := site.transfer(lanes[lane], listener, direction == 0)
				if err != nil {
					return s, err
				}
				got[lane][direction] = append(got[lane][direction], rate)
			}
		}
	}
	directions := [2]string{"out", "in"}
	for lane, name := range []string{"Uplane", "hand recipe"} {
		for direction, word := range directions {
			rates := got[lane][direction]
			slices.Sort(rates)
			s.Table.row(name, word, fmt.Sprint(len(rates)), gbits(middle(rates)), gbits(rates[0]))
		}
	}
	for direction, word := range directions {
		x := middle(got[0][direction]) / middle(got[1][direction])
		s.aim(x >= throughputGoal, "throughput "+word+": at least 0.97× the hand recipe's", "%.2f×", x)
	}
	return s, nil
}

// middle is the median of sorted values.
func middle(sorted []float64) float64 { return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2 }

func gbits(bytesPerSecond float64) string { return fmt.Sprintf("%.2f Gbit/s", bytesPerSecond*8/1e9) }

// transfer sends for a while from a lane, or to it, and returns what arrived, bytes a second.
func (s *site) transfer(lane *lab.Node, listener net.Listener, out bool) (float64, error) {
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
	defer cancel()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			accepted <- conn
		}
	}()
	inner, err := lane.Dial(ctx, "tcp", listener.Addr().String())
	if err != nil {
		return 0, err
	}
	defer inner.Close()
	outer := <-accepted
	defer outer.Close()
	from, to := outer, inner
	if out {
		from, to = inner, outer
	}
	start := time.Now()
	_ = from.SetWriteDeadline(start.Add(throughputTime))
	go func() {
		block := make([]byte, 256<<10)
		for {
			if _, err := from.Write(block); err != nil {
				from.Close()
				return
			}
		}
	}()
	_ = to.SetReadDeadline(start.Add(10 * throughputTime))
	// A plain reader: io.Discard would have the kernel throw the data away unread.
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{to}, make([]byte, 256<<10))
	if n == 0 {
		return 0, fmt.Errorf("nothing arrived: %w", err)
	}
	return float64(n) / time.Since(start).Seconds(), nil
}
