package system

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"uplane/test/lab"
)

// flaw is what can be wrong with a packet or a question.
type flaw string

const (
	untranslated  flaw = "an address of a lane on a card"
	foreignSource flaw = "a packet of a lane, or an answer about one, with a source that is not the card's"
	wrongCard     flaw = "a packet of a lane by a card that is not its uplink"
	wrongAsker    flaw = "a name of a lane asked by another way than the lane's"
)

// finding is something that must not be.
type finding struct {
	flaw
	lane, what string
}

func (f finding) String() string { return fmt.Sprintf("%s (lane %q): %s", f.flaw, f.lane, f.what) }

// judge looks at everything that leaves the host. Each lane talks to a server of its own, so a packet's
// destination tells whose it is, whatever the packet is.
type judge struct {
	lanes map[netip.Addr]*chaosLane // by server
	inet  *lab.Inet

	mu       sync.Mutex
	findings []finding
	left     map[string]int // packets of lanes that left as they shall, by lane and card
	asked    int            // questions that were looked at
}

// privateSpaces are where lanes' subnets are, automatic or not.
var privateSpaces = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12")}

// cardNets are the networks that the cards can be in.
var cardNets = map[string][]netip.Prefix{
	lab.Wired: {netip.MustParsePrefix("192.168.10.0/24"), netip.MustParsePrefix("192.168.20.0/24")},
	lab.WiFi:  {netip.MustParsePrefix("192.168.50.0/24"), netip.MustParsePrefix("192.168.60.0/24")},
}

// watch has the judge look at a card.
func (j *judge) watch(host *lab.Host, card string) (*lab.Capture, error) {
	return host.Capture(card, func(p lab.Packet) bool {
		if !p.Outgoing {
			return false
		}
		lane, why := j.lookAt(card, p)
		j.mu.Lock()
		defer j.mu.Unlock()
		if why == "" {
			if lane != nil {
				j.left[lane.name+" "+card]++
			}
			return false
		}
		f := finding{flaw: why, what: p.Time.UTC().Format("15:04:05.000 ") + card + ": " + p.String()}
		if lane != nil {
			f.lane = lane.name
		}
		j.findings = append(j.findings, f)
		return true
	})
}

// lookAt tells whose packet leaves by a card, nil being nobody's, and what is wrong with it.
func (j *judge) lookAt(card string, p lab.Packet) (*chaosLane, flaw) {
	lane := j.lanes[p.Dst]
	if lane == nil {
		lane = j.lanes[p.Src] // passed on
	}
	switch {
	case slices.ContainsFunc(privateSpaces, p.Touches):
		return lane, untranslated
	case lane == nil:
		return nil, ""
	case !slices.ContainsFunc(cardNets[card], p.Touches):
		return lane, foreignSource
	case !slices.Contains(lane.cards, card):
		return lane, wrongCard
	}
	return lane, ""
}

// publics are the addresses that the internet sees behind a card.
func publics(card string) []netip.Addr {
	if card == lab.Wired {
		return []netip.Addr{lab.WirePublic}
	}
	return []netip.Addr{lab.WifiPublic, lab.Wifi2Public}
}

// look returns what has been found since the last time.
func (j *judge) look() []finding {
	queries := j.inet.Queries()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, q := range queries[j.asked:] {
		for _, lane := range j.lanes {
			if !strings.HasSuffix(q.Name, "."+lane.name+"."+lab.SplitDomain) {
				continue
			}
			if !slices.ContainsFunc(lane.cards, func(card string) bool { return slices.Contains(publics(card), q.From.Addr()) }) {
				j.findings = append(j.findings, finding{wrongAsker, lane.name, fmt.Sprintf("%s by %s", q.Name, q.From)})
			}
		}
	}
	j.asked = len(queries)
	found := j.findings
	j.findings = nil
	return found
}
