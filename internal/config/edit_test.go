package config

import (
	"os"
	"strings"
	"testing"
)

const commented = `# Games go by the Wi-Fi card.
uplink = "type:wifi"   # whichever it is

  table=100	# as in the recipe
dns = [
  "9.9.9.9",
  "1.1.1.1",
]
# the end
`

func TestEditText(t *testing.T) {
	tests := []struct {
		name, in string
		changes  map[string]any
		want     string // "!" and the error, or the new text
	}{
		{
			"replace and keep the rest", commented,
			map[string]any{"uplink": []string{"ssid:A \"B\"", "type:gsm"}, "table": uint32(7), "dns": "8.8.8.8"},
			strings.NewReplacer(`"type:wifi"`, `["ssid:A \"B\"", "type:gsm"]`, "table=100", "table = 7",
				"[\n  \"9.9.9.9\",\n  \"1.1.1.1\",\n]", `"8.8.8.8"`).Replace(commented),
		},
		{
			"append", "uplink = 'eth1'\n",
			map[string]any{"bridge": false, "mark": 5},
			"uplink = 'eth1'\nmark = 5\nbridge = false\n",
		},
		{"append after a last line without its end", "# hi", map[string]any{"uplink": "eth1"}, "# hi\nuplink = \"eth1\"\n"},
		{"append to an empty file", "", map[string]any{"uplink": "eth1"}, "uplink = \"eth1\"\n"},
		{
			"take out", commented, map[string]any{"table": nil, "dns": nil, "mark": nil},
			"# Games go by the Wi-Fi card.\nuplink = \"type:wifi\"   # whichever it is\n\n# the end\n",
		},
		{"take out the last line", "mark = 1\ntable = 2", map[string]any{"table": nil}, "mark = 1\n"},
		{"Windows line ends", "mark = 1\r\ntable = 2\r\nipv6 = 'off'\r\n", map[string]any{"mark": 3, "table": nil}, "mark = 3\r\nipv6 = 'off'\r\n"},
		{"a quoted key", "\"mark\" = 1\n", map[string]any{"mark": 2}, "mark = 2\n"},
		{"what looks like the key", "uplink = '''\nmark = 1'''\n", map[string]any{"mark": 2}, "!f.toml:1: uplink: invalid uplink \"mark = 1\""},
		{"repair", "table = 254 # oops\n", map[string]any{"table": 100}, "table = 100 # oops\n"},
		{"no change", commented, nil, commented},

		{"unknown key", "", map[string]any{"colour": "red"}, "!unknown key \"colour\"; use uplink, subnet"},
		{"not for lanes", "", map[string]any{"firewall": "auto"}, "!unknown key \"firewall\""},
		{"bad value", "", map[string]any{"table": 254}, "!table: invalid table 254"},
		{"bad type", "", map[string]any{"table": 1.5}, "!table: a value of type float64; use a number"},
		{"a comment in the value", "dns = [ # mine\n\"9.9.9.9\"]\n", map[string]any{"dns": nil}, "!f.toml: dns: there is a comment within the value, which would be lost; edit the file by hand"},
		{"invalid TOML", "uplink = eth1\n", map[string]any{"mark": 1}, "!f.toml: mark: invalid TOML: unexpected character U+0065 'e' at start of value; edit the file by hand"},
		{"another key is wrong", "table = 254\n", map[string]any{"mark": 1}, "!f.toml:1: table: invalid table 254"},
		{"twice", "mark = 1\nmark = 2\n", map[string]any{"mark": 3}, "!f.toml:2: mark: duplicate key"},
		{"in a table", "[a]\nmark = 1\n", map[string]any{"mark": 3}, "!f.toml:1: a: a table has no meaning here"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := editText("f.toml", []byte(tt.in), tt.changes)
			if msg, fails := strings.CutPrefix(tt.want, "!"); fails {
				if err == nil || !strings.HasPrefix(err.Error(), msg) {
					t.Errorf("have %v\nwant %s", err, msg)
				}
			} else if err != nil || string(got) != tt.want {
				t.Errorf("have %v\n%s\nwant\n%s", err, got, tt.want)
			}
		})
	}
}

func TestEdit(t *testing.T) {
	dirs, top := newDirs(t, map[string]string{
		"etc/lanes.d/a.toml":      "uplink = \"eth1\" # mine\n",
		"lib/lanes.d/b.toml":      "# vendor\nuplink = \"eth1\"\n",
		"run/lanes.d/c.toml":      "uplink = \"eth1\"\n",
		"etc/lanes.d/mask.toml":   "",
		"lib/lanes.d/vendor.toml": "uplink = \"eth1\"\n",
		"real/target.toml":        "uplink = \"eth1\"\n",
	})
	link := top + "/etc/lanes.d/link.toml"
	must(t, os.Symlink("../../real/target.toml", link))
	must(t, os.Chmod(top+"/real/target.toml", 0o600))
	tests := []struct {
		lane    string
		changes map[string]any
		file    string // that has the result; empty: an error
		want    string
	}{
		{"a", map[string]any{"table": 100}, "etc/lanes.d/a.toml", "uplink = \"eth1\" # mine\ntable = 100\n"},
		{"b", map[string]any{"table": 101}, "etc/lanes.d/b.toml", "# vendor\nuplink = \"eth1\"\ntable = 101\n"},
		{"c", map[string]any{"mark": 1}, "run/lanes.d/c.toml", "uplink = \"eth1\"\nmark = 1\n"},
		{"link", map[string]any{"mark": 2}, "etc/lanes.d/link.toml", "uplink = \"eth1\"\nmark = 2\n"},
		{"c", map[string]any{"table": 100}, "", "change lane c: run/lanes.d/c.toml:3: table: 100 is the table of lane a (etc/lanes.d/a.toml:2); use another one, or leave the key out"},
		{"a", map[string]any{"mark": 1}, "", "change lane a: etc/lanes.d/a.toml:3: mark: 1 is the mark of lane c (run/lanes.d/c.toml:2); use another one, or leave the key out"},
		{"c", map[string]any{"uplink": nil}, "", "change lane c: run/lanes.d/c.toml: uplink: missing here, and uplane.toml has no default for it; use a selector such as \"wlp6s0\", \"ssid:Home\" or \"type:wifi\", or a list of them in order of preference"},
		{"mask", map[string]any{"mark": 9}, "", "change lane mask: etc/lanes.d/mask.toml masks it; remove that file first"},
		{"a", nil, "etc/lanes.d/a.toml", "uplink = \"eth1\" # mine\ntable = 100\n"},
		{"vendor", nil, "lib/lanes.d/vendor.toml", "uplink = \"eth1\"\n"},
		{"nobody", nil, "", "change lane nobody: file does not exist"},
	}
	for _, tt := range tests {
		file, err := Edit(dirs, tt.lane, tt.changes)
		if tt.file == "" {
			if err == nil || strings.ReplaceAll(err.Error(), top+"/", "") != tt.want {
				t.Errorf("%s: have %v\nwant %s", tt.lane, err, tt.want)
			}
			continue
		}
		data, rerr := os.ReadFile(file)
		if err != nil || rerr != nil || file != top+"/"+tt.file || string(data) != tt.want {
			t.Errorf("%s: have %s, %v\n%s\nwant\n%s", tt.lane, file, err, data, tt.want)
		}
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link is gone: %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(link); err != nil || info.Mode() != 0o600 {
		t.Errorf("the mode is %v, %v", info.Mode(), err)
	}
	// Vendor's files are never touched.
	if data, _ := os.ReadFile(top + "/lib/lanes.d/b.toml"); string(data) != "# vendor\nuplink = \"eth1\"\n" {
		t.Errorf("the package's file is now %s", data)
	}
}

// An edit without changes still tells that a lane is broken.
func TestEditNothing(t *testing.T) {
	dirs, _ := newDirs(t, map[string]string{
		"etc/lanes.d/a.toml": "uplink = \"eth1\"\ntable = 100\n",
		"etc/lanes.d/b.toml": "uplink = \"eth1\"\ntable = 100\n",
		"etc/lanes.d/c.toml": "uplink = eth1",
	})
	for lane, want := range map[string]string{"a": "", "b": "100 is the table of lane a", "c": "invalid TOML"} {
		_, err := Edit(dirs, lane, nil)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: have %v, want %q", lane, err, want)
		}
	}
}

// Taking out the only key must not leave an empty file, which would mask.
func TestEditLeavesAHeader(t *testing.T) {
	dirs, _ := newDirs(t, map[string]string{"etc/uplane.toml": "uplink = \"eth1\"", "etc/lanes.d/a.toml": "uplink = \"eth2\""})
	_, err := Edit(dirs, "a", map[string]any{"uplink": nil})
	must(t, err)
	if cfg, errs := Load(dirs); errs != nil || names(cfg) != "a" || cfg.Lanes[0].Uplink[0].Value != "eth1" {
		t.Errorf("have %+v, %v", cfg, errs)
	}
}
