package walk_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"uplane/policy"
	"uplane/policy/walk"
	"uplane/test/lab"
)

var (
	addr = netip.MustParseAddr
	pfx  = netip.MustParsePrefix
)

// cards are the host's, each with a neighbour's namespace at its other end: its gateway, which has the whole internet on lo.
const cards = `
for card in "wire enp7s0 192.168.10 100" "wifi wlp6s0 192.168.50 600"; do
	set -- $card
	ip netns add $1
	ip link add name $2 type veth peer name lan netns $1
	ip addr add $3.4/24 dev $2
	ip link set dev $2 up
	ip -n $1 link set dev lo up
	ip -n $1 link set dev lan up
	ip -n $1 addr add $3.1/24 dev lan
	ip -n $1 addr add 203.0.113.10/32 dev lo
	ip -n $1 route add default via $3.4
	ip route add default via $3.1 dev $2 metric $4 proto dhcp
done
`

func uplink(iface, kind, net string, metric uint32) policy.Uplink {
	return policy.Uplink{
		Interface: iface, Type: kind, Connection: iface, UUID: iface, Phase: policy.PhaseActive,
		Addresses: []netip.Prefix{pfx(net + ".4/24")},
		Routes:    []policy.UplinkRoute{{Dst: pfx("0.0.0.0/0"), Via: addr(net + ".1"), Metric: metric}},
		DNS:       []netip.Addr{addr("192.0.2.53")},
	}
}

// input is the host above, with a lane by the Wi-Fi.
func input(lane policy.Lane, backend policy.Backend) policy.Input {
	uplinks := []policy.Uplink{uplink("enp7s0", "ethernet", "192.168.10", 100), uplink("wlp6s0", "wifi", "192.168.50", 600)}
	host := &policy.Host{Links: map[string]policy.HostLink{}, Sysctls: map[string]string{}, IPv6: true}
	for _, u := range uplinks {
		host.Links[u.Interface] = policy.HostLink{MTU: 1500, Running: true, Addrs: u.Addresses}
		host.Routes = append(host.Routes,
			policy.HostRoute{Table: policy.MainTable, Dst: u.Addresses[0].Masked(), Dev: u.Interface},
			policy.HostRoute{Table: policy.MainTable, Dst: u.Routes[0].Dst, Via: u.Routes[0].Via, Dev: u.Interface, Metric: u.Routes[0].Metric})
		for _, key := range []string{"forwarding", "src_valid_mark"} {
			host.Sysctls["net/ipv4/conf/"+u.Interface+"/"+key] = "0"
		}
	}
	lane.Name, lane.Uplink, lane.Enabled = "steam", []policy.Selector{{Kind: policy.ByType, Value: "wifi"}}, true
	return policy.Input{
		Files: policy.Files{Lanes: []policy.FileLane{{Lane: lane}}}, NM: policy.Snapshot{Uplinks: uplinks, Known: true, Running: true},
		Host: host, Firewall: backend,
	}
}

// The real kernel does with packets what the walk says.
func TestKernel(t *testing.T) {
	lab.RequireRoot(t)
	allow := policy.Lane{Allow: []netip.Prefix{pfx("192.168.10.0/24")}}
	explicit := policy.Lane{Subnet: pfx("10.0.1.0/24"), Table: 100, Mark: 100, Bridge: "br0"}
	waiting := func(in *policy.Input) { in.NM.Uplinks[1].Phase = policy.PhaseDown }
	flush := func(s policy.State) string {
		maps.DeleteFunc(s, func(o policy.Object, _ string) bool {
			switch o.(type) {
			case policy.Table, policy.Element:
				return true
			}
			return false
		})
		return "nft flush ruleset"
	}
	gone := func(s policy.State) string {
		out := ""
		for _, o := range slices.Collect(maps.Keys(s)) {
			if r, ok := o.(policy.Route); ok && r.Netns == "" && r.Table == 100 && r.Type == policy.Unicast {
				delete(s, o)
				out += policy.Op{Verb: policy.Remove, Object: o}.String() + "\n"
			}
		}
		return out
	}
	for name, c := range map[string]struct {
		lane    policy.Lane
		backend policy.Backend
		input   func(*policy.Input)
		meddle  func(policy.State) string // what others do to it, and how
	}{
		"plain":         {backend: policy.Nftables},
		"recipe":        {lane: explicit, backend: policy.Nftables},
		"chains":        {lane: explicit, backend: policy.IPTablesChains},
		"allow":         {lane: allow, backend: policy.Nftables},
		"allow, chains": {lane: allow, backend: policy.IPTablesChains},
		"no bridge":     {lane: policy.Lane{NoBridge: true}, backend: policy.Nftables},
		"waiting":       {backend: policy.Nftables, input: waiting},
		"flushed":       {backend: policy.Nftables, meddle: flush},
		"routes gone":   {backend: policy.Nftables, meddle: gone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := input(c.lane, c.backend)
			if c.input != nil {
				c.input(&in)
			}
			d := policy.Decide(in)
			ctx, w := lab.Start(t, lab.Bare, lab.Options{})
			want := d.Want.All()
			lines := "set -e\n" + cards + want.String()
			if c.meddle != nil {
				lines += c.meddle(want)
			}
			if out, err := w.Host.Run("sh", "-c", lines); err != nil {
				t.Fatalf("%v\n%s\n%s", err, out, lines)
			}
			r := real{t, ctx, w, walk.New(want, in.Host), d.Lanes[0]}
			for i, p := range probes(d.Lanes[0].Alloc.Subnet) {
				r.try(p, 7000+i)
			}
		})
	}
}

// probe is a new UDP packet that both worlds are asked about.
type probe struct {
	from   walk.Place
	source netip.Addr
	to     netip.Addr
}

func probes(lane netip.Prefix) []probe {
	inside, strange, internet := lane.Addr().Next().Next(), addr("10.99.99.99"), addr("203.0.113.10")
	wire, wifi := walk.Place{Interface: "enp7s0"}, walk.Place{Interface: "wlp6s0"}
	steam := walk.Place{Lane: "steam"}
	return []probe{
		{steam, inside, internet},
		{steam, inside, addr("192.168.50.1")},
		{steam, inside, addr("192.168.10.1")},
		{steam, inside, addr("192.168.10.4")}, // the host
		{steam, inside, addr("192.168.50.4")},
		{steam, strange, internet},
		{wifi, addr("192.168.50.1"), addr("192.168.10.1")}, // a neighbour, who takes the host for a router
		{wifi, inside, addr("192.168.10.1")},               // and says that he is the lane
		{wifi, addr("192.168.50.1"), inside},
		{wire, addr("192.168.10.1"), addr("192.168.50.1")},
		{wire, addr("192.168.10.1"), inside},
		{walk.Place{}, addr("192.168.50.4"), internet}, // the host's answers
		{walk.Place{}, addr("192.168.50.4"), addr("192.168.10.1")},
		{walk.Place{}, addr("192.168.10.4"), internet},
		{walk.Place{}, addr("192.168.50.4"), inside},
	}
}

// real is a world in the kernel and the same to walk through.
type real struct {
	t      *testing.T
	ctx    context.Context
	lab    *lab.World
	world  *walk.World
	status policy.LaneStatus
}

// try sends a probe and compares where it comes out with what the walk says.
func (r *real) try(p probe, port int) {
	r.t.Helper()
	said := r.world.Walk(walk.Packet{From: p.from, Source: p.source, Destination: p.to, Connection: walk.Connection{State: policy.CtNew}})
	want := "nowhere"
	switch {
	case said.Dropped:
	case said.Local:
		want = "the host"
	case said.Lane != "":
		want = "lane " + said.Lane
	default:
		want = fmt.Sprintf("%s from %v", said.Out, said.Source)
	}
	if got := r.send(p, port); got != want {
		r.t.Errorf("%+v: comes to %s, but\n%v", p, got, said)
	}
}

// send sends a probe and says where it came to.
func (r *real) send(p probe, port int) string {
	host := r.lab.Host
	node, netns := host.Node, map[string]string{"enp7s0": "wire", "wlp6s0": "wifi", "": p.from.Lane}[p.from.Interface]
	if netns != "" {
		node = r.node(netns)
		// Whoever says that he has an address has it for as long.
		if out, err := host.Run("ip", "-n", netns, "addr", "add", p.source.String()+"/32", "dev", "lo"); err != nil {
			r.t.Fatal(err, out)
		}
		defer func() {
			if out, err := host.Run("ip", "-n", netns, "addr", "del", p.source.String()+"/32", "dev", "lo"); err != nil {
				r.t.Fatal(err, out)
			}
		}()
	}
	got := make(chan string, 4)
	for _, card := range []string{"enp7s0", "wlp6s0"} {
		c, err := host.Capture(card, func(x lab.Packet) bool { return x.Outgoing && x.DstPort == uint16(port) })
		if err != nil {
			r.t.Fatal(err)
		}
		defer func() {
			if _, err := c.Stop(); err != nil {
				r.t.Error(err)
			}
		}()
		go func() {
			for range 30 {
				if seen := c.Packets(); len(seen) > 0 {
					got <- fmt.Sprintf("%s from %v", card, seen[0].Src)
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
	}
	for where, n := range map[string]*lab.Node{"the host": host.Node, "lane steam": r.node("steam")} {
		c, err := n.ListenPacket("udp4", fmt.Sprintf("0.0.0.0:%d", port))
		if err != nil {
			r.t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		go func() {
			if _, _, err := c.ReadFrom(make([]byte, 16)); err == nil {
				got <- where
			}
		}()
	}
	dialer := &net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.source, 0)), Timeout: time.Second}
	c, err := node.DialWith(r.ctx, dialer, "udp4", netip.AddrPortFrom(p.to, uint16(port)).String())
	if err != nil {
		return "nowhere" // the socket already says that there is no way
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte("probe")); err != nil {
		return "nowhere"
	}
	select {
	case where := <-got:
		return where
	case <-time.After(300 * time.Millisecond):
		return "nowhere"
	}
}

func (r *real) node(netns string) *lab.Node {
	n, err := r.lab.Host.Namespace(netns)
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}
