package policy

import (
	"strings"
	"testing"
)

func TestParseSelector(t *testing.T) {
	for in, want := range map[string]Selector{
		"wlp6s0":                  {ByInterface, "wlp6s0"},
		"interface:wlp6s0":        {ByInterface, "wlp6s0"},
		"interface:eth0.100":      {ByInterface, "eth0.100"},
		"type":                    {ByInterface, "type"},
		"connection:Home network": {ByConnection, "Home network"},
		"uuid:ABC":                {ByUUID, "ABC"},
		"ssid:Home:5GHz":          {BySSID, "Home:5GHz"},
		"ssid: ":                  {BySSID, " "},
		"ssid:Müllers Café":       {BySSID, "Müllers Café"},
		"type:wifi":               {ByType, "wifi"},
		"ssid:" + strings.Repeat("x", maxSelector): {BySSID, strings.Repeat("x", maxSelector)},
	} {
		if got, err := ParseSelector(in); err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for in, hint := range map[string]string{
		"":                  "use an interface",
		"ssid:":             "use an interface",
		"essid:Home":        `unknown kind "essid"; use interface, connection, uuid, ssid or type`,
		":x":                `unknown kind ""`,
		"SSID:Home":         `unknown kind "SSID"`,
		"wl p6s0":           "invalid interface name",
		"interface:a:b":     "invalid interface name",
		"default":           "the kernel keeps it",
		"ssid:a\nb":         "control characters",
		"ssid:a\x7f":        "control characters",
		"ssid:a\u009b2J":    "control characters", // a terminal's CSI
		"connection:\xff":   "control characters",
		"connection:\ufffd": "control characters",
		"ssid:" + strings.Repeat("x", maxSelector+1): "longer than 255 bytes",
	} {
		if got, err := ParseSelector(in); err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
}

func TestSelectorMatches(t *testing.T) {
	u := wifi()
	for s, want := range map[string]bool{
		"wlp6s0": true, "WLP6S0": false, "enp7s0": false,
		"connection:homewifi": true, "connection:Homewifi": false,
		"uuid:11111111-AAAA-4bbb-8ccc-0123456789ab": true, "uuid:2": false,
		"ssid:Home": true, "ssid:home": false,
		"type:wifi": true, "type:ethernet": false,
	} {
		sel, err := ParseSelector(s)
		if err != nil || sel.Matches(&u) != want {
			t.Errorf("%q matches: %v, %v", s, !want, err)
		}
	}
	u.Private = true // and so its name was anybody's choice
	for s, want := range map[string]bool{"wlp6s0": true, "connection:homewifi": false, "uuid:" + u.UUID: true, "ssid:Home": true, "type:wifi": true} {
		sel, err := ParseSelector(s)
		if err != nil || sel.Matches(&u) != want {
			t.Errorf("%q matches a private profile: %v, %v", s, !want, err)
		}
	}
	if (Selector{"colour", "blue"}).Matches(&u) {
		t.Error("an unknown kind matches")
	}
	wire := wired()
	if (Selector{BySSID, ""}).Matches(&u) || !(Selector{BySSID, ""}).Matches(&wire) {
		t.Error("an SSID is compared as it is")
	}
}

func FuzzParseSelector(f *testing.F) {
	for _, s := range []string{"wlp6s0", "interface:wlp6s0", "connection:homewifi", "uuid:11111111-2222-4333-8444-555555555555", "ssid:Home:5", "type:wifi", "", ":", "a:b", "ssid:\xff\u009b", "-", ".."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		sel, err := ParseSelector(s)
		if err != nil {
			if sel != (Selector{}) {
				t.Fatalf("%q: %v beside %v", s, sel, err)
			}
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
				t.Fatalf("%q: the error obeys: %q", s, err)
			}
			return
		}
		again, err := ParseSelector(sel.String())
		if err != nil || again != sel {
			t.Fatalf("%q: %v printed as %q is %v, %v", s, sel, sel.String(), again, err)
		}
	})
}
