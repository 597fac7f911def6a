package policy

import (
	"net/netip"
	"strings"
	"testing"
)

// surveyed is one case of TestSurvey: what there is of lane steam, and what comes of it.
type surveyed struct {
	file     *Lane
	broken   string // what is wrong with its file
	partial  bool
	profiles []ProfileLane
	away     bool // NetworkManager has not been seen
	memory   LaneMemory

	wanted bool
	from   string // file, profile or memory; empty: there is no such lane
	bridge string // of a lane from a profile
	held   string
	why    string // in Broken
	notes  []string
	owner  string
}

// mySteam is a profile for lane steam.
func mySteam(change ...func(*ProfileLane)) ProfileLane {
	made := lane("steam", "wlp6s0")
	made.Table = 7 // tells it from the file's
	p := ProfileLane{Made: made, Profile: Profile{
		UUID: "u-s", Name: "my steam", Interface: "ul-steam", Lane: "steam", Address: pfx("10.0.7.1/24"), Method: "manual", Active: true,
	}}
	for _, f := range change {
		f(&p)
	}
	return p
}

func down(p *ProfileLane)    { p.Active = false }
func leaving(p *ProfileLane) { p.Active, p.Leaving = false, true }
func bad(p *ProfileLane)     { p.Err = "org.uplane.uplink: no such thing" }
func named(p *ProfileLane)   { p.Named = true }
func shared(p *ProfileLane)  { p.Method = "shared" }
func other(p *ProfileLane) {
	p.UUID, p.Name, p.Interface, p.Address = "a-o", "other", "br7", pfx("10.0.8.1/24")
}

func TestSurvey(t *testing.T) {
	file := lane("steam", "wlp6s0")
	disabled := file
	disabled.Enabled = false
	before := mySteam()
	was, _ := before.made()
	was.Table = 9 // what memory has
	fileWas := file
	fileWas.Table = 9
	const twice = "steam.toml defines it too, and does not count beside profile my steam"

	for name, c := range map[string]surveyed{
		"nothing":                      {},
		"a file":                       {file: &file, from: "file", wanted: true},
		"a file that is not enabled":   {file: &disabled, from: "file"},
		"and is wanted":                {file: &disabled, from: "file", wanted: true, memory: LaneMemory{Want: WantUp}},
		"a file that was taken down":   {file: &file, from: "file", memory: LaneMemory{Want: WantDown}},
		"a broken file":                {broken: "no uplink", why: "no uplink"},
		"a file that became broken":    {broken: "no uplink", why: "no uplink", memory: LaneMemory{Definition: &fileWas}, from: "memory", wanted: true},
		"and was taken down":           {broken: "no uplink", why: "no uplink", memory: LaneMemory{Definition: &fileWas, Want: WantDown}, from: "memory"},
		"a file that went":             {memory: LaneMemory{Definition: &fileWas}},
		"a folder that can't be read":  {partial: true, memory: LaneMemory{Definition: &fileWas}, from: "memory", wanted: true},
		"of a profile's lane, neither": {partial: true, memory: LaneMemory{Definition: &was}},

		"a profile":               {profiles: []ProfileLane{mySteam()}, from: "profile", wanted: true, bridge: "ul-steam", owner: "my steam"},
		"a profile that is down":  {profiles: []ProfileLane{mySteam(down)}, from: "profile", bridge: "ul-steam", owner: "my steam"},
		"down counts for files":   {profiles: []ProfileLane{mySteam()}, memory: LaneMemory{Want: WantDown}, from: "profile", wanted: true, bridge: "ul-steam", owner: "my steam"},
		"a profile that is going": {profiles: []ProfileLane{mySteam(leaving)}, from: "profile", bridge: "ul-steam"},
		"NetworkManager serves": {
			profiles: []ProfileLane{mySteam(shared)}, from: "profile", wanted: true, bridge: "ul-steam", owner: "my steam",
			notes: []string{"nmcli connection modify 'my steam' ipv4.method manual ipv4.addresses 10.0.7.1/24"},
		},
		"before NetworkManager has spoken": {away: true, memory: LaneMemory{Definition: &was, Profile: true}, from: "memory", wanted: true, bridge: "ul-steam"},
		"and it was down":                  {away: true, memory: LaneMemory{Definition: &was}},
		"and its file is broken":           {away: true, broken: "no uplink", memory: LaneMemory{Definition: &was, Profile: true}, from: "memory", wanted: true, bridge: "ul-steam"},

		"both": {file: &file, profiles: []ProfileLane{mySteam()}, from: "profile", wanted: true, bridge: "ul-steam", owner: "my steam", notes: []string{twice}},
		"both, the profile is down": {
			file: &file, profiles: []ProfileLane{mySteam(down)}, from: "profile", wanted: true, bridge: "ul-steam", owner: "my steam",
			held: "nmcli connection up 'my steam'", notes: []string{twice},
		},
		"both down":                     {file: &disabled, profiles: []ProfileLane{mySteam(down)}, from: "profile", bridge: "ul-steam", owner: "my steam", notes: []string{twice}},
		"both, and the profile goes":    {file: &file, profiles: []ProfileLane{mySteam(leaving)}, from: "profile", wanted: true, bridge: "ul-steam", held: "taking down bridge ul-steam"},
		"a broken file and a profile":   {broken: "no uplink", profiles: []ProfileLane{mySteam()}, from: "profile", wanted: true, bridge: "ul-steam", owner: "my steam", notes: []string{"a lane file defines it too"}},
		"two profiles, one is active":   {profiles: []ProfileLane{mySteam(other, down), mySteam()}, from: "profile", wanted: true, bridge: "ul-steam", owner: "my steam"},
		"two profiles, the other is":    {profiles: []ProfileLane{mySteam(other), mySteam(down)}, from: "profile", wanted: true, bridge: "br7", owner: "other"},
		"the one that names it":         {profiles: []ProfileLane{mySteam(other), mySteam(named)}, from: "profile", wanted: true, bridge: "ul-steam", owner: "my steam", notes: []string{"profile other is active for it too"}},
		"both active, the first counts": {profiles: []ProfileLane{mySteam(), mySteam(other)}, from: "profile", wanted: true, bridge: "br7", owner: "other", notes: []string{"profile my steam is active for it too, and does not count while other is"}},
		"one that goes is the last":     {profiles: []ProfileLane{mySteam(other, leaving), mySteam(down)}, from: "profile", bridge: "ul-steam", owner: "my steam"},

		"a broken profile": {profiles: []ProfileLane{mySteam(bad)}, why: "profile my steam: org.uplane.uplink"},
		"that was good": {
			profiles: []ProfileLane{mySteam(bad)}, memory: LaneMemory{Definition: &was}, from: "memory", wanted: true, bridge: "ul-steam",
			owner: "my steam", why: "profile my steam: org.uplane.uplink",
		},
		"that was good, on another bridge": {profiles: []ProfileLane{mySteam(other, bad)}, memory: LaneMemory{Definition: &was}, why: "profile other: org.uplane.uplink"},
		"beside a good file":               {file: &file, profiles: []ProfileLane{mySteam(bad, down)}, memory: LaneMemory{Definition: &was}, from: "file", wanted: true, notes: []string{"profile my steam: org.uplane.uplink"}},
		"active, beside a good file":       {file: &file, profiles: []ProfileLane{mySteam(bad)}, memory: LaneMemory{Definition: &fileWas}, from: "file", wanted: true, notes: []string{"profile my steam: org.uplane.uplink"}},
		"beside a file that is bad, too": {
			broken: "no uplink", profiles: []ProfileLane{mySteam(bad)}, memory: LaneMemory{Definition: &fileWas}, from: "memory", wanted: true,
			why: "no uplink", notes: []string{"profile my steam: org.uplane.uplink"},
		},
		"beside a good one":         {profiles: []ProfileLane{mySteam(other, bad), mySteam()}, from: "profile", wanted: true, bridge: "ul-steam", owner: "my steam", notes: []string{"profile other: org.uplane.uplink"}},
		"two that are broken":       {profiles: []ProfileLane{mySteam(other, bad), mySteam(bad)}, why: "profile other: org.uplane.uplink: no such thing; profile my steam"},
		"no interface has its name": {profiles: []ProfileLane{mySteam(func(p *ProfileLane) { p.Interface = "lo all" })}, why: "connection.interface-name: invalid interface name"},
	} {
		t.Run(name, func(t *testing.T) { c.check(t) })
	}
}

func (c *surveyed) check(t *testing.T) {
	files := Files{Broken: map[string]string{}, Partial: c.partial}
	if c.file != nil {
		files.Lanes = []FileLane{{Lane: *c.file, Path: "steam.toml"}}
	}
	if c.broken != "" {
		files.Broken["steam"] = c.broken
	}
	s := Survey(files, Snapshot{Known: !c.away, Profiles: c.profiles}, Memory{Lanes: map[string]LaneMemory{"steam": c.memory}})
	got, known := s.Known["steam"]
	if from := map[uint32]string{0: "file", 7: "profile", 9: "memory"}[got.Table]; known != (c.from != "") || known && from != c.from {
		t.Errorf("it is %v, from %s", known, from)
	}
	if got.Bridge != c.bridge || got.External != (c.bridge != "") {
		t.Errorf("its bridge is %q", got.Bridge)
	}
	if s.Wanted["steam"] != c.wanted {
		t.Errorf("it is wanted: %v", s.Wanted["steam"])
	}
	if s.Owner["steam"] != c.owner {
		t.Errorf("it belongs to %q", s.Owner["steam"])
	}
	for what, text := range map[string][2]string{"held": {s.Held["steam"], c.held}, "broken": {s.Broken["steam"], c.why}} {
		if !strings.Contains(text[0], text[1]) || (text[0] == "") != (text[1] == "") {
			t.Errorf("%s: %q, not %q", what, text[0], text[1])
		}
	}
	notes := s.Notes["steam"]
	if len(notes) != len(c.notes) {
		t.Fatalf("notes: %q", notes)
	}
	for i, note := range notes {
		if !strings.Contains(note, c.notes[i]) {
			t.Errorf("note %q, not %q", note, c.notes[i])
		}
	}
	if len(files.Broken) > 1 || files.Broken["steam"] != c.broken {
		t.Error("what it was given has changed")
	}
	if len(s.Complaints) != 0 {
		t.Errorf("complaints: %v", s.Complaints)
	}
}

// A profile by whose name no lane can be is nobody's trouble, and what it gives its bridge is the lane's.
func TestSurveyNames(t *testing.T) {
	s := Survey(Files{}, Snapshot{Known: true, Profiles: []ProfileLane{
		mySteam(bad, func(p *ProfileLane) { p.Lane, p.UUID = "../x", "u-x" }),
		mySteam(func(p *ProfileLane) { p.Lane, p.Address = "small", pfx("192.168.7.129/30") }),
		mySteam(func(p *ProfileLane) { p.Lane, p.Address = "none", netip.Prefix{} }),
		mySteam(func(p *ProfileLane) { p.Lane, p.Address = "wrong", pfx("127.0.0.1/8") }),
	}}, Memory{})
	if len(s.Known) != 3 || len(s.Broken) != 0 || s.Complaints["u-x"] == "" {
		t.Errorf("%+v", s)
	}
	for name, want := range map[string]Lane{
		"small": {Subnet: pfx("192.168.7.128/30"), Gateway: ipa("192.168.7.129")},
		"none":  {},
		"wrong": {},
	} {
		if got := s.Known[name]; got.Subnet != want.Subnet || got.Gateway != want.Gateway {
			t.Errorf("%s: %v, %v", name, got.Subnet, got.Gateway)
		}
	}
}

// A lane that is down and planned is not in its own way.
func TestPlanOfLaneThatIsDown(t *testing.T) {
	l := lane("steam", "type:wifi")
	l.Mark = 8
	w := newWorld(l)
	w.settle()
	in := w.input()
	in.Files.Lanes[0].Enabled = false
	in.Extra = []string{"steam"}
	d := Decide(in)
	if len(d.Lanes) != 1 || d.Lanes[0].State == Error {
		t.Errorf("%+v", d.Lanes)
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"steam": "steam", "my steam": "'my steam'", "": "''", "it's": `'it'\''s'`, "$(x)": "'$(x)'"} {
		if got := Quote(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
