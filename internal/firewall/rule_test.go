package firewall

import (
	"strings"
	"testing"
)

var ruleSeeds = []string{
	"-j ACCEPT",
	"-s 10.0.1.0/24 -j DROP",
	"! -s 10.0.1.0/24 ! -d 192.0.2.1/32 ! -i a ! -o b -j ACCEPT",
	"-d 10.0.1.0/24 -i wlp6s0 -o ul-steam -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
	"-s 10.0.1.0/24 ! -o ul-steam -j MASQUERADE",
	"-i ul-steam -j MARK --set-xmark 0x64/0xffffffff",
	"-i ul-steam -j MARK --set-xmark 0x0/0xff",
}

var badRules = map[string]string{
	"":                                    "unknown option",
	"-j":                                  "unknown target",
	"-j UPLANE-FORWARD":                   "unknown target",
	"-j ACCEPT -s 10.0.0.0/8":             "not as iptables prints it",
	"-d 10.0.0.0/8 -s 10.0.0.0/8 -j DROP": "not as iptables prints it",
	"-s 10.0.0.0/8 -s 10.0.0.0/8 -j DROP": "not as iptables prints it",
	"-s 10.0.0.1/8 -j DROP":               "IPv4 network",
	"-s 0.0.0.0/0 -j DROP":                "IPv4 network",
	"-s 10.0.0.1 -j DROP":                 "no '/'",
	"-s 2001:db8::/32 -j DROP":            "IPv4 network",
	"-s":                                  "no '/'",
	"-i wlp+ -j DROP":                     "interface",
	"-i  -j DROP":                         "interface",
	"-i sixteen-bytes-xx -j DROP":         "interface",
	"! -j DROP":                           "not as iptables prints it",
	"! ! -i a -j DROP":                    "not as iptables prints it",
	"-p tcp -j DROP":                      "unknown option",
	"-m conntrack --ctstate NEW -j DROP":  "can be matched",
	"-j MARK --set-mark 0x1":              "unknown option",
	"-j MARK --set-xmark 0x1":             "hexadecimal",
	"-j MARK --set-xmark 1/0x1":           "hexadecimal",
	"-j MARK --set-xmark 0x01/0x1":        "not as iptables prints it",
	"-j MARK --set-xmark 0x100000000/0x1": "hexadecimal",
	"-i a":                                "not as iptables prints it",
	" -j ACCEPT":                          "unknown option",
}

func TestParseRule(t *testing.T) {
	t.Parallel()
	for _, text := range ruleSeeds {
		if r, err := parseRule(text); err != nil || r.String() != text {
			t.Errorf("%q: got %q, %v", text, r, err)
		}
	}
	for text, why := range badRules {
		if _, err := parseRule(text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: err = %v, want %q", text, err, why)
		}
	}
}

// TestExpressions lets nft read back what we compiled.
func TestExpressions(t *testing.T) {
	each(t, func(w world) {
		w.apply(lane(), nil)
		got := w.sh("nft -s list table ip uplane")
		if got != nftListing {
			w.Errorf("got\n%s\nwant\n%s", got, nftListing)
		}
	}, "nftables")
}

const nftListing = `table ip uplane {
	chain UPLANE-FORWARD {
		type filter hook forward priority filter - 1; policy accept;
		iifname "ul-steam" ip saddr 10.0.1.0/24 ip daddr 192.168.50.0/24 counter accept comment "-s 10.0.1.0/24 -d 192.168.50.0/24 -i ul-steam -j ACCEPT"
		oifname "ul-steam" ip saddr 192.168.50.7 ip daddr 10.0.1.0/24 ct state established,related counter accept comment "-s 192.168.50.7/32 -d 10.0.1.0/24 -o ul-steam -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
		iifname "ul-steam" oifname "wlp6s0" ip saddr 10.0.1.0/24 counter accept comment "-s 10.0.1.0/24 -i ul-steam -o wlp6s0 -j ACCEPT"
		iifname "wlp6s0" oifname "ul-steam" ip daddr 10.0.1.0/24 ct state established,related counter accept comment "-d 10.0.1.0/24 -i wlp6s0 -o ul-steam -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
		iifname "ul-steam" counter drop comment "-i ul-steam -j DROP"
		oifname "ul-steam" counter drop comment "-o ul-steam -j DROP"
	}

	chain UPLANE-PREROUTING {
		type filter hook prerouting priority mangle - 1; policy accept;
		iifname "ul-steam" counter meta mark set meta mark & 0x00000064 | 0x00000064 comment "-i ul-steam -j MARK --set-xmark 0x64/0xffffffff"
		iifname != "ul-other" ip saddr 10.0.1.0/25 counter meta mark set meta mark & 0xffff00ff comment "-s 10.0.1.0/25 ! -i ul-other -j MARK --set-xmark 0x0/0xff00"
	}

	chain UPLANE-POSTROUTING {
		type nat hook postrouting priority srcnat - 1; policy accept;
		ip saddr 10.0.1.0/24 ip daddr 192.168.50.0/24 counter masquerade comment "-s 10.0.1.0/24 -d 192.168.50.0/24 -j MASQUERADE"
		oifname != "ul-steam" ip saddr 10.0.1.0/24 counter masquerade comment "-s 10.0.1.0/24 ! -o ul-steam -j MASQUERADE"
	}
}
`

func FuzzParseRule(f *testing.F) {
	for _, text := range ruleSeeds {
		f.Add(text)
	}
	for text := range badRules {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseRule(text)
		if err != nil {
			return
		}
		if r.String() != text {
			t.Errorf("%q prints as %q", text, r)
		}
		if strings.ContainsAny(text, "\n\x00") {
			t.Errorf("%q is more than a line", text)
		}
		for _, e := range r.expressions() {
			if _, err := wire(e); err != nil {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}
