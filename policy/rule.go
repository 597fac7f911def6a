package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// Priorities of our rules: before every VPN's and TUN proxy's (Tailscale starts
// at 5210, sing-box and mihomo at 9000), after the kernel's local table (0).
const (
	AllowPriority = 5199 // from the lane to an allowed network, by the main table
	LanePriority  = 5200 // from the lane, and back to it, by its own table
	MarkPriority  = 5201 // by mark, as the hand recipe has it
)

// Rule is a policy-routing rule of ours, with protocol 117.
type Rule struct {
	Priority uint32
	From, To netip.Prefix // zero: any
	Mark     uint32       // matched in full; 0: any
	Table    uint32
}

func (r Rule) key() key {
	return key{kind: kindRule, prefix: r.From, to: r.To, number: [3]uint32{r.Priority, r.Mark, r.Table}}
}

func (r Rule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "priority %d", r.Priority)
	if r.From.IsValid() {
		fmt.Fprintf(&b, " from %s", r.From)
	}
	if r.To.IsValid() {
		fmt.Fprintf(&b, " to %s", r.To)
	}
	if r.Mark != 0 {
		fmt.Fprintf(&b, " fwmark %d/0xffffffff", r.Mark)
	}
	fmt.Fprintf(&b, " lookup %d protocol %d", r.Table, Protocol)
	return b.String()
}

func (r Rule) add() []string    { return []string{"ip rule add " + r.String()} }
func (r Rule) remove() []string { return []string{"ip rule del " + r.String()} }
