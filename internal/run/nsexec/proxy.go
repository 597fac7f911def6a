package nsexec

import (
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strings"
)

// WithoutLoopbackProxies drops proxy variables that point at the loopback: in
// the lane that is the lane's own, where no proxy listens. Others are the
// user's business.
func WithoutLoopbackProxies(environ []string, stderr io.Writer) []string {
	out := make([]string, 0, len(environ))
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if isProxyVariable(name) && isLoopback(value) {
			// Without the value: it may hold a password.
			fmt.Fprintf(stderr, "uplane: run: dropped %s: it points at this machine's loopback, and the lane has its own\n", name)
			continue
		}
		out = append(out, kv)
	}
	return out
}

func isProxyVariable(name string) bool {
	switch strings.ToLower(name) {
	case "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "socks_proxy", "rsync_proxy":
		return true
	}
	return false
}

// isLoopback tells whether a proxy's address, with or without a scheme, is a loopback one.
func isLoopback(value string) bool {
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	u, err := url.Parse(value)
	if err != nil {
		return false
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	switch host {
	case "localhost", "ip6-localhost", "ip6-loopback": // as Debian's /etc/hosts has them
		return true
	}
	if strings.HasSuffix(host, ".localhost") {
		return true
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().IsLoopback() || ip.IsUnspecified()
	}
	// inet_aton's short forms, such as 127.1, are loopback to the C library.
	return strings.HasPrefix(host, "127.") && strings.Trim(host, "0123456789.") == ""
}
