package walk

import (
	"fmt"
	"net/netip"
	"strings"
)

// Verdict is what becomes of a packet.
type Verdict struct {
	Steps   []Step
	Dropped bool
	Where   Stage      // the last one that it reached
	Local   bool       // it is for the host itself, or never left the lane's namespace
	Lane    string     // the lane that it is delivered to
	Out     string     // the interface by which it leaves the host; empty: it does not
	Source  netip.Addr // as it leaves
}

// Step is one thing that happens to a packet on its way.
type Step struct {
	Stage  Stage
	Object string // what decides, as a person would type it
	Result string
}

// Stage is a part of the way.
type Stage string

// The stages, in the order in which a packet meets them.
const (
	Namespace   Stage = "namespace"
	Link        Stage = "link"
	Prerouting  Stage = "prerouting"
	Routing     Stage = "routing"
	Input       Stage = "input"
	Forward     Stage = "forward"
	Output      Stage = "output"
	Postrouting Stage = "postrouting"
	Out         Stage = "out"
)

// String is the verdict and the way to it, a line a step.
func (v Verdict) String() string {
	var b strings.Builder
	for _, s := range v.Steps {
		fmt.Fprintf(&b, "%-12s %s: %s\n", s.Stage, s.Object, s.Result)
	}
	switch {
	case v.Dropped:
		fmt.Fprintf(&b, "dropped at %s", v.Where)
	case v.Local:
		b.WriteString("stays here")
	case v.Lane != "":
		fmt.Fprintf(&b, "comes to lane %s", v.Lane)
	default:
		fmt.Fprintf(&b, "leaves by %s from %v", v.Out, v.Source)
	}
	return b.String()
}
