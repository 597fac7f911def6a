package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"github.com/vishvananda/netns"

	"uplane/test/lab"
)

const (
	answerRounds = 40
	answerFactor = 0.4
	askAgain     = time.Millisecond
	askPatience  = 10 * time.Second
)

func answers(b *bench) (section, error) {
	s := section{
		How: fmt.Sprintf(`From the call to the first answer that a program in the lane gets from a server in the internet, by the Wi-Fi. The
uplink is ready, the lane is not there; %d times each, in turns. The program asks every millisecond from when the builder is done.

- **Uplane**: the daemon's D-Bus method Up, of a lane whose file is there.
- **shell script**: the hand recipe in one script, with the start of its shell.`, answerRounds),
		Table: table{{"what", "by", "n", "median", "p95"}},
	}
	site, err := b.newUplaneSite(0)
	if err != nil {
		return s, err
	}
	defer site.close()
	builders, err := site.builders()
	if err != nil {
		return s, err
	}
	asker, err := b.startHelper(site.world.Host.Node, "ask")
	if err != nil {
		return s, err
	}
	uplane, script := builders[0], builders[2]
	for x, lane := range map[*builder]string{uplane: "steam", script: "hand"} {
		build := x.up
		x.up = func() (time.Duration, error) {
			start := time.Now()
			if _, err := build(); err != nil {
				return 0, err
			}
			by, err := asker.ask(lane)
			took := time.Since(start)
			if err == nil && by != site.world.Wifi.Public.String() {
				err = fmt.Errorf("lane %s leaves by %s", lane, by)
			}
			return took, err
		}
	}
	for range answerRounds {
		for _, x := range []*builder{uplane, script} {
			if err := x.once(); err != nil {
				return s, fmt.Errorf("%s: %w", x.name, err)
			}
		}
	}
	for _, x := range []*builder{uplane, script} {
		s.Table.row("a lane that answers", x.name, fmt.Sprint(len(x.ups)), ms(x.ups.median()), ms(x.ups.p95()))
	}
	x := ratio(uplane.ups.median(), script.ups.median())
	s.figure(x <= answerFactor, "build a lane by D-Bus, call to first answer, next to the script", "≤ 0.4×", "%s (%s to %s)", times(x), ms(uplane.ups.median()), ms(script.ups.median()))
	return s, nil
}

// ask is a helper that asks a server in the internet from a lane, until it answers, and says which
// address it saw.
func ask([]string) error {
	return answer(func(lane string) (string, error) {
		type result struct {
			seen string
			err  error
		}
		done := make(chan result)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with this goroutine, as it is in the lane
			seen, err := askFrom(lane)
			done <- result{seen, err}
		}()
		r := <-done
		return r.seen, r.err
	})
}

func askFrom(lane string) (string, error) {
	ns, err := netns.GetFromName(lane)
	if err != nil {
		return "", err
	}
	defer ns.Close()
	if err := netns.Set(ns); err != nil {
		return "", err
	}
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(lab.WhoamiAddr, lab.WhoamiPort)))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	buf := make([]byte, 64)
	for start := time.Now(); time.Since(start) < askPatience; {
		_, err = conn.Write([]byte("who am I?")) // may be refused: no route yet
		_ = conn.SetReadDeadline(time.Now().Add(askAgain))
		n, rerr := conn.Read(buf)
		if rerr == nil {
			seen, err := netip.ParseAddrPort(string(buf[:n-1]))
			return seen.Addr().String(), err
		}
		err = errors.Join(err, rerr)
	}
	return "", fmt.Errorf("no answer: %w", err)
}
