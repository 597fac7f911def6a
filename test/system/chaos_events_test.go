package system

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"uplane/test/lab"
)

// guard is one of the things that keep lanes closed, each of which suffices: so in one burst only one is broken.
type guard string

const (
	nothing guard = "nothing"
	// table is our table of the firewall as a whole: without it the witness is missing, and rules lead nowhere.
	table guard = "the table"
	// onePart is one chain or set of it, for which another one stands in.
	onePart guard = "a part of the table"
	// routing is the lanes' rules: without them the table drops what leaves by another card.
	routing guard = "the rules"
	// answering is the rules by which the host's own answers leave. Nothing stands in for them, so nothing may lose
	// connections while they are gone.
	answering guard = "the rules of answers"
	// recipe is the table and its guard, while iptables stands in for it.
	recipe guard = "the guard behind iptables"
)

// themes are what a burst may break, the more often the more events there are for it.
var themes = []guard{nothing, nothing, nothing, table, table, onePart, onePart, routing, routing, answering, recipe}

// event is something that happens to a host.
type event struct {
	name   string
	weight int
	breaks guard
	loses  bool // connections, which the host then answers itself
	do     func(c *chaos) (undo func())
}

// chaosEvents are all that can happen.
var chaosEvents = []event{
	// NetworkManager and its cards.
	{"disconnect the Wi-Fi", 3, nothing, true, tried("nmcli --wait 10 device disconnect wlp6s0", "nmcli --wait 20 connection up homewifi")},
	{"disconnect the wire", 2, nothing, true, tried("nmcli --wait 10 device disconnect enp7s0", "nmcli --wait 20 connection up wired")},
	{"the Wi-Fi's profile up again", 3, nothing, true, tried("nmcli --wait 10 connection up homewifi", "")},
	{"the wire's profile up again", 2, nothing, true, tried("nmcli --wait 10 connection up wired", "")},
	{"the lane's profile up again", 2, nothing, true, tried("nmcli --wait 10 connection up managed", "")},
	{"the lane's profile down", 1, nothing, true, tried("nmcli --wait 10 connection down managed", "nmcli --wait 20 connection up managed")},
	{"the Wi-Fi has another gateway", 3, nothing, true, tried("nmcli --wait 10 device modify wlp6s0 ipv4.gateway 192.168.50.2 ipv4.method manual ipv4.addresses 192.168.50.4/24", "nmcli --wait 20 connection up homewifi")},
	{"the Wi-Fi has another address", 3, nothing, true, late("nmcli --wait 10 device modify wlp6s0 ipv4.gateway 192.168.50.1 ipv4.method manual ipv4.addresses 192.168.50.77/24", "nmcli --wait 20 connection up homewifi")},
	{"the wire has another address", 2, nothing, true, late("nmcli --wait 10 device modify enp7s0 ipv4.gateway 192.168.10.1 ipv4.method manual ipv4.addresses 192.168.10.77/24", "nmcli --wait 20 connection up wired")},
	{"reapply the Wi-Fi", 2, nothing, true, tried("nmcli device reapply wlp6s0", "")},
	{"networking off and on", 1, nothing, true, tried("nmcli networking off; sleep 0.3; nmcli networking on", "nmcli networking on")},
	{"NetworkManager restarts", 1, nothing, true, restartNM},
	{"NetworkManager crashes", 1, nothing, true, crashNM},
	{"the bus restarts", 1, nothing, true, restartBus},
	{"DHCP names another router", 3, nothing, true, dhcp(func(d *lab.DHCP) { d.Router = netip.MustParseAddr("192.168.50.2") })},
	{"DHCP names other servers", 2, nothing, true, dhcp(func(d *lab.DHCP) { d.DNS = []netip.Addr{lab.WireDNS, netip.MustParseAddr("10.0.1.1")} })},
	{"DHCP has another network", 1, nothing, true, dhcp(func(d *lab.DHCP) {
		d.Address, d.Router = netip.MustParsePrefix("192.168.60.4/24"), netip.MustParseAddr("192.168.60.1")
	})},
	{"DHCP has routes", 1, nothing, true, dhcp(func(d *lab.DHCP) {
		d.Routes = []lab.Route{{To: netip.MustParsePrefix("10.0.0.0/8"), Via: d.Router}, {To: netip.MustParsePrefix("198.18.0.0/15"), Via: d.Router}}
	})},

	// Links and addresses.
	{"the Wi-Fi loses its carrier", 3, nothing, true, carrier(func(w *lab.World) *lab.Gateway { return w.Wifi })},
	{"the wire loses its carrier", 2, nothing, true, carrier(func(w *lab.World) *lab.Gateway { return w.Wire })},
	{"the Wi-Fi's link down and up", 2, nothing, true, tried("ip link set dev wlp6s0 down; sleep 0.1; ip link set dev wlp6s0 up", "")},
	{"the Wi-Fi's addresses go", 2, nothing, true, tried("ip addr flush dev wlp6s0", "nmcli --wait 20 connection up homewifi")},
	{"a lane's addresses go", 2, nothing, true, tried("ip addr flush dev ul-plain; ip addr flush dev ulv-direct", "")},
	{"a lane's bridge is deleted", 2, nothing, true, tried("ip link del ul-plain; ip link del br-marked", "")},
	{"a lane's veth is deleted", 2, nothing, true, tried("ip link del ulv-direct; ip link del ulv-open", "")},
	{"a lane's veth leaves its bridge", 2, nothing, true, tried("ip link set ulv-either nomaster; ip link set ulv-managed nomaster", "")},
	{"a lane's bridge goes down", 2, nothing, true, tried("ip link set ul-either down", "")},
	{"a lane's inside is changed", 2, nothing, true, tried("ip netns exec plain ip route del default; ip netns exec open ip addr flush dev eth0; ip netns exec direct ip link set eth0 down", "")},
	{"a lane's namespace is deleted", 1, nothing, true, tried("ip netns del plain; ip netns del wired", "")},

	// Rules and routes of ours.
	{"flush a lane's table", 3, answering, false, tried("ip route flush table 100; ip route flush table 300", "")},
	{"flush the table of lanes", 2, routing, false, tried("ip route flush table 117117", "")},
	{"delete lanes' rules", 4, routing, false, tried(deleteRules("(from|to) 10\\.", "cat"), "")},
	{"delete some of the lanes' rules", 4, routing, false, some(deleteRules("(from|to) 10\\.", "shuf -n 2 --random-source=/run/shuffle"))},
	{"delete all rules", 4, answering, false, tried("ip rule flush protocol 117", "")},
	{"delete the rules of answers", 4, answering, false, tried(deleteRules("from 192\\.168\\.", "cat"), "")},

	// Rules and routes of others.
	{"a VPN's rules", 3, nothing, false, tried(
		"ip route add default via 192.168.10.1 dev enp7s0 table 51820; ip rule add not fwmark 0xca6c lookup 51820; ip rule add lookup main suppress_prefixlength 0",
		"ip rule del not fwmark 0xca6c lookup 51820; ip rule del lookup main suppress_prefixlength 0; ip route flush table 51820")},
	{"rules with numbers", 2, nothing, false, tried(
		"ip rule add from all lookup main priority 50; ip rule add from 10.0.0.0/8 lookup main priority 60",
		"ip rule del priority 50; ip rule del priority 60")},
	{"10/8 by the wire", 2, nothing, false, tried("ip route add 10.0.0.0/8 via 192.168.10.1 dev enp7s0", "ip route del 10.0.0.0/8 via 192.168.10.1 dev enp7s0")},
	{"two halves by the wire", 2, nothing, false, tried(
		"ip route add 0.0.0.0/1 via 192.168.10.1 dev enp7s0; ip route add 128.0.0.0/1 via 192.168.10.1 dev enp7s0",
		"ip route del 0.0.0.0/1 via 192.168.10.1 dev enp7s0; ip route del 128.0.0.0/1 via 192.168.10.1 dev enp7s0")},
	{"blackholes", 1, nothing, false, tried("ip route add blackhole 192.0.2.0/24; ip route add blackhole 172.16.0.0/12", "ip route del blackhole 192.0.2.0/24; ip route del blackhole 172.16.0.0/12")},
	{"the host's default goes", 1, nothing, false, tried("ip route del default dev enp7s0", "nmcli --wait 20 connection up wired")},

	// Our firewall.
	{"flush the ruleset", 4, table, true, tried("nft flush ruleset", "")},
	{"delete our table", 4, table, true, tried("nft delete table inet uplane", "")},
	{"our table sleeps", 2, table, true, tried("nft add table inet uplane '{ flags dormant; }'", "")},
	{"our marks go", 2, table, true, tried("nft flush chain inet uplane marking", "")},
	{"a chain of ours is emptied", 6, onePart, true, some("nft flush chain inet uplane $(printf '%s\\n' prerouting marking input from_lane forward outbound inbound postrouting guard | shuf -n 1 --random-source=/run/shuffle)")},
	{"a set of ours is emptied", 6, onePart, true, some("s=$(printf '%s\\n' 'set lanes' 'set nets' 'set uplinks' 'set closed' 'set allowed' 'set translate' 'map forward' 'map marks' | shuf -n 1 --random-source=/run/shuffle); nft flush ${s% *} inet uplane ${s#* }")},

	// Others' firewalls.
	{"a proxy's redirect", 3, nothing, false, tried(
		"nft 'table ip proxy { chain pre { type nat hook prerouting priority dstnat - 1; meta l4proto tcp redirect to :7890; udp dport 53 redirect to :7853; }; chain out { type filter hook forward priority -200; accept; }; }'",
		"nft delete table ip proxy")},
	{"a container's masquerade", 2, nothing, false, tried(
		"nft 'table ip containers { chain post { type nat hook postrouting priority srcnat - 5; ip saddr 172.17.0.0/16 masquerade; }; }'; iptables -t nat -A POSTROUTING -o enp7s0 -s 172.17.0.0/16 -j MASQUERADE",
		"nft delete table ip containers; iptables -t nat -D POSTROUTING -o enp7s0 -s 172.17.0.0/16 -j MASQUERADE")},
	{"a reverse-path filter", 1, nothing, false, tried(
		"nft 'table inet rpf { chain pre { type filter hook prerouting priority -10; fib saddr . iif oif missing drop; }; }'",
		"nft delete table inet rpf")},
	{"FORWARD drops", 3, nothing, false, tried("iptables -P FORWARD DROP", "iptables -P FORWARD ACCEPT")},
	{"FORWARD drops and is emptied", 2, nothing, false, tried("iptables -P FORWARD DROP; sleep 0.2; iptables -F FORWARD", "iptables -P FORWARD ACCEPT")},
	{"iptables is emptied", 2, table, false, tried("iptables -F; iptables -t nat -F; iptables -t mangle -F", "")},
	{"connections are forgotten", 3, nothing, true, tried("conntrack -F", "")},

	// Switches.
	{"the host routes and does not", 2, nothing, true, tried("sysctl -qw net.ipv4.ip_forward=1", "sysctl -qw net.ipv4.ip_forward=0")},
	{"forwarding goes", 3, nothing, true, tried("sysctl -qw net.ipv4.conf.wlp6s0.forwarding=0 net.ipv4.conf.ul-plain.forwarding=0 net.ipv4.conf.enp7s0.forwarding=0", "")},
	{"IPv6 everywhere", 2, nothing, false, tried("sysctl -qw net.ipv6.conf.all.disable_ipv6=0", "")},
	{"strict reverse paths", 2, nothing, false, tried("sysctl -qw net.ipv4.conf.all.rp_filter=1", "sysctl -qw net.ipv4.conf.all.rp_filter=0")},
	{"the witness does not count", 2, nothing, false, tried("sysctl -qw net.ipv4.conf.wlp6s0.src_valid_mark=0 net.ipv4.conf.ul-open.rp_filter=0", "")},

	// Files.
	{"resolv.conf is overwritten", 2, nothing, false, tried("echo 'nameserver 203.0.113.53' >/etc/netns/plain/resolv.conf; echo 'nameserver 203.0.113.54' >/etc/resolv.conf", "echo 'nameserver 203.0.113.53' >/etc/resolv.conf")},
	{"resolv.conf is deleted", 1, nothing, false, tried("rm -f /etc/netns/open/resolv.conf /etc/netns/marked/nsswitch.conf", "")},

	// The daemon.
	{"the daemon dies", 3, nothing, false, func(c *chaos) func() { c.uplane.Kill(); return nil }},
	{"the daemon dies and comes back", 3, nothing, false, func(c *chaos) func() { c.uplane.Kill(); c.startDaemon(); return nil }},
	{"the daemon ends", 2, nothing, false, endDaemon},
	{"the daemon stops for a while", 2, nothing, false, stopDaemon},

	// Lanes.
	{"a lane goes down", 4, nothing, true, onLane(func(c *chaos, l *chaosLane) { c.edit("down", l.name) })},
	{"a lane goes down and up", 3, nothing, true, onLane(func(c *chaos, l *chaosLane) { c.edit("down", l.name); c.edit("up", l.name) })},
	{"a lane is removed", 2, nothing, true, onLane(func(c *chaos, l *chaosLane) { c.edit("remove", l.name) })},
	{"a lane is removed and added", 2, nothing, true, onLane(func(c *chaos, l *chaosLane) { c.edit("remove", l.name); c.restore(l) })},
	{"a lane has another mark", 2, nothing, true, onLane(func(c *chaos, l *chaosLane) { c.edit("up", l.name, "--mark", fmt.Sprint(1000+c.random.IntN(1000))) })},
	{"a lane has another subnet", 3, nothing, true, onLane(func(c *chaos, l *chaosLane) {
		c.edit("up", l.name, "--subnet", fmt.Sprintf("10.%d.%d.0/24", 80+c.random.IntN(3), c.random.IntN(250)))
	})},
	{"a lane has another bridge", 2, nothing, true, onLane(func(c *chaos, l *chaosLane) { c.edit("up", l.name, "--bridge", "br-"+l.name) })},
	{"a lane has no bridge", 2, nothing, true, onLane(func(c *chaos, l *chaosLane) { c.edit("up", l.name, "--bridge", "false") })},
	{"a lane has another table", 2, nothing, true, onLane(func(c *chaos, l *chaosLane) { c.edit("up", l.name, "--table", fmt.Sprint(500+c.random.IntN(100))) })},
	{"a lane names its uplink otherwise", 2, nothing, true, onLane(func(c *chaos, l *chaosLane) {
		c.edit("up", l.name, "--uplink", map[string]string{lab.WiFi: "connection:homewifi", lab.Wired: "connection:wired"}[l.cards[0]])
	})},
	{"a lane prefers the other card", 4, nothing, true, func(c *chaos) func() {
		l := c.lane("either")
		c.edit("up", l.name, "--uplink", lab.Wired, "--uplink", lab.WiFi)
		return func() { c.restore(l) }
	}},
	{"a lane may reach less, or more", 2, nothing, true, func(c *chaos) func() {
		for name, allow := range map[string]string{"open": "", "plain": `"192.168.10.0/24", "host"`} {
			l := c.lane(name)
			c.tryWrite("/etc/uplane/lanes.d/"+name+".toml", "uplink = \"wlp6s0\"\nallow = ["+allow+"]\n")
			c.undos = append(c.undos, func() { c.restore(l) })
		}
		c.edit("reload")
		return nil
	}},
	{"another firewall backend", 4, recipe, true, func(c *chaos) func() {
		c.tryWrite("/etc/uplane/uplane.toml", "firewall = \"iptables\"\n")
		c.edit("reload")
		return func() {
			_ = os.Remove(c.world.Host.Path("/etc/uplane/uplane.toml"))
			c.edit("reload")
		}
	}},
}

// tried is a script and the one that undoes it. What does not go at the moment does not.
func tried(do, undo string) func(c *chaos) func() {
	return func(c *chaos) func() {
		c.attempt(do)
		if undo == "" {
			return nil
		}
		return func() { c.attempt(undo) }
	}
}

// late is tried for what brings another address: it goes back to the one of before only when nothing comes for that any
// more. Else the host would answer, from the moment that it has the address until the daemon has heard of it.
func late(do, undo string) func(c *chaos) func() {
	return func(c *chaos) func() {
		c.attempt(do)
		return func() {
			c.quiet()
			c.attempt(undo)
		}
	}
}

// some is a script that chooses by the bytes in /run/shuffle.
func some(script string) func(c *chaos) func() {
	return func(c *chaos) func() {
		bytes := make([]byte, 64)
		for i := range bytes {
			bytes[i] = byte(c.random.Uint32())
		}
		c.tryWrite("/run/shuffle", string(bytes))
		c.attempt(script)
		return nil
	}
}

// deleteRules is a script that deletes those of our rules that match a pattern and that a filter lets through.
func deleteRules(pattern, filter string) string {
	return fmt.Sprintf(`ip rule show protocol uplane | grep -E '%s' | %s | tr -d : |
		while read -r priority rest; do ip rule del priority $priority $rest; done`, pattern, filter)
}

// attempt runs a script on the host, which may fail.
func (c *chaos) attempt(script string) string {
	ctx, cancel := context.WithTimeout(c.ctx, 30*time.Second)
	defer cancel()
	out, err := c.world.Host.RunContext(ctx, "sh", "-c", script)
	if err != nil {
		c.note("  %v", strings.TrimSpace(err.Error()))
	}
	return out
}

// edit runs uplane, which may fail: the daemon may be away.
func (c *chaos) edit(args ...string) {
	if c.stopped {
		return // it would be waited for in vain
	}
	ctx, cancel := context.WithTimeout(c.ctx, 5*time.Second) // a lane may have to wait for its uplink
	defer cancel()
	c.note("  uplane %s", strings.Join(args, " "))
	if _, err := c.uplane.Run(ctx, args...); err != nil {
		c.note("  %v", strings.TrimSpace(err.Error()))
	}
}

func (c *chaos) lane(name string) *chaosLane {
	return c.lanes[slices.IndexFunc(c.lanes, func(l *chaosLane) bool { return l.name == name })]
}

// onLane does something to a lane that is a file; undone, the lane is as at first.
func onLane(do func(c *chaos, l *chaosLane)) func(c *chaos) func() {
	return func(c *chaos) func() {
		var files []*chaosLane
		for _, l := range c.lanes {
			if !l.profile {
				files = append(files, l)
			}
		}
		l := files[c.random.IntN(len(files))]
		do(c, l)
		return func() { c.restore(l) }
	}
}

// put writes a lane's file as it was at first.
func (c *chaos) put(l *chaosLane) { c.tryWrite("/etc/uplane/lanes.d/"+l.name+".toml", l.file+"\n") }

// restore makes a lane as it was at first.
func (c *chaos) restore(l *chaosLane) {
	c.put(l)
	c.edit("reload")
	c.edit("up", l.name)
}

func (c *chaos) tryWrite(path, text string) {
	if err := os.WriteFile(c.world.Host.Path(path), []byte(text), 0o644); err != nil {
		c.note("  %v", err)
	}
}

func dhcp(change func(d *lab.DHCP)) func(c *chaos) func() {
	return func(c *chaos) func() {
		g := c.world.Wifi
		d := c.dhcp[g]
		change(&d)
		if err := g.SetDHCP(c.ctx, d); err != nil {
			c.note("  %v", err)
		}
		if c.random.IntN(2) == 0 {
			time.Sleep(lab.QuickRenewal)
		}
		return func() {
			if d.Address != c.dhcp[g].Address {
				c.quiet()
			}
			if err := g.SetDHCP(c.ctx, c.dhcp[g]); err != nil {
				c.note("  %v", err)
			}
			c.attempt("nmcli --wait 20 connection up homewifi")
		}
	}
}

func carrier(gateway func(w *lab.World) *lab.Gateway) func(c *chaos) func() {
	return func(c *chaos) func() {
		g := gateway(c.world)
		_ = g.Carrier(false)
		if c.random.IntN(2) == 0 {
			time.Sleep(200 * time.Millisecond)
			_ = g.Carrier(true)
			return nil
		}
		return func() { _ = g.Carrier(true) }
	}
}

func restartNM(c *chaos) func() {
	if err := c.world.RestartNM(c.ctx); err != nil {
		c.note("  %v", err)
	}
	return nil
}

func crashNM(c *chaos) func() {
	c.world.KillNM()
	time.Sleep(time.Duration(c.random.IntN(300)) * time.Millisecond)
	return restartNM(c)
}

func restartBus(c *chaos) func() {
	if err := c.world.RestartBus(c.ctx); err != nil {
		c.note("  %v", err)
	}
	return nil
}

// endDaemon has it end as with a shutdown; it starts again at rest, as after any end.
func endDaemon(c *chaos) func() {
	c.signal(syscall.SIGCONT)
	if err := c.uplane.Stop(); err != nil {
		c.note("  %v", err)
	}
	return nil
}

// startDaemon starts the daemon if it does not run.
func (c *chaos) startDaemon() {
	if c.uplane.Running() {
		return
	}
	if err := c.uplane.Start(c.ctx); err != nil {
		c.note("  %v", err)
	}
}

// stopDaemon has the daemon hang, a moment or until the burst is over.
func stopDaemon(c *chaos) func() {
	c.signal(syscall.SIGSTOP)
	if c.random.IntN(2) == 0 {
		time.Sleep(time.Duration(c.random.IntN(1000)) * time.Millisecond)
		c.signal(syscall.SIGCONT)
	} else {
		c.stopped = true
	}
	return nil
}
