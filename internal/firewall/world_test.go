package firewall

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

// isolate gives the test a network namespace of its own. The thread stays locked, and dies with the test: commands
// and sockets of the test's goroutine are in there too.
func isolate(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("must be root for a network namespace")
		}
		t.Skip("must be root for a network namespace")
	}
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

// world is a backend in a fresh namespace.
type world struct {
	testing.TB
	*Firewall
	cli string // iptables or iptables-legacy; empty: nftables alone
}

// each runs the test for every backend, in parallel.
func each(t *testing.T, test func(world), backends ...string) {
	if backends == nil {
		backends = []string{"iptables", "iptables-legacy", "nftables"}
	}
	t.Parallel()
	for _, name := range backends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(open(t, name))
		})
	}
}

func open(t testing.TB, name string) world {
	t.Helper()
	isolate(t)
	var f *Firewall
	var err error
	if name == "nftables" {
		f, err = Open(name, nil)
		name = ""
	} else {
		f, err = openIPTables(name, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return world{t, f, name}
}

// sh runs the script with $ipt as the backend's iptables.
func (w world) sh(script string) string {
	w.Helper()
	return sh(w, "ipt="+w.cli+"\n"+script)
}

func (w world) observe() []policy.Chain {
	w.Helper()
	chains, err := w.Observe()
	if err != nil {
		w.Fatal(err)
	}
	return chains
}

func (w world) apply(want, gone []policy.Chain) {
	w.Helper()
	if err := w.Apply(want, gone); err != nil {
		w.Fatal(err)
	}
}

// must checks what is observed, as text.
func (w world) must(want []policy.Chain) {
	w.Helper()
	if got, want := print(w.observe()), print(want); got != want {
		w.Fatalf("observed\n%s\nwant\n%s", got, want)
	}
}

func print(chains []policy.Chain) string {
	var b strings.Builder
	for _, c := range chains {
		fmt.Fprintf(&b, "%s %s from %s, jumped %t\n", c.Table, c.Name, c.Hook, c.Jumped)
		for _, r := range c.Lines() {
			fmt.Fprintf(&b, "\t%s\n", r)
		}
	}
	return b.String()
}

func chain(table, name string, rules ...string) policy.Chain {
	return policy.Chain{Table: table, Name: name, Hook: hookOf(name), Jumped: true, Rules: strings.Join(rules, "\n")}
}

// lane is a lane's three chains, with every shape of rule.
func lane() []policy.Chain {
	return []policy.Chain{
		chain("filter", policy.ForwardChain,
			"-s 10.0.1.0/24 -d 192.168.50.0/24 -i ul-steam -j ACCEPT",
			"-s 192.168.50.7/32 -d 10.0.1.0/24 -o ul-steam -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
			"-s 10.0.1.0/24 -i ul-steam -o wlp6s0 -j ACCEPT",
			"-d 10.0.1.0/24 -i wlp6s0 -o ul-steam -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
			"-i ul-steam -j DROP",
			"-o ul-steam -j DROP"),
		chain("mangle", policy.PreroutingChain,
			"-i ul-steam -j MARK --set-xmark 0x64/0xffffffff",
			"-s 10.0.1.0/25 ! -i ul-other -j MARK --set-xmark 0x0/0xff00"),
		chain("nat", policy.PostroutingChain,
			"-s 10.0.1.0/24 -d 192.168.50.0/24 -j MASQUERADE",
			"-s 10.0.1.0/24 ! -o ul-steam -j MASQUERADE"),
	}
}

// lanes are the chains of many lanes: four rules each.
func lanes(count int) []policy.Chain {
	var forward, nat []string
	for i := range count {
		subnet, bridge := fmt.Sprintf("10.%d.%d.0/24", 1+i/256, i%256), fmt.Sprintf("ul-%d", i)
		forward = append(forward,
			fmt.Sprintf("-s %s -i %s -o wlp6s0 -j ACCEPT", subnet, bridge),
			fmt.Sprintf("-d %s -i wlp6s0 -o %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", subnet, bridge),
			fmt.Sprintf("-i %s -j DROP", bridge))
		nat = append(nat, fmt.Sprintf("-s %s -o wlp6s0 -j MASQUERADE", subnet))
	}
	return []policy.Chain{
		chain("filter", policy.ForwardChain, forward...),
		chain("nat", policy.PostroutingChain, nat...),
	}
}
