package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"uplane/policy"
	"uplane/test/lab"
)

func TestLoadEveryKey(t *testing.T) {
	dirs, top := newDirs(t, map[string]string{
		"etc/uplane.toml": "firewall = \"nftables\"\nuplink = 'eth0'\nipv6 = \"off\"\nbridge = false\ndns = \"8.8.8.8\"\n",
		"etc/lanes.d/steam.toml": `# the example of the design
uplink = ["ssid:Home", "type:gsm"]
subnet = "10.0.1.0/24"
table  = 100
mark   = 0x65
bridge = "br0"
dns    = ["9.9.9.9"]
allow  = ["192.168.50.0/24"]
ipv6   = "auto"
enabled = false
`,
		"etc/lanes.d/mask.toml":  "mark = \"0x64/0xFF00ff\"\nallow = [\"host\", \"10.9.0.0/16\"]\n",
		"etc/lanes.d/plain.toml": "bridge = true\ndns = []\n",
		"etc/lanes.d/work.toml":  "# all of the defaults\n",
	})
	cfg, errs := Load(dirs)
	if errs != nil {
		t.Fatal(texts(errs, top))
	}
	eth0 := []policy.Selector{{Kind: policy.ByInterface, Value: "eth0"}}
	want := Config{
		Firewall: "nftables",
		Broken:   map[string]error{},
		Lanes: []Lane{
			{policy.Lane{
				Name: "mask", Uplink: eth0, Mark: 0x64, MarkMask: 0xff00ff, NoBridge: true, IPv6: "off", Enabled: true, AllowHost: true,
				DNS: []netip.Addr{netip.MustParseAddr("8.8.8.8")}, Allow: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")},
			}, top + "/etc/lanes.d/mask.toml"},
			{policy.Lane{Name: "plain", Uplink: eth0, IPv6: "off", Enabled: true}, top + "/etc/lanes.d/plain.toml"},
			{policy.Lane{
				Name:   "steam",
				Uplink: []policy.Selector{{Kind: policy.BySSID, Value: "Home"}, {Kind: policy.ByType, Value: "gsm"}},
				Subnet: netip.MustParsePrefix("10.0.1.0/24"),
				Table:  100, Mark: 0x65, Bridge: "br0",
				DNS:   []netip.Addr{netip.MustParseAddr("9.9.9.9")},
				Allow: []netip.Prefix{netip.MustParsePrefix("192.168.50.0/24")},
				IPv6:  "auto",
			}, top + "/etc/lanes.d/steam.toml"},
			{policy.Lane{
				Name: "work", Uplink: eth0, NoBridge: true, IPv6: "off", Enabled: true,
				DNS: []netip.Addr{netip.MustParseAddr("8.8.8.8")},
			}, top + "/etc/lanes.d/work.toml"},
		},
	}
	cfg.base = settings{} // see TestFromProfile
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("have %+v\nwant %+v", cfg, want)
	}
}

func TestLoadNothing(t *testing.T) {
	for _, dirs := range []Dirs{{}, {Etc: "/nonexistent", Run: "/nonexistent", Lib: "/nonexistent"}} {
		cfg, errs := Load(dirs)
		if len(errs) > 0 || len(cfg.Lanes) > 0 || len(cfg.Broken) > 0 || cfg.Partial || cfg.Firewall != "auto" {
			t.Errorf("%+v: %+v, %v", dirs, cfg, errs)
		}
	}
}

func TestFirstFolderWins(t *testing.T) {
	dirs, top := newDirs(t, map[string]string{
		"etc/lanes.d/a.toml":      "uplink = \"etc\"",
		"etc/lanes.d/broken.toml": "uplink = 1",
		"etc/lanes.d/empty.toml":  "",
		"run/lanes.d/a.toml":      "uplink = \"run\"",
		"run/lanes.d/b.toml":      "uplink = \"run\"",
		"lib/lanes.d/a.toml":      "what is hidden is not even read",
		"lib/lanes.d/b.toml":      "uplink = \"lib\"",
		"lib/lanes.d/broken.toml": "uplink = \"lib\"",
		"lib/lanes.d/c.toml":      "uplink = \"lib\"",
		"lib/lanes.d/empty.toml":  "uplink = \"lib\"",
		"lib/lanes.d/null.toml":   "uplink = \"lib\"",

		"etc/lanes.d/README":        "not a lane",
		"etc/lanes.d/d.toml~":       "not a lane",
		"etc/lanes.d/.d.toml":       "not a lane",
		"etc/lanes.d/d.toml.rpmnew": "not a lane",
	})
	must(t, os.Symlink("/dev/null", top+"/etc/lanes.d/null.toml"))
	cfg, errs := Load(dirs)
	var got strings.Builder
	for _, l := range cfg.Lanes {
		got.WriteString(l.Name + " from " + l.Uplink[0].Value + "\n")
	}
	if want := "a from etc\nb from run\nc from lib\n"; got.String() != want {
		t.Errorf("have %s\nwant %s", got.String(), want)
	}
	if len(errs) != 1 || cfg.Broken["broken"] == nil || len(cfg.Broken) != 1 {
		t.Errorf("broken %v, errors %v", cfg.Broken, errs)
	}
}

// A file that is wrong as a whole breaks its lane and no other.
func TestFileHygiene(t *testing.T) {
	dirs, top := newDirs(t, map[string]string{"etc/lanes.d/good.toml": "uplink = \"eth1\"", "elsewhere": "uplink = \"eth2\""})
	file := func(name string) string { return filepath.Join(dirs.Etc, "lanes.d", name+".toml") }
	must(t, os.Symlink("../../elsewhere", file("link")))
	must(t, os.Symlink("nowhere", file("dangling")))
	must(t, os.Symlink("/dev/zero", file("device")))
	must(t, os.Symlink(file("loop"), file("loop")))
	must(t, os.Mkdir(file("folder"), 0o755))
	must(t, syscall.Mkfifo(file("pipe"), 0o600))
	put(t, file("large"), strings.Repeat("# again and again\n", 4000))
	put(t, file("good-but-Big"), "uplink = \"eth1\"")
	want := `etc/lanes.d/good-but-Big.toml: invalid lane name "good-but-Big": use 1 to 32 of a-z 0-9 _ -, the first a letter or digit
etc/lanes.d/dangling.toml: it is a link to a file that does not exist
etc/lanes.d/device.toml: not a regular file
etc/lanes.d/folder.toml: not a regular file
etc/lanes.d/large.toml: larger than 64 KiB
etc/lanes.d/loop.toml: too many levels of symbolic links
`
	sound := "good link"
	tail := "etc/lanes.d/pipe.toml: not a regular file\n"
	if os.Geteuid() == 0 {
		put(t, file("others"), "uplink = \"eth1\"")
		must(t, os.Chmod(file("others"), 0o646))
		put(t, file("owner"), "uplink = \"eth1\"")
		must(t, os.Chown(file("owner"), 1234, 0))
		want += "etc/lanes.d/others.toml: others than root can write to it (mode 0646); run: chmod go-w etc/lanes.d/others.toml\n" +
			"etc/lanes.d/owner.toml: it belongs to user 1234, not to root; run: chown root etc/lanes.d/owner.toml\n"
	} else {
		put(t, file("secret"), "uplink = \"eth1\"")
		must(t, os.Chmod(file("secret"), 0))
		tail += "etc/lanes.d/secret.toml: permission denied\n"
	}
	cfg, errs := Load(dirs)
	if got := texts(errs, top); got != want+tail {
		t.Errorf("have\n%s\nwant\n%s", got, want+tail)
	}
	if names(cfg) != sound {
		t.Errorf("have lanes %q, want %q", names(cfg), sound)
	}
	if cfg.Partial {
		t.Error("partial, though every folder was readable")
	}
}

// A folder in which anybody can put files breaks its lanes, with one error.
func TestFolderOthersCanWrite(t *testing.T) {
	lab.RequireRoot(t) // nobody else is protected
	dirs, top := newDirs(t, map[string]string{
		"etc/lanes.d/a.toml": "uplink = \"eth1\"",
		"etc/lanes.d/b.toml": "uplink = \"eth1\"",
		"lib/lanes.d/b.toml": "uplink = \"eth1\"",
		"lib/lanes.d/c.toml": "uplink = \"eth1\"",
	})
	must(t, os.Chmod(top+"/etc/lanes.d", 0o777))
	cfg, errs := Load(dirs)
	if got, want := texts(errs, top), "etc/lanes.d: others than root can write to it (mode 0777); run: chmod go-w etc/lanes.d\n"; got != want {
		t.Errorf("have %s want %s", got, want)
	}
	if names(cfg) != "c" || cfg.Broken["a"] == nil || cfg.Broken["b"] == nil || cfg.Partial {
		t.Errorf("have %+v", cfg)
	}
}

// A folder that cannot be listed may hide anything: what comes after it does
// not count, and what is missing is not known to be gone.
func TestUnreadableFolder(t *testing.T) {
	dirs, top := newDirs(t, map[string]string{
		"etc/lanes.d":        "a file",
		"run/lanes.d/b.toml": "uplink = \"eth1\"",
		"lib/lanes.d/b.toml": "uplink = \"eth1\"",
		"lib/lanes.d/c.toml": "uplink = \"eth1\"",
	})
	cfg, errs := Load(dirs)
	if got, want := texts(errs, top), "etc/lanes.d: not a directory\n"; got != want {
		t.Errorf("have %s want %s", got, want)
	}
	if len(cfg.Lanes) != 0 || cfg.Broken["b"] == nil || cfg.Broken["c"] == nil || !cfg.Partial {
		t.Errorf("have %+v", cfg)
	}
	// What comes before it counts.
	dirs.Etc, dirs.Run = dirs.Run, dirs.Etc
	if cfg, _ = Load(dirs); names(cfg) != "b" || cfg.Broken["c"] == nil || !cfg.Partial {
		t.Errorf("have %+v", cfg)
	}
}

// What is wrong in uplane.toml could concern any lane.
func TestBrokenDefaults(t *testing.T) {
	dirs, top := newDirs(t, map[string]string{
		"etc/uplane.toml":    "firewall = \"iptables\"\nipv6 = \"of\"\n",
		"etc/lanes.d/a.toml": "uplink = \"eth1\"\n",
		"etc/lanes.d/b.toml": "uplink = \"eth1\"\ntable = 0\n",
	})
	cfg, errs := Load(dirs)
	want := `etc/uplane.toml:2: ipv6: invalid value "of"; use "auto" or "off"
etc/lanes.d/b.toml:2: table: invalid table 0: use 1 to 4294967295 except 253-255 (default, main, local)
`
	if got := texts(errs, top); got != want {
		t.Errorf("have\n%s\nwant\n%s", got, want)
	}
	if len(cfg.Lanes) != 0 || len(cfg.Broken) != 2 || cfg.Firewall != "" {
		t.Errorf("have %+v", cfg)
	}
}

func TestClashes(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		sound string
		want  string
	}{
		{
			"subnet",
			map[string]string{"a": "subnet = \"10.1.0.0/16\"", "b": "# far away\nsubnet = \"10.1.7.0/24\"", "c": "subnet = \"10.2.0.0/24\""},
			"a c",
			"etc/lanes.d/b.toml:2: subnet: 10.1.7.0/24 overlaps with 10.1.0.0/16 of lane a (etc/lanes.d/a.toml:1); use another one, or leave the key out\n",
		},
		{
			"table", map[string]string{"a": "table = 100", "b": "table = 100"}, "a",
			"etc/lanes.d/b.toml:1: table: 100 is the table of lane a (etc/lanes.d/a.toml:1); use another one, or leave the key out\n",
		},
		{
			"mark", map[string]string{"a": "mark = 100", "b": "mark = 0x64"}, "a",
			"etc/lanes.d/b.toml:1: mark: 100 is the mark of lane a (etc/lanes.d/a.toml:1); use another one, or leave the key out\n",
		},
		{
			"mark within a mask", map[string]string{"a": "mark = '0x64/0xff'", "b": "mark = '0x100/0xf00'", "c": "mark = 0x264"}, "a",
			"etc/lanes.d/b.toml:1: mark: \"0x100/0xf00\" has packets in common with \"0x64/0xff\" of lane a (etc/lanes.d/a.toml:1); use another one, or leave the key out\n" +
				"etc/lanes.d/c.toml:1: mark: 612 has packets in common with \"0x64/0xff\" of lane a (etc/lanes.d/a.toml:1); use another one, or leave the key out\n",
		},
		{"marks apart", map[string]string{"a": "mark = '0x64/0xff'", "b": "mark = '0x65/0xff'", "c": "mark = 0x266", "d": "mark = '0x67/0xffffffff'"}, "a b c d", ""},
		{
			"bridge", map[string]string{"a": "bridge = \"br0\"", "b": "bridge = \"br0\""}, "a",
			"etc/lanes.d/b.toml:1: bridge: br0 is the bridge of lane a (etc/lanes.d/a.toml:1); use another one, or leave the key out\n",
		},
		{
			"the default bridge of a later lane", map[string]string{"a": "bridge = \"ul-b\"", "b": "#"}, "b",
			"etc/lanes.d/a.toml:1: bridge: ul-b is the default of lane b (etc/lanes.d/b.toml); use another one, or leave the key out\n",
		},
		{"the default bridge of a lane without", map[string]string{"a": "bridge = \"ul-b\"", "b": "bridge = false"}, "a b", ""},
		{"the lane's own default", map[string]string{"a": "bridge = \"ul-a\""}, "a", ""},
		{
			"only sound lanes claim", map[string]string{"a": "table = 100", "b": "table = 100\nmark = 1", "c": "mark = 1", "d": "ipv6 = 1\nmark = 2", "e": "mark = 2"}, "a c e",
			"etc/lanes.d/d.toml:1: ipv6: a number is of the wrong type; use \"auto\" or \"off\"\n" +
				"etc/lanes.d/b.toml:1: table: 100 is the table of lane a (etc/lanes.d/a.toml:1); use another one, or leave the key out\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := map[string]string{"etc/uplane.toml": "uplink = \"eth1\""}
			for name, content := range tt.files {
				files["etc/lanes.d/"+name+".toml"] = content
			}
			dirs, top := newDirs(t, files)
			cfg, errs := Load(dirs)
			if got := texts(errs, top); got != tt.want {
				t.Errorf("have\n%s\nwant\n%s", got, tt.want)
			}
			if names(cfg) != tt.sound {
				t.Errorf("have lanes %q, want %q", names(cfg), tt.sound)
			}
		})
	}
}
