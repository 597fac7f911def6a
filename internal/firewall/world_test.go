package firewall

import (
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"uplane/policy"
	"uplane/test/lab"
)

// isolate gives the test a network namespace of its own. The thread stays locked, and dies with the test: commands
// and sockets of the test's goroutine are in there too.
func isolate(t testing.TB) {
	t.Helper()
	lab.RequireRoot(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare: %v", err)
	}
}

// sh runs a shell script in the test's namespace and returns what it prints.
func sh(t testing.TB, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

const ruleset = "nft list ruleset"

// world is a Firewall in a fresh namespace.
type world struct {
	testing.TB
	*Firewall
	cli string // iptables or iptables-legacy; empty: nftables
}

// each runs the test for every driver, in parallel.
func each(t *testing.T, test func(world), drivers ...string) {
	t.Parallel()
	for _, name := range drivers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(open(t, name))
		})
	}
}

func open(t testing.TB, name string) world {
	t.Helper()
	isolate(t)
	w := world{TB: t}
	w.Firewall = w.another(name)
	if name != "nftables" {
		w.cli = name
	}
	return w
}

// another is one more Firewall in the same namespace.
func (w world) another(name string) *Firewall {
	w.Helper()
	var f *Firewall
	var err error
	if name == "nftables" {
		f, err = Open(name)
	} else {
		f, err = openIPTables(name)
	}
	if err != nil {
		w.Fatal(err)
	}
	return f
}

// sh runs the script with $ipt as the driver's iptables.
func (w world) sh(script string) string {
	w.Helper()
	return sh(w, "ipt="+w.cli+"\n"+script)
}

func (w world) observe() policy.State {
	w.Helper()
	have, err := w.Observe()
	if err != nil {
		w.Fatal(err)
	}
	return have
}

func (w world) apply(ops []policy.Op, want policy.State) {
	w.Helper()
	if err := w.Apply(ops, want); err != nil {
		w.Fatal(err)
	}
}

// reach goes from what there is to want, as the daemon does.
func (w world) reach(want policy.State) {
	w.Helper()
	w.apply(policy.Diff(w.observe(), want), want)
}

// must checks what is observed.
func (w world) must(want policy.State) {
	w.Helper()
	if diff := difference(w.observe(), want); diff != "" {
		w.Fatalf("observed\n%s", diff)
	}
	// What was remembered is what there is.
	fresh, err := w.read()
	if err != nil {
		w.Fatal(err)
	}
	if diff := difference(fresh, want); diff != "" {
		w.Fatalf("read\n%s", diff)
	}
}

func difference(have, want policy.State) string {
	var out []string
	for o := range want {
		if !have.Has(o) {
			out = append(out, fmt.Sprintf("  lacks %T %+v", o, o))
		}
	}
	for o := range have {
		if !want.Has(o) {
			out = append(out, fmt.Sprintf("  has   %T %+v", o, o))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func state(objects ...policy.Object) policy.State {
	s := policy.State{}
	s.Add("steam", objects...)
	return s
}

func both(states ...policy.State) policy.State {
	out := policy.State{}
	for _, s := range states {
		maps.Copy(out, s)
	}
	return out
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// table is our table with the elements of lanes 1 to count.
func table(count int) policy.State {
	s := state(policy.Table{Sound: true})
	for i := range count {
		s.Add("steam", lane(i+1)...)
	}
	return s
}

// lane is a lane's elements: six, as most lanes have.
func lane(n int) []policy.Object {
	bridge := fmt.Sprintf("ul-%d", n)
	return []policy.Object{
		policy.Element{Set: policy.LaneLinks, In: bridge},
		policy.Element{Set: policy.Nets, Net: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0}), 24)},
		policy.Element{Set: policy.Forward, Family: policy.IPv4, In: bridge, Out: "wlp6s0", Chain: policy.OutboundChain},
		policy.Element{Set: policy.Forward, Family: policy.IPv4, In: "wlp6s0", Out: bridge, Chain: policy.InboundChain},
		policy.Element{Set: policy.Masquerade, Family: policy.IPv4, In: bridge, Out: "wlp6s0"},
		policy.Element{Set: policy.Marks, In: bridge, Mark: uint32(n)},
	}
}

// everyElement has each kind of element, and the edges of intervals.
func everyElement() policy.State {
	s := state(
		policy.Element{Set: policy.Uplinks, In: "wlp6s0"},
		policy.Element{Set: policy.Closed, In: "fifteen-letters"},
		policy.Element{Set: policy.OpenInput, In: "ul-1"},
		policy.Element{Set: policy.Forward, Family: policy.IPv6, In: "ul-1", Out: "wlp6s0", Chain: policy.OutboundChain},
		policy.Element{Set: policy.Masquerade, Family: policy.IPv6, In: "ul-1", Out: "wlp6s0"},
		policy.Element{Set: policy.Allowed, In: "ul-1", Net: prefix("192.168.50.0/24")},
		policy.Element{Set: policy.Answering, In: "wlp6s0", Net: prefix("192.168.50.4/32")},
		policy.Element{Set: policy.Allowed, In: "ul-1", Net: prefix("192.168.51.7/32")},
		policy.Element{Set: policy.Allowed, In: "ul-2", Net: prefix("0.0.0.0/0")},
		policy.Element{Set: policy.Nets, Net: prefix("0.0.0.0/8")},
		policy.Element{Set: policy.Nets, Net: prefix("255.255.255.255/32")},
		policy.Element{Set: policy.Nets, Net: prefix("255.255.254.0/24")},
		policy.Element{Set: policy.Nets, Net: prefix("10.0.4.4/30")},
		policy.Element{Set: policy.Marks, In: "x", Mark: 0xff000001},
	)
	return both(table(3), s) // lanes' networks are neighbours
}

// chains are a lane's in iptables, with every shape of rule.
func chains() policy.State {
	subnet, away := prefix("10.0.1.0/24"), prefix("192.168.50.0/24")
	s := policy.State{}
	add := func(table, hook string, rules ...policy.XTRule) {
		name := policy.ChainPrefix + hook
		s.Add("steam", policy.Chain{Table: table, Name: name, Hook: hook, Jumped: true})
		for i, r := range rules {
			s.Add("steam", policy.ChainRule{Table: table, Chain: name, N: i + 1, XTRule: r})
		}
	}
	add("filter", "FORWARD",
		policy.XTRule{Source: subnet, Dest: away, In: "ul-steam", Target: policy.TargetAccept},
		policy.XTRule{Source: prefix("192.168.50.7/32"), Dest: subnet, Out: "ul-steam", Established: true, Target: policy.TargetAccept},
		policy.XTRule{In: "ul-steam", Out: "wlp6s0", Invalid: true, Target: policy.TargetDrop},
		policy.XTRule{Source: subnet, In: "ul-steam", Out: "wlp6s0", Target: policy.TargetAccept},
		policy.XTRule{In: "ul-steam", Target: policy.TargetDrop},
		policy.XTRule{Out: "ul-steam", Target: policy.TargetDrop})
	add("filter", "INPUT",
		policy.XTRule{In: "ul-steam", ICMP: true, Target: policy.TargetAccept},
		policy.XTRule{In: "ul-steam", Established: true, Reply: true, Target: policy.TargetAccept},
		policy.XTRule{In: "ul-steam", Target: policy.TargetDrop})
	add("mangle", "PREROUTING",
		policy.XTRule{In: "ul-steam", Target: policy.TargetMark, Mark: 0x64, Mask: 0xffffffff},
		policy.XTRule{In: "ul-steam", Target: policy.TargetMark, Mark: policy.Witness, Mask: policy.Witness})
	add("nat", "POSTROUTING",
		policy.XTRule{Source: subnet, Dest: away, Target: policy.TargetMasquerade},
		policy.XTRule{Source: subnet, Out: "wlp6s0", Target: policy.TargetMasquerade})
	return s
}

// without is s but for chains in a table.
func without(s policy.State, table string) policy.State {
	out := maps.Clone(s)
	maps.DeleteFunc(out, func(o policy.Object, _ string) bool {
		switch o := o.(type) {
		case policy.Chain:
			return o.Table == table
		case policy.ChainRule:
			return o.Table == table
		}
		return false
	})
	return out
}

// manyChains are those of many lanes, four rules each.
func manyChains(count int) policy.State {
	s := policy.State{}
	n := map[string]int{}
	add := func(table, hook string, r policy.XTRule) {
		name := policy.ChainPrefix + hook
		s.Add("steam", policy.Chain{Table: table, Name: name, Hook: hook, Jumped: true})
		n[name]++
		s.Add("steam", policy.ChainRule{Table: table, Chain: name, N: n[name], XTRule: r})
	}
	for i := range count {
		subnet, bridge := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), fmt.Sprintf("ul-%d", i)
		add("filter", "FORWARD", policy.XTRule{Source: subnet, In: bridge, Out: "wlp6s0", Target: policy.TargetAccept})
		add("filter", "FORWARD", policy.XTRule{Dest: subnet, In: "wlp6s0", Out: bridge, Established: true, Target: policy.TargetAccept})
		add("filter", "FORWARD", policy.XTRule{In: bridge, Target: policy.TargetDrop})
		add("nat", "POSTROUTING", policy.XTRule{Source: subnet, Out: "wlp6s0", Target: policy.TargetMasquerade})
	}
	return s
}
