package nsexec

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestProxies(t *testing.T) {
	for _, tt := range []struct {
		variable string
		dropped  bool
	}{
		{"http_proxy=http://127.0.0.1:7890", true},
		{"HTTP_PROXY=http://127.0.0.1:7890/", true},
		{"https_proxy=127.0.0.1:7890", true},
		{"HTTPS_PROXY=127.1:7890", true},
		{"ftp_proxy=http://user:p%40ss@127.200.3.4", true},
		{"all_proxy=socks5://localhost:1080", true},
		{"ALL_PROXY=socks5h://LOCALHOST:1080", true},
		{"all_proxy=socks5://localhost.:1080", true},
		{"socks_proxy=proxy.localhost:1080", true},
		{"rsync_proxy=[::1]:8080", true},
		{"http_proxy=http://[::ffff:127.0.0.1]:8080", true},
		{"http_proxy=http://0.0.0.0:8080", true},
		{"http_proxy=http://[::]:8080", true},
		{"http_proxy=http://ip6-localhost:8080", true},

		{"http_proxy=", false},
		{"http_proxy", false},
		{"http_proxy=http://10.0.0.1:3128", false},
		{"http_proxy=http://proxy.example:3128", false},
		{"http_proxy=http://localhost.example:3128", false},
		{"http_proxy=http://127.example:3128", false},
		{"http_proxy=http://[fe80::1]:3128", false},
		{"http_proxy=http://proxy.example/127.0.0.1", false},
		{"http_proxy=http://127.0.0.1@proxy.example:3128", false},
		{"http_proxy=::not a url::", false},
		{"no_proxy=localhost,127.0.0.1", false},
		{"PROXY=127.0.0.1", false},
		{"DISPLAY=127.0.0.1:0", false},
	} {
		var said strings.Builder
		got := WithoutLoopbackProxies([]string{"A=1", tt.variable, "B=2"}, &said)
		want := []string{"A=1", tt.variable, "B=2"}
		name, value, _ := strings.Cut(tt.variable, "=")
		if tt.dropped {
			want = []string{"A=1", "B=2"}
			if !strings.Contains(said.String(), "dropped "+name+":") || strings.Contains(said.String(), value) {
				t.Errorf("%s: says %q", tt.variable, &said)
			}
		} else if said.Len() > 0 {
			t.Errorf("%s: says %q", tt.variable, &said)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: have %q, want %q", tt.variable, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	for args, want := range map[string]string{
		"steam true":                 "steam: true",
		"steam -- true":              "steam: true",
		"steam true -- x":            "steam: true -- x",
		"steam -- -x":                "steam: -x",
		"steam -- -- x":              "steam: -- x",
		"steam":                      "",
		"steam --":                   "",
		"":                           "",
		"-- true":                    "",
		"-u bob steam -- true":       "",
		"--help":                     "",
		"--strict steam true":        "strict steam: true",
		"--strict steam -- --strict": "strict steam: --strict",
		"steam --strict":             "steam: --strict",
		"--strict":                   "",
		"--strict --strict a b":      "strict a: b",
		"--strict --other a b":       "",
		"--strict -- a b":            "",
		"--notify steam -- --notify": "notify steam: --notify",
		"--notify --strict a b":      "notify strict a: b",
		"--strict --notify a b":      "notify strict a: b",
		"steam --notify":             "steam: --notify",
		"--notify":                   "",
	} {
		o, err := Parse(strings.Fields(args))
		got := o.Lane + ": " + strings.Join(o.Command, " ")
		if o.Strict {
			got = "strict " + got
		}
		if o.Notify {
			got = "notify " + got
		}
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%q: have %q (%v), want %q", args, got, err, want)
		}
	}
}

// FuzzProxy looks for values that are taken for a loopback or not, against what the form of a
// proxy's address must mean.
func FuzzProxy(f *testing.F) {
	for _, seed := range []string{"http://127.0.0.1:7890", "localhost", "socks5://[::1]:1080", "http://a:b@127.1", "%", "://", "[", "http://\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		var said strings.Builder
		got := WithoutLoopbackProxies([]string{"x=" + value, "http_proxy=" + value}, &said)
		if got[0] != "x="+value || len(got) > 2 || len(got) == 2 && got[1] != "http_proxy="+value {
			t.Errorf("%q becomes %q", value, got)
		}
		if dropped := len(got) == 1; dropped != (said.Len() > 0) || strings.Count(said.String(), "\n") > 1 {
			t.Errorf("%q: dropped %t, says %q", value, dropped, &said)
		}
		// A plain address, with or without a port, is what it is.
		addr, err := netip.ParseAddr(value)
		if port, perr := netip.ParseAddrPort(value); perr == nil {
			addr, err = port.Addr(), nil
		}
		if err == nil && addr.Is4() && isLoopback(value) != (addr.IsLoopback() || addr.IsUnspecified()) {
			t.Errorf("%q: loopback %t", value, isLoopback(value))
		}
	})
}
