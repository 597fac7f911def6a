package config

import (
	"reflect"
	"strings"
	"testing"

	"uplane/policy"
)

func profiles(t *testing.T, defaults string) Config {
	t.Helper()
	base, errs := sources{defaults: source{file: "uplane.toml", data: []byte(defaults)}}.resolve()
	if errs != nil && defaults != "x" {
		t.Fatal(errs)
	}
	return base
}

func TestFromProfile(t *testing.T) {
	for name, c := range map[string]struct {
		defaults, lane string
		keys           map[string]string
		want           string // the lane's file, or what is wrong
	}{
		"the default uplink": {`uplink = "wlp6s0"`, "steam", nil, `uplink = "wlp6s0"`},
		"its own":            {`uplink = "wlp6s0"`, "steam", map[string]string{"uplink": "ssid:My Home , type:gsm"}, `uplink = ["ssid:My Home", "type:gsm"]`},
		"all keys": {"", "steam", map[string]string{"uplink": "wlp6s0", "table": "100", "mark": "0x64", "dns": "9.9.9.9, 1.1.1.1", "allow": "192.168.10.0/24", "ipv6": "off"},
			"uplink = \"wlp6s0\"\ntable = 100\nmark = 100\ndns = [\"9.9.9.9\", \"1.1.1.1\"]\nallow = [\"192.168.10.0/24\"]\nipv6 = \"off\""},
		"mask and host": {"", "steam", map[string]string{"uplink": "wlp6s0", "mark": "0x64/0xff", "allow": "host, 192.168.10.0/24"},
			"uplink = \"wlp6s0\"\nmark = \"0x64/0xff\"\nallow = [\"192.168.10.0/24\", \"host\"]"},
		"other defaults": {"uplink = \"wlp6s0\"\ndns = [\"9.9.9.9\"]", "steam", nil, "uplink = \"wlp6s0\"\ndns = [\"9.9.9.9\"]"},

		"no uplink":          {"", "steam", nil, "!org.uplane.uplink: missing, and uplane.toml has no default"},
		"an empty one":       {`uplink = "wlp6s0"`, "steam", map[string]string{"uplink": " , "}, "!org.uplane.uplink: the list is empty"},
		"a bad one":          {"", "steam", map[string]string{"uplink": "wifi:x"}, `!org.uplane.uplink: invalid uplink "wifi:x": unknown kind`},
		"a control":          {"", "steam", map[string]string{"uplink": "ssid:\x1b[2J"}, "!control characters"},
		"an injected line":   {"", "steam", map[string]string{"uplink": "wlp6s0\ntable = 7"}, "!org.uplane.uplink: "},
		"an injected number": {`uplink = "wlp6s0"`, "steam", map[string]string{"mark": "1\nenabled = false"}, "!org.uplane.mark: "},
		"main's table":       {`uplink = "wlp6s0"`, "steam", map[string]string{"table": "254"}, "!org.uplane.table: invalid table 254"},
		"a word as mark":     {`uplink = "wlp6s0"`, "steam", map[string]string{"mark": "high"}, `!org.uplane.mark: invalid mark "high"; use a number`},
		"an injected mask":   {`uplink = "wlp6s0"`, "steam", map[string]string{"mark": "1/1\nenabled = false"}, "!org.uplane.mark: invalid mark"},
		"the lanes' table":   {`uplink = "wlp6s0"`, "steam", map[string]string{"table": "117117"}, "!org.uplane.table: invalid table 117117: Uplane keeps"},
		"a file's key":       {`uplink = "wlp6s0"`, "steam", map[string]string{"subnet": "10.0.1.0/24"}, "!org.uplane.subnet: unknown key; use lane, uplink"},
		"a bad name":         {`uplink = "wlp6s0"`, "../steam", nil, `!invalid lane name "../steam"`},
		"broken defaults":    {"x", "steam", nil, "!uplane.toml:1"},
	} {
		t.Run(name, func(t *testing.T) {
			lane, err := profiles(t, c.defaults).FromProfile(c.lane, c.keys)
			if want, bad := strings.CutPrefix(c.want, "!"); bad {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v\n%s", err, render(lane, builtin))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := string(render(lane, builtin)); got != string(header("steam"))+c.want+"\n" {
				t.Errorf("%s", got)
			}
			back, err := profiles(t, "").ProfileKeys(lane)
			if err != nil {
				t.Fatal(err)
			}
			again, err := profiles(t, "").FromProfile("steam", back)
			if err != nil || !reflect.DeepEqual(again, lane) {
				t.Errorf("%v: %v became %v by %v", err, lane, again, back)
			}
		})
	}
}

// What stands for a value that is too long is no key's, so the lane is refused and not widened.
func TestFromProfileTooLong(t *testing.T) {
	for _, key := range profileKeys {
		if lane, err := profiles(t, `uplink = "wlp6s0"`).FromProfile("steam", map[string]string{key: "(longer than 4096 bytes)"}); err == nil {
			t.Errorf("%s: %+v", key, lane)
		}
	}
}

func TestProfileKeys(t *testing.T) {
	for _, ssid := range []string{"a,b", " a", "a "} {
		lane := policy.Lane{Name: "steam", Uplink: []policy.Selector{{Kind: policy.BySSID, Value: ssid}}}
		if got, err := profiles(t, "").ProfileKeys(lane); ssid != " a" && (err == nil || !strings.Contains(err.Error(), "uuid:")) {
			t.Errorf("%q: %v", ssid, got)
		}
	}
}

// TestFileKeys moves a lane from its profile to a file, where it is the same.
func TestFileKeys(t *testing.T) {
	cfg := profiles(t, "uplink = \"wlp6s0\"\ndns = [\"9.9.9.9\"]")
	for _, keys := range []map[string]string{
		{},
		{"uplink": "ssid:Home, type:gsm", "table": "500", "mark": "100", "dns": "", "allow": "192.168.10.0/24", "ipv6": "off"},
		{"mark": "0x64/0xff", "allow": "192.168.10.0/24,host"},
		{"allow": "host"},
	} {
		want, err := cfg.FromProfile("steam", keys)
		if err != nil {
			t.Fatal(err)
		}
		dirs, _ := newDirs(t, map[string]string{"etc/uplane.toml": "uplink = \"wlp6s0\"\ndns = [\"9.9.9.9\"]\n"})
		if _, err := New(dirs, "steam", cfg.FileKeys(want)); err != nil {
			t.Fatal(err)
		}
		got, errs := Load(dirs)
		if len(errs) > 0 || len(got.Lanes) != 1 || !reflect.DeepEqual(got.Lanes[0].Lane, want) {
			t.Errorf("%v became %+v, not %+v: %v", keys, got.Lanes, want, errs)
		}
	}
}

// FuzzFromProfile: what a profile's user data says is a lane that a file could hold, or an error.
func FuzzFromProfile(f *testing.F) {
	f.Add("steam", "uplink", "ssid:Home, type:gsm", "mark", "0x64")
	f.Add("x", "table", "1\nuplink=1", "dns", "\"]")
	f.Add("x", "mark", "0x64/0xff", "allow", "host,10.0.0.0/8")
	f.Add("x", "ipv6", "off", "allow", "10.0.0.0/8,,")
	f.Fuzz(func(t *testing.T, name, k1, v1, k2, v2 string) {
		cfg := Config{base: builtin}
		lane, err := cfg.FromProfile(name, map[string]string{k1: v1, k2: v2})
		if err != nil {
			return
		}
		if err := Check(lane); err != nil {
			t.Fatalf("%+v: %v", lane, err)
		}
	})
}
