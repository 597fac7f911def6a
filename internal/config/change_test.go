package config

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"

	"uplane/policy"
)

func TestNewFile(t *testing.T) {
	dirs, top := newDirs(t, map[string]string{"etc/uplane.toml": "bridge = false\nuplink = \"eth1\""})
	keys := map[string]any{"table": uint32(100), "bridge": true, "allow": []string{"192.168.50.0/24"}, "ipv6": "off"}
	file, err := New(dirs, "steam", keys)
	must(t, err)
	got, err := os.ReadFile(file)
	must(t, err)
	want := `# Lane steam, see uplane.toml(5).
table = 100
bridge = true
allow = ["192.168.50.0/24"]
ipv6 = "off"
`
	if string(got) != want {
		t.Errorf("have\n%s\nwant\n%s", got, want)
	}
	if info, _ := os.Stat(file); info.Mode() != 0o644 || file != top+"/etc/lanes.d/steam.toml" {
		t.Errorf("%s has mode %v", file, info.Mode())
	}
	if left, _ := os.ReadDir(filepath.Dir(file)); len(left) != 1 {
		t.Errorf("there is more than the lane file: %v", left)
	}

	if _, err := New(dirs, "steam", keys); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created twice: %v", err)
	}
	// A new lane must not break another one, though that is the later by name: it is the new one's key that is wrong.
	_, err = New(dirs, "quake", keys)
	if err == nil || !strings.Contains(err.Error(), "table: 100 is the table of lane steam") {
		t.Errorf("have %v", err)
	}
	if _, err = New(dirs, "Quake", keys); err == nil || !strings.Contains(err.Error(), "invalid lane name") {
		t.Errorf("have %v", err)
	}
	if cfg, errs := Load(dirs); names(cfg) != "steam" || errs != nil {
		t.Errorf("have %q, %v", names(cfg), errs)
	}
}

func TestNew(t *testing.T) {
	dirs, top := newDirs(t, map[string]string{"lib/lanes.d/b.toml": "uplink = \"eth1\"", "etc/lanes.d/c.toml": "uplink = \"eth1\""})
	file, err := New(dirs, "a", map[string]any{"uplink": []string{"ssid:Home", "eth1"}, "table": uint32(100), "bridge": false})
	must(t, err)
	data, err := os.ReadFile(file)
	must(t, err)
	want := "# Lane a, see uplane.toml(5).\nuplink = [\"ssid:Home\", \"eth1\"]\ntable = 100\nbridge = false\n"
	if string(data) != want || file != top+"/etc/lanes.d/a.toml" {
		t.Errorf("%s: have\n%s\nwant\n%s", file, data, want)
	}
	must(t, os.Symlink("/dev/null", top+"/etc/lanes.d/mask.toml"))
	tests := []struct {
		lane    string
		changes map[string]any
		want    string
	}{
		{"d", nil, "create lane d: etc/lanes.d/d.toml: uplink: missing here"},
		{"d", map[string]any{"uplink": "eth1", "table": 100}, "create lane d: etc/lanes.d/d.toml:3: table: 100 is the table of lane a"},
		{"c", map[string]any{"uplink": "eth1"}, "create lane c: etc/lanes.d/c.toml: file already exists"},
		{"mask", map[string]any{"uplink": "eth1"}, "create lane mask: etc/lanes.d/mask.toml: file already exists"},
		{"../../d", map[string]any{"uplink": "eth1"}, "create lane ../../d: invalid lane name"},
	}
	for _, tt := range tests {
		_, err := New(dirs, tt.lane, tt.changes)
		if err == nil || !strings.HasPrefix(strings.ReplaceAll(err.Error(), top+"/", ""), tt.want) {
			t.Errorf("have %v\nwant %s", err, tt.want)
		}
		var refused *Refused
		if lacks := errors.As(err, &refused) && refused.LacksUplink(); lacks != strings.Contains(tt.want, "uplink: missing") {
			t.Errorf("%v: lacks an uplink: %t", err, lacks)
		}
	}
	if _, err := New(dirs, "b", map[string]any{"uplink": "eth2"}); err != nil {
		t.Errorf("over a package's lane: %v", err)
	}
}

func TestCheck(t *testing.T) {
	eth1 := []policy.Selector{{Kind: policy.ByInterface, Value: "eth1"}}
	good := policy.Lane{Name: "a", Uplink: eth1, IPv6: policy.IPv6Auto}
	tests := []struct {
		want   string
		change func(*policy.Lane)
	}{
		{"", func(l *policy.Lane) {}},
		{"invalid lane name", func(l *policy.Lane) { l.Name = "../a" }},
		{"uplink: missing", func(l *policy.Lane) { l.Uplink = nil }},
		{"uplink: invalid", func(l *policy.Lane) { l.Uplink = []policy.Selector{{Kind: "x", Value: "y"}} }},
		{"uplink: ", func(l *policy.Lane) { l.Uplink = []policy.Selector{{}} }},
		{"subnet: ", func(l *policy.Lane) { l.Subnet = netip.MustParsePrefix("10.0.0.1/24") }},
		{"table: ", func(l *policy.Lane) { l.Table = 254 }},
		{"table: ", func(l *policy.Lane) { l.Table = policy.LanesTable }},
		{"", func(l *policy.Lane) { l.Mark, l.MarkMask, l.AllowHost = 0x64, 0xff, true }},
		{"mark: ", func(l *policy.Lane) { l.Mark, l.MarkMask = 0x164, 0xff }},
		{"mark: ", func(l *policy.Lane) { l.MarkMask = 0xff }},
		{"mark: ", func(l *policy.Lane) { l.Mark, l.MarkMask = 0x64, 0xffffffff }},
		{"mark: ", func(l *policy.Lane) { l.Mark = policy.Witness }},
		{"mark: ", func(l *policy.Lane) { l.Mark, l.MarkMask = 1, policy.Witness|1 }},
		{"subnet: ", func(l *policy.Lane) { l.Subnet = netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), -1) }},
		{"bridge: ", func(l *policy.Lane) { l.Bridge = "a;reboot" }},
		{"bridge: ", func(l *policy.Lane) { l.Bridge, l.NoBridge = "br0", true }},
		{"dns: ", func(l *policy.Lane) { l.DNS = make([]netip.Addr, 1) }},
		{"allow: ", func(l *policy.Lane) { l.Allow = make([]netip.Prefix, 1) }},
		{"ipv6: ", func(l *policy.Lane) { l.IPv6 = "" }},
	}
	for _, tt := range tests {
		lane := good
		tt.change(&lane)
		err := Check(lane)
		if (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%+v: have %v, want %q", lane, err, tt.want)
		}
	}
}

// What render writes, Load reads, whatever the defaults are.
func TestRenderThenLoad(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		top, err := os.MkdirTemp(t.TempDir(), "")
		must(t, err)
		dirs := Dirs{Etc: top}
		defaults := drawLane(rt, "defaults")
		defaults.Subnet, defaults.Table, defaults.Mark, defaults.MarkMask, defaults.Bridge = netip.Prefix{}, 0, 0, 0, ""
		put(t, dirs.defaults(), string(render(defaults, builtin)))

		lane := drawLane(rt, "lane")
		base, errs := read(dirs).base()
		if errs != nil {
			rt.Fatal(errs)
		}
		file := laneFile(dirs.Etc, lane.Name)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		put(t, file, string(render(lane, base)))
		cfg, errs := Load(dirs)
		if errs != nil || len(cfg.Lanes) != 1 {
			rt.Fatal(cfg, errs)
		}
		if got := cfg.Lanes[0]; got.File != file || !same(got.Lane, lane) {
			rt.Fatalf("have %+v\nwant %+v", got.Lane, lane)
		}
	})
}

// same compares lanes as their files would, where an empty list is a nil one.
func same(a, b policy.Lane) bool {
	return string(render(a, settings{})) == string(render(b, settings{}))
}

// drawLane draws any lane that a file can hold.
func drawLane(rt *rapid.T, label string) policy.Lane {
	text := rapid.StringOfN(rapid.RuneFrom([]rune("aB0 \"\\'#:=[]{},.\u0085é\u202e日😀"), unicode.Letter, unicode.Punct), 1, 60, 255)
	selector := rapid.Custom(func(rt *rapid.T) policy.Selector {
		kind := rapid.SampledFrom([]policy.SelectorKind{policy.ByInterface, policy.ByConnection, policy.ByUUID, policy.BySSID, policy.ByType}).Draw(rt, "kind")
		if kind == policy.ByInterface {
			return policy.Selector{Kind: kind, Value: rapid.StringMatching(`[a-z0-9._][a-z0-9._-]{2,14}`).Draw(rt, "name")}
		}
		return policy.Selector{Kind: kind, Value: text.Draw(rt, "value")}
	}).Filter(func(s policy.Selector) bool {
		_, err := policy.ParseSelector(s.String())
		return err == nil
	})
	prefix := func(least, most int) *rapid.Generator[netip.Prefix] {
		return rapid.Custom(func(rt *rapid.T) netip.Prefix {
			a := netip.AddrFrom4([4]byte{
				rapid.ByteRange(1, 126).Draw(rt, "first byte"), // unicast, and not the loopback
				rapid.Byte().Draw(rt, "byte"), rapid.Byte().Draw(rt, "byte"), rapid.Byte().Draw(rt, "byte"),
			})
			return netip.PrefixFrom(a, rapid.IntRange(least, most).Draw(rt, "bits")).Masked()
		})
	}
	address := rapid.OneOf(
		rapid.Map(prefix(32, 32), netip.Prefix.Addr),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 16, 16), func(b []byte) netip.Addr {
			b[0] = 0x20 | b[0]>>3 // 2000::/3, global unicast
			return netip.AddrFrom16([16]byte(b))
		}),
	)
	allow, subnet := prefix(minAllowBits, 32), prefix(8, 30)

	lane := policy.Lane{
		Name:   rapid.StringMatching(`[a-z0-9][a-z0-9_-]{0,31}`).Draw(rt, label+" name"),
		Uplink: rapid.SliceOfNDistinct(selector, 1, 4, rapid.ID).Draw(rt, label+" uplink"),
		Mark:   rapid.Uint32().Draw(rt, label+" mark") &^ policy.Witness,
		DNS:    rapid.SliceOfNDistinct(address, 0, maxDNS, rapid.ID).Draw(rt, label+" dns"),
		Allow:  rapid.SliceOfNDistinct(allow, 0, 4, rapid.ID).Draw(rt, label+" allow"),
		IPv6:   rapid.SampledFrom([]policy.IPv6Mode{policy.IPv6Auto, policy.IPv6Off}).Draw(rt, label+" ipv6"),

		AllowHost: rapid.Bool().Draw(rt, label+" allow host"),

		NoBridge: rapid.Bool().Draw(rt, label+" nobridge"),
		Enabled:  rapid.Bool().Draw(rt, label+" enabled"),
	}
	if lane.Mark != 0 && rapid.Bool().Draw(rt, label+" masked") {
		lane.MarkMask = lane.Mark | rapid.Uint32().Draw(rt, label+" mask")&^policy.Witness
	}
	if rapid.Bool().Draw(rt, label+" explicit") {
		lane.Subnet = subnet.Draw(rt, label+" subnet")
		lane.Table = rapid.OneOf(rapid.Uint32Range(1, 252), rapid.Uint32Min(256)).Draw(rt, label+" table")
		if !lane.NoBridge {
			lane.Bridge = rapid.StringMatching(`[A-Za-z0-9._][A-Za-z0-9._-]{2,14}`).
				Filter(func(s string) bool { _, err := parseBridge(s); return err == nil }).Draw(rt, label+" bridge")
		}
	}
	return lane
}

func TestRemove(t *testing.T) {
	dirs, top := newDirs(t, map[string]string{
		"etc/lanes.d/a.toml":     "uplink = \"eth1\"",
		"run/lanes.d/a.toml":     "uplink = \"eth1\"",
		"etc/lanes.d/b.toml":     "uplink = \"eth1\"",
		"lib/lanes.d/b.toml":     "uplink = \"eth1\"",
		"etc/lanes.d/empty.toml": "",
		"lib/lanes.d/empty.toml": "uplink = \"eth1\"",
		"etc/lanes.d/bad.toml":   "what a mess",
	})
	tests := []struct {
		lane, want string
		missing    bool
	}{
		{"a", "", false},
		{"bad", "", false},
		{"b", "remove lane b: lib/lanes.d/b.toml comes with a package and would bring it back; mask it with: ln -sf /dev/null etc/lanes.d/b.toml", false},
		{"empty", "remove lane empty: etc/lanes.d/empty.toml masks it already: file does not exist", true},
		{"nobody", "remove lane nobody: no lane file: file does not exist", true},
		{"../a", "remove lane: invalid lane name \"../a\": use 1 to 32 of a-z 0-9 _ -, the first a letter or digit", false},
	}
	for _, tt := range tests {
		err := Remove(dirs, tt.lane)
		var got string
		if err != nil {
			got = strings.ReplaceAll(err.Error(), top+"/", "")
		}
		if got != tt.want || errors.Is(err, fs.ErrNotExist) != tt.missing {
			t.Errorf("have %v\nwant %s", err, tt.want)
		}
	}
	cfg, errs := Load(dirs)
	if names(cfg) != "b" || errs != nil {
		t.Errorf("left: %q, %v", names(cfg), errs)
	}
}

// Of two lanes that claim one thing the one that holds it is in the right, whatever their names.
func TestHolder(t *testing.T) {
	dirs, _ := newDirs(t, map[string]string{
		"etc/lanes.d/a.toml": "uplink = \"eth1\"\ntable = 100",
		"etc/lanes.d/b.toml": "uplink = \"eth1\"\ntable = 100",
	})
	for _, holder := range []string{"a", "b", ""} {
		dirs.Holds = func(l policy.Lane) bool { return l.Name == holder }
		want := holder
		if holder == "" {
			want = "a"
		}
		if cfg, errs := Load(dirs); names(cfg) != want || len(errs) != 1 {
			t.Errorf("%q holds it: lanes %s, %v", holder, names(cfg), errs)
		}
	}
}
