package firewall

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"uplane/policy"
	"uplane/test/lab"
)

// refuse has the kernel refuse nf_tables to the test's thread and to what it starts.
func refuse(t *testing.T, with unix.Errno) {
	t.Helper()
	isolate(t)
	if err := lab.RefuseNetlink(unix.NETLINK_NETFILTER, with); err != nil {
		t.Fatal(err)
	}
}

func requireNoFirewall(t *testing.T, mode, why string) {
	t.Helper()
	if f, err := Open(mode); err == nil {
		t.Errorf("%s is %s", mode, f.Name())
	} else if !strings.Contains(err.Error(), why) {
		t.Errorf("%s: no %q in: %v", mode, why, err)
	}
}

// TestNoNFTables: on a kernel without nf_tables lanes are kept by iptables' own tables, whichever variant the host prefers.
func TestNoNFTables(t *testing.T) {
	refuse(t, unix.EPROTONOSUPPORT)
	for _, mode := range []string{"auto", "iptables"} {
		f, err := Open(mode)
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		if f.Name() != "iptables (legacy)" {
			t.Errorf("%s is %s", mode, f.Name())
		}
		w := world{t, f, policy.IPTablesLegacy}
		w.reach(chains())
		w.must(chains())
		if missing, err := f.Missing(policy.Diff(nil, chains())); err != nil || len(missing) > 0 {
			t.Errorf("missing: %v, %v", missing, err)
		}
		w.sh("$ipt -P FORWARD DROP")
		door := policy.Door{Tool: policy.IPTablesLegacy, Sound: true}
		w.apply([]policy.Op{{Verb: policy.Add, Object: door}}, nil)
		if drops, have, err := f.Doors(); err != nil || !drops[policy.IPTablesLegacy] || !have.Has(door) {
			t.Errorf("doors: %v, %v, %v", drops, have, err)
		}
		if left := w.leftovers(); len(left) > 0 {
			t.Errorf("leftovers: %v", left)
		}
		w.sh("$ipt -P FORWARD ACCEPT; $ipt -F FORWARD")
		w.reach(nil)
		w.must(nil)
	}
	requireNoFirewall(t, "nftables", `protocol not supported: use a kernel with nf_tables or set firewall = "iptables"`)
	t.Setenv("PATH", t.TempDir())
	requireNoFirewall(t, "auto", "use a kernel with nf_tables, or install the package iptables")
	requireNoFirewall(t, "iptables", "install the package iptables")
}

// TestNFTablesBusy: what fails for a moment does not make a host's lanes iptables' for as long as the daemon lives.
func TestNFTablesBusy(t *testing.T) {
	refuse(t, unix.ENOBUFS)
	if _, err := Open("auto"); err == nil || err.Error() != "open nftables: socket: no buffer space available" {
		t.Error(err)
	}
}

// TestPartOfNetfilter is what a kernel says that has netfilter's netlink family but not this part of it.
func TestPartOfNetfilter(t *testing.T) {
	isolate(t)
	conn, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m := message(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC, nil)
	m.Header.Type = 99 << 8
	if _, err := conn.Execute(m); !lacksNFTables(err) {
		t.Error(err)
	}
}
