// Package lab builds a small internet out of network namespaces: a host with a real NetworkManager
// on two cards, two local networks with DHCP and gateways, and servers that tell by which gateway
// a packet came.
//
//	        host
//	enp7s0 /    \ wlp6s0
//	      |      |
//	    wire    wifi ---- wifi2      local networks: 192.168.10.0/24 and 192.168.50.0/24
//	      |      |          |
//	   .1 |   .2 |       .3 |        public addresses: 198.51.100.0/24, NAT
//	       \     |         /
//	            inet                 whoami 203.0.113.10, DNS 203.0.113.53 and .54
//
// In a [Twin] world both cards sit in one subnet behind one switch, with the two gateways in it.
//
// A [World] touches nothing of the machine: the host has its own network, PID and mount namespaces,
// with private overlays over /etc, /usr and /var, so even a package may be installed in it. Other
// nodes are network namespaces that only file descriptors of this process hold. The host's init ends
// when a pipe from this process closes, and the kernel then ends every process of the world: nothing
// stays behind, even after a SIGKILL. Several worlds run side by side.
//
// [New] builds a world with a host of the machine's own programs, in a fraction of a second. The host
// of a [Machine] is a Debian that [Boot] has booted, with all that systemd starts, in about a second.
//
// The package needs root; "make setup" installs the programs it starts.
package lab
