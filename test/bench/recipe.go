package main

import (
	"fmt"
	"strings"

	"uplane/test/lab"
)

// recipe is a lane made by hand: what a person types, or puts into a script.
type recipe struct {
	name    string
	number  int // of the table and the mark, and in the subnet
	gateway string
}

func (r recipe) lines(text string) string {
	return strings.NewReplacer(
		"NAME", r.name, "NUMBER", fmt.Sprint(r.number), "NET", fmt.Sprintf("10.%d.%d", 99+r.number/256, r.number%256),
		"UPLINK", lab.WiFi, "GATEWAY", r.gateway,
	).Replace(text)
}

// up builds it.
func (r recipe) up() string {
	return r.lines(`
ip netns add NAME
ip link add br-NAME type bridge
ip addr add NET.1/24 dev br-NAME
ip link set dev br-NAME up
ip link add ulv-NAME type veth peer name eth0 netns NAME
ip link set dev ulv-NAME master br-NAME up
ip -n NAME link set dev lo up
ip -n NAME addr add NET.2/24 dev eth0
ip -n NAME link set dev eth0 up
ip -n NAME route add default via NET.1
sysctl -qw net.ipv4.conf.br-NAME.forwarding=1 net.ipv4.conf.UPLINK.forwarding=1
iptables -t nat -A POSTROUTING -s NET.0/24 -o UPLINK -j MASQUERADE
iptables -t mangle -A PREROUTING -i br-NAME -j MARK --set-mark NUMBER
ip route add 192.168.50.0/24 dev UPLINK table NUMBER
ip route add NET.0/24 dev br-NAME table NUMBER
ip route add default via GATEWAY dev UPLINK table NUMBER
ip rule add fwmark NUMBER lookup NUMBER
mkdir -p /etc/netns/NAME
echo nameserver 203.0.113.54 >/etc/netns/NAME/resolv.conf
`)
}

// down takes it away.
func (r recipe) down() string {
	return r.lines(`
ip rule del fwmark NUMBER lookup NUMBER
ip route flush table NUMBER
iptables -t nat -D POSTROUTING -s NET.0/24 -o UPLINK -j MASQUERADE
iptables -t mangle -D PREROUTING -i br-NAME -j MARK --set-mark NUMBER
ip link del ulv-NAME
ip link del br-NAME
ip netns del NAME
rm -r /etc/netns/NAME
`)
}
