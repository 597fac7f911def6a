package kernel

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uplane/policy"
	"uplane/test/lab"
)

func TestLive(t *testing.T) {
	s := time.Second
	times := &timeouts{udp: 30 * s, udpStream: 120 * s, generic: 600 * s, unacked: 300 * s, resends: 300 * s}
	times.tcp = [...]time.Duration{0, 120 * s, 60 * s, 432000 * s, 120 * s, 60 * s, 30 * s, 120 * s, 10 * s, 120 * s}
	const established, finWait = 3, 4
	for name, c := range map[string]struct {
		connection
		live bool
	}{
		"ping":                       {connection{protocol: unix.IPPROTO_ICMP, status: ipsSeenReply, left: 29 * s}, false},
		"ping of IPv6":               {connection{protocol: unix.IPPROTO_ICMPV6, status: ipsSeenReply, left: 29 * s}, false},
		"download":                   {connection{protocol: unix.IPPROTO_TCP, tcpState: established, left: 431999 * s}, true},
		"silent for 4:59":            {connection{protocol: unix.IPPROTO_TCP, tcpState: established, left: (432000 - 299) * s}, true},
		"silent for 5:00":            {connection{protocol: unix.IPPROTO_TCP, tcpState: established, left: (432000 - 300) * s}, false},
		"silent for days":            {connection{protocol: unix.IPPROTO_TCP, tcpState: established, left: 1000 * s}, false},
		"data without an answer yet": {connection{protocol: unix.IPPROTO_TCP, tcpState: established, left: 299 * s}, true},
		"SYN":                        {connection{protocol: unix.IPPROTO_TCP, tcpState: 1, left: 119 * s}, true},
		"one side has finished":      {connection{protocol: unix.IPPROTO_TCP, tcpState: finWait, left: 100 * s}, true},
		"both have, LAST_ACK":        {connection{protocol: unix.IPPROTO_TCP, tcpState: tcpLastAck, left: 29 * s}, false},
		"both have, TIME_WAIT":       {connection{protocol: unix.IPPROTO_TCP, tcpState: tcpTimeWait, left: 119 * s}, false},
		"reset":                      {connection{protocol: unix.IPPROTO_TCP, tcpState: tcpClose, left: 9 * s}, false},
		"a state of later kernels":   {connection{protocol: unix.IPPROTO_TCP, tcpState: 77, left: 9 * s}, true},
		"UDP conversation":           {connection{protocol: unix.IPPROTO_UDP, status: ipsSeenReply | ipsAssured, left: 1 * s}, true},
		"DNS, answered now":          {connection{protocol: unix.IPPROTO_UDP, status: ipsSeenReply, left: 29 * s}, true},
		"DNS, answered a second ago": {connection{protocol: unix.IPPROTO_UDP, status: ipsSeenReply, left: 28 * s}, false},
		"a stream's time":            {connection{protocol: unix.IPPROTO_UDP, status: ipsSeenReply, left: 119 * s}, true},
		"question":                   {connection{protocol: unix.IPPROTO_UDP, left: 25 * s}, true},
		"question without an answer": {connection{protocol: unix.IPPROTO_UDP, left: 24 * s}, false},
		"in a flow table":            {connection{protocol: unix.IPPROTO_TCP, tcpState: established, status: ipsOffload, left: 86400 * s}, true},
		"a tunnel":                   {connection{protocol: unix.IPPROTO_ESP, status: ipsSeenReply, left: 1 * s}, true},
		"a tunnel without an answer": {connection{protocol: unix.IPPROTO_ESP, left: 590 * s}, false},
		"mDNS":                       {connection{protocol: unix.IPPROTO_UDP, answerFrom: netip.MustParseAddr("224.0.0.251"), left: 29 * s}, false},
		"times that were shortened":  {connection{protocol: unix.IPPROTO_UDP, left: 1000 * s}, true},
	} {
		if got := times.live(&c.connection); got != c.live {
			t.Errorf("%s: live is %v", name, got)
		}
	}
}

// TestConntrack has real connections of a lane's, tells the live ones and forgets the others.
func TestConntrack(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	k := openLane(t)
	sh(t, `nft 'add table inet t; add chain inet t pre { type filter hook prerouting priority -300; }; add rule inet t pre ct state new accept'
nft 'add chain inet t nat { type nat hook input priority 100; }; add rule inet t nat ip saddr 10.0.2.0/24 udp dport 7777 snat ip to 192.168.50.9'`)
	steam4, steam6, backup := netip.MustParsePrefix("10.0.2.0/24"), netip.MustParsePrefix("fd00:1:2:2::/64"), netip.MustParsePrefix("10.0.1.0/24")
	all := []netip.Prefix{steam4, steam6, backup}
	tracked := func(want ...netip.Prefix) {
		t.Helper()
		before := Dumps()
		got, err := k.Tracked(all)
		if err != nil || Dumps()-before != 1 {
			t.Fatalf("%d lists: %v", Dumps()-before, err)
		}
		for _, p := range want {
			if !got[p] {
				t.Errorf("%v has no live connections: %v\n%s", p, got, sh(t, "cat /proc/net/nf_conntrack 2>/dev/null || :"))
			}
		}
		if len(got) != len(want) {
			_ = k.listConnections(0, func(c *connection) { t.Logf("%v, answered by %v: %+v", c.source, c.answerFrom, *c) })
			t.Errorf("live are %v, not %v", got, want)
		}
	}
	count := func(of netip.Prefix) (n int) {
		t.Helper()
		set := newSubnets(of)
		if err := k.listConnections(0, func(c *connection) {
			if !c.answerFrom.IsMulticast() { // which the kernel joins when it likes
				n += len(set.of(c))
			}
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	tracked()

	// Pings: never live, and forgotten.
	sh(t, "ip netns exec steam ping -qc1 -W1 10.0.2.1; ip netns exec steam ping -qc1 -W1 fd00:1:2:2::1")
	if n4, n6 := count(steam4), count(steam6); n4 == 0 || n6 == 0 {
		t.Fatalf("%d and %d connections are tracked", n4, n6)
	}
	tracked()
	for _, subnet := range all {
		if err := k.Flush([]policy.Conntrack{policy.Conntrack{Subnet: subnet, All: true}}); err != nil {
			t.Fatal(err)
		}
	}
	if n4, n6 := count(steam4), count(steam6); n4+n6 > 0 {
		t.Errorf("%d and %d connections are not forgotten", n4, n6)
	}

	// TCP of both families: live, until both sides have finished.
	server4, client4 := connect(t, "tcp", "10.0.2.1:0")
	server6, client6 := connect(t, "tcp", "[fd00:1:2:2::1]:0")
	tracked(steam4, steam6)
	client4.Close()
	server4.Close()
	time.Sleep(50 * time.Millisecond)
	tracked(steam6)
	client6.Close()
	server6.Close()
	time.Sleep(50 * time.Millisecond)
	tracked()

	// UDP: a question without an answer, and one that is translated.
	_, plain := connect(t, "udp", "10.0.2.1:7000")
	_, translated := connect(t, "udp", "10.0.2.1:7777")
	for _, c := range []interface{ Write([]byte) (int, error) }{plain, translated} {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	tracked(steam4)
	before := count(steam4)
	if err := k.Flush([]policy.Conntrack{policy.Conntrack{Subnet: steam4}}); err != nil {
		t.Fatal(err)
	}
	if got := count(steam4); got == 0 || got >= before {
		t.Errorf("of %d connections %d are left after those that are not translated were forgotten", before, got)
	}
	if err := k.Flush([]policy.Conntrack{policy.Conntrack{Subnet: steam4, All: true}}); err != nil {
		t.Fatal(err)
	}
	if got := count(steam4); got != 0 {
		t.Errorf("%d connections are left after all were forgotten", got)
	}
	tracked()

	// One that comes in to a lane's program, as a published one does.
	if err := inNetns("steam", func() error {
		l, err := listen("udp", "10.0.2.2:7001")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	sh(t, `nft 'add chain inet t dn { type nat hook output priority -100; }; add rule inet t dn ip daddr 192.168.50.4 udp dport 7001 dnat ip to 10.0.2.2; add chain inet t out { type filter hook output priority -300; }; add rule inet t out ct state new accept'`)
	c := dial(t, "udp", "192.168.50.4:7001")
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	tracked(steam4)
}

func FuzzParseConnection(f *testing.F) {
	tuple := func(src, dst string) []byte {
		ip := appendAttr(appendAttr(nil, ctaIP4Src, netip.MustParseAddr(src).AsSlice()), ctaIP4Dst, netip.MustParseAddr(dst).AsSlice())
		return appendAttr(appendAttr(nil, ctaTupleIP|unix.NLA_F_NESTED, ip), ctaTupleProto|unix.NLA_F_NESTED, appendAttr(nil, ctaProtoNum, []byte{6}))
	}
	body := appendAttr([]byte{unix.AF_INET, 0, 0, 0}, ctaTupleOrig|unix.NLA_F_NESTED, tuple("10.0.2.2", "198.51.100.1"))
	body = appendAttr(body, ctaTupleReply|unix.NLA_F_NESTED, tuple("198.51.100.1", "192.168.50.4"))
	body = appendAttr(body, ctaStatus, []byte{0, 0, 0, ipsAssured})
	body = appendAttr(body, ctaTimeout, []byte{0, 0, 1, 0})
	body = appendAttr(body, ctaProtoInfo|unix.NLA_F_NESTED, appendAttr(nil, ctaProtoInfoTCP|unix.NLA_F_NESTED, appendAttr(nil, ctaTCPState, []byte{3})))
	c, ok := parseConnection(body)
	if !ok || c.source.String() != "10.0.2.2" || c.answerFrom.String() != "198.51.100.1" || c.answerTo.String() != "192.168.50.4" ||
		c.protocol != 6 || c.status != ipsAssured || c.left != 256*time.Second || c.tcpState != 3 {
		f.Fatalf("%+v, %v", c, ok)
	}
	f.Add(body)
	f.Add(body[:50])
	times := &timeouts{}
	set := newSubnets(netip.MustParsePrefix("10.0.2.0/24"), netip.MustParsePrefix("fd00::/64"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, ok := parseConnection(b); ok {
			times.live(&c)
			if of := set.of(&c); len(of) > 0 && !strings.Contains(c.source.String()+c.answerFrom.String(), of[0].Addr().String()[:4]) {
				t.Errorf("%+v is of %v", c, of)
			}
		}
	})
}

func BenchmarkSubnets(b *testing.B) {
	var of []netip.Prefix
	for i := range 1000 {
		of = append(of, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))
	}
	set := newSubnets(of...)
	c := connection{source: netip.MustParseAddr("10.2.7.2"), answerFrom: netip.MustParseAddr("198.51.100.1")}
	for b.Loop() {
		set.of(&c)
	}
}
