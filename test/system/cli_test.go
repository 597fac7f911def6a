package system

import (
	"bufio"
	"encoding/json"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"uplane/test/lab"
)

// laneDoc has the keys of a lane in "status --json", each with a value of its type. Programs rely
// on them: keys may come, never go.
const laneDoc = `{
	"name": "", "state": "", "reason": "",
	"uplink": {"interface": "", "connection": "", "uuid": "", "ssid": ""}, "profile": "",
	"namespace": "", "bridge": "", "subnet": "", "table": 0, "mark": 0,
	"ipv4": {"addresses": [], "gateway": ""},
	"ipv6": {"addresses": [], "gateway": ""},
	"dns": [], "since": "", "conditions": [], "programs": 0
}`

// requireShape checks that have has the keys and types of want, and no others.
func requireShape(t *testing.T, path string, have, want any) {
	t.Helper()
	if reflect.TypeOf(have) != reflect.TypeOf(want) {
		t.Errorf("%s is %T (%v), not %T", path, have, have, want)
		return
	}
	object, ok := want.(map[string]any)
	if !ok {
		return
	}
	keys := slices.Sorted(maps.Keys(have.(map[string]any)))
	if allowed := slices.Sorted(maps.Keys(object)); !slices.Equal(keys, allowed) {
		t.Errorf("%s has the keys %q, not %q", path, keys, allowed)
		return
	}
	for k, v := range object {
		requireShape(t, path+"."+k, have.(map[string]any)[k], v)
	}
}

func (s *site) decode(text string) any {
	s.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		s.Fatalf("%v in %s", err, text)
	}
	return v
}

// TestStatus reads every state of a lane in every form.
func TestStatus(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	lanes := func() []any {
		doc := s.decode(s.run("status", "--json")).(map[string]any)
		requireShape(t, "status", doc, map[string]any{"lanes": []any{}})
		return doc["lanes"].([]any)
	}
	if got := lanes(); len(got) != 0 {
		t.Errorf("no lanes yet, but %v", got)
	}
	if got := s.run("status"); !strings.Contains(got, "uplane up") {
		t.Errorf("status without lanes gives no hint: %q", got)
	}

	s.run("up", "steam", "--uplink", lab.WiFi, "--mark", "100")
	s.writeLane("waits", "uplink = \"type:gsm\"\nbridge = false\n")
	s.run("up", "off", "--uplink", lab.WiFi)
	s.run("down", "off")
	s.writeLane("bad", "uplink = 7\n")
	s.uplaneTry("reload")

	all := lanes()
	if len(all) != 4 {
		t.Fatalf("%d lanes: %v", len(all), all)
	}
	for i, name := range []string{"bad", "off", "steam", "waits"} { // in order
		lane := all[i].(map[string]any)
		requireShape(t, name, lane, s.decode(laneDoc))
		want := map[string]string{"bad": "error", "off": "down", "steam": "up", "waits": "waiting"}[name]
		if lane["name"] != name || lane["state"] != want {
			t.Errorf("lane %d is %v %v, not %s %s", i, lane["name"], lane["state"], name, want)
		}
		if since, err := time.Parse(time.RFC3339, lane["since"].(string)); err != nil || time.Since(since) > time.Minute || time.Until(since) > 0 {
			t.Errorf("%s is so since %v: %v", name, lane["since"], err)
		}
		one := s.decode(s.run("status", name, "--json")).(map[string]any)
		if !reflect.DeepEqual(one["lanes"], []any{lane}) {
			t.Errorf("status %s --json:\n%v\nnot\n%v", name, one, lane)
		}
	}
	uuid := s.sh("nmcli -g connection.uuid connection show homewifi")
	steam := all[2].(map[string]any)
	delete(steam, "since")
	want := s.decode(`{"name": "steam", "state": "up", "reason": "",
		"uplink": {"interface": "wlp6s0", "connection": "homewifi", "uuid": "` + uuid + `", "ssid": ""}, "profile": "",
		"namespace": "/run/netns/steam", "bridge": "ul-steam", "subnet": "10.0.1.0/24", "table": 100, "mark": 100,
		"ipv4": {"addresses": ["192.168.50.4/24"], "gateway": "192.168.50.1"},
		"dns": ["203.0.113.54"], "conditions": [], "programs": 0}`).(map[string]any)
	want["ipv6"] = steam["ipv6"] // NetworkManager's choice
	if !reflect.DeepEqual(steam, want) {
		t.Errorf("steam is\n%v\nnot\n%v", steam, want)
	}
	if reason := all[3].(map[string]any)["reason"]; reason != "no uplink: nothing matches type:gsm" {
		t.Errorf("waits because %q", reason)
	}

	rows := strings.Split(strings.TrimSpace(s.run("list")), "\n")
	if len(rows) != 5 {
		t.Fatalf("list:\n%s", strings.Join(rows, "\n"))
	}
	for i, pattern := range []string{
		`^LANE +STATE +UPLINK +GATEWAY +SUBNET +TABLE +REASON$`,
		`^bad +error +- +- +- +- +/etc/uplane/lanes.d/bad.toml:1: uplink: `,
		`^off +down +- `,
		`^steam +up +wlp6s0 +192\.168\.50\.1 +10\.0\.1\.0/24 +100 *$`,
		`^waits +waiting +- +- +10\.0\.\d\.0/24 +\d+ +no uplink: `,
	} {
		if !regexp.MustCompile(pattern).MatchString(rows[i]) {
			t.Errorf("list has %q, not %s", rows[i], pattern)
		}
	}
	for lane, first := range map[string]string{
		"bad": "lane bad is error: /etc/uplane/lanes.d/bad.toml:1: uplink: ", "off": "lane off is down\n",
		"steam": "lane steam is up by wlp6s0\n", "waits": "lane waits is waiting, so nothing leaves: no uplink: ",
	} {
		if got := s.run("status", lane) + "\n"; !strings.HasPrefix(got, first) || !strings.Contains(s.run("status"), first) {
			t.Errorf("status %s says\n%s", lane, got)
		}
	}
}

// TestWatch has a program that reads a line for every change.
func TestWatch(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.run("up", "steam", "--uplink", lab.WiFi)
	watch := s.world.Host.CommandContext(s.ctx, "uplane", "status", "steam", "--watch", "--json")
	out, err := watch.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	next := func(state string) {
		t.Helper()
		for lines.Scan() {
			doc := s.decode(lines.Text()).(map[string]any)
			lane := doc["lanes"].([]any)[0].(map[string]any)
			requireShape(t, "line", lane, s.decode(laneDoc))
			if lane["state"] == state {
				return
			}
		}
		t.Fatalf("no line with state %s comes: %v", state, lines.Err())
	}
	next("up")
	s.sh("nmcli device disconnect wlp6s0")
	next("waiting")
	s.sh("nmcli connection up homewifi")
	next("up")
	s.run("down", "steam")
	next("down")
	_ = watch.Process.Signal(syscall.SIGTERM)
	for lines.Scan() {
	}
	if err := watch.Wait(); err != nil {
		t.Errorf("an interrupted watch ends with %v", err)
	}
}

// TestPlan carries out plans by hand and finds that nothing is left to do.
func TestPlan(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	before := s.traces()
	for _, lane := range []string{
		"",
		"mark = 100\nsubnet = \"10.0.7.0/24\"\ntable = 1234\nbridge = \"br0\"\n",
		"bridge = false\nallow = [\"192.168.10.0/24\"]\ndns = [\"9.9.9.9\", \"1.1.1.1\"]\n",
	} {
		s.writeLane("steam", "uplink = \"wlp6s0\"\nenabled = false\n"+lane)
		s.run("reload")
		requireSame(t, before+"\nsteam.toml", s.traces())
		plan := s.uplaneTry("plan", "steam")
		if plan.code != 0 || plan.err != "" || len(strings.Split(plan.out, "\n")) < 15 {
			t.Fatalf("plan: %+v", plan)
		}
		requireSame(t, before+"\nsteam.toml", s.traces()) // it was but a plan

		// The daemon would take away at once what nobody wants.
		s.uplane.Kill()
		s.write("/run/plan", plan.out)
		if r := s.try("sh", "-e", "/run/plan"); r.code != 0 || r.out != "" || r.err != "" {
			t.Fatalf("the plan, by hand: %+v\n%s", r, plan.out)
		}
		s.leavesBy("steam", s.world.Wifi.Public)
		s.sh("sed -i s/enabled.*// /etc/uplane/lanes.d/steam.toml")
		s.start()
		s.run("up", "steam")
		s.leavesBy("steam", s.world.Wifi.Public)
		if n := s.uplane.Applied(); n != 0 {
			t.Errorf("after the plan\n%s\nstill to do: %s", plan.out, s.uplane.Log())
		}
		if r := s.uplaneTry("plan", "steam"); r.code != 0 || r.out != "" || !strings.Contains(r.err, "nothing to do") {
			t.Errorf("plan of a lane that is up: %+v", r)
		}

		// The way back, by hand too: what was there before, the daemon alone knows.
		s.run("remove", "steam")
		s.sh(`sysctl -qw net/ipv4/conf/wlp6s0/forwarding=0 net/ipv4/conf/enp7s0/forwarding=0
			sysctl -qw net/ipv4/conf/wlp6s0/src_valid_mark=0 net/ipv4/conf/enp7s0/src_valid_mark=0
			rmdir /etc/netns 2>/dev/null || :; umount /run/netns 2>/dev/null || :; nft flush ruleset`)
		before = s.traces()
		if left := s.sh("ip -o link | grep -E 'ul-|ulv-|br0' || :; ip rule | grep uplane || :; ip netns; ip route show table all proto uplane"); left != "" {
			t.Errorf("left:\n%s", left)
		}
	}
}

// TestCommandLine makes mistakes.
func TestCommandLine(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	for _, tt := range []struct {
		args  string
		code  int
		words []string
	}{
		{"frobnicate", 2, []string{`uplane: unknown command "frobnicate"`, "try: uplane --help"}},
		{"--frobnicate", 2, []string{"uplane: unknown flag: --frobnicate"}},
		{"status --frobnicate", 2, []string{"unknown flag: --frobnicate"}},
		{"status one two", 2, []string{"uplane: status: expected", "uplane status [LANE]"}},
		{"list one", 2, []string{"uplane: list: "}},
		{"reload steam", 2, []string{"uplane: reload: "}},
		{"up", 2, []string{"uplane: up: expected a lane's name: uplane up LANE"}},
		{"up steam wlp6s0", 2, []string{"expected a lane's name"}},
		{"up steam --table ten", 2, []string{"up: --table ten: use a number from 1 to 4294967295"}},
		{"up steam --mark -1", 2, []string{"--mark -1"}},
		{"up steam --uplink", 2, []string{"--uplink"}},
		{"down", 2, []string{"uplane down LANE"}},

		{"up steam", 1, []string{"uplane: up steam: no uplink given", "uplane up steam --uplink wlp6s0"}},
		{"up steam --uplink wifi:home", 1, []string{"uplane: up steam: ", `unknown kind "wifi"; use interface, connection`}},
		{"up steam --uplink wlp6s0 --subnet 10.0.1.1/24", 1, []string{"subnet", "did you mean 10.0.1.0/24?"}},
		{"up steam --uplink wlp6s0 --subnet 192.168.10.0/24", 1, []string{"up steam: subnet 192.168.10.0/24 overlaps with", "choose another"}},
		{"up steam --uplink wlp6s0 --table 254", 1, []string{"table", "1 to 4294967295 except 253-255"}},
		{"up steam --uplink wlp6s0 --bridge eth0/x", 1, []string{"bridge", "invalid interface name"}},
		{"up Steam --uplink wlp6s0", 1, []string{`invalid lane name "Steam": use 1 to 32 of a-z 0-9 _ -`}},
		{"up ../x --uplink wlp6s0", 1, []string{`invalid lane name "../x"`}},
		{"down nosuch", 1, []string{"uplane: down nosuch: ", "no such lane"}},
		{"remove nosuch", 1, []string{"uplane: remove nosuch: ", "no such lane"}},
		{"status nosuch", 1, []string{"uplane: nosuch: no such lane", "uplane list"}},
		{"plan nosuch", 1, []string{"uplane: plan nosuch: ", "no such lane"}},
	} {
		r := s.uplaneTry(strings.Fields(tt.args)...)
		if r.code != tt.code || r.out != "" || strings.Contains(r.err, "Usage:") {
			t.Errorf("%s: exit code %d, not %d, with %q on stdout and on stderr:\n%s", tt.args, r.code, tt.code, r.out, r.err)
		}
		for _, w := range tt.words {
			if !strings.Contains(r.err, w) {
				t.Errorf("%s: no %q in:\n%s", tt.args, w, r.err)
			}
		}
	}
	if got := s.run("up", "--help"); !strings.Contains(got, "--uplink") || !strings.Contains(got, "Usage:") {
		t.Errorf("up --help:\n%s", got)
	}

	nobody := func(args ...string) result {
		return s.try("setpriv", append([]string{"--reuid", "65534", "--regid", "65534", "--clear-groups", "uplane"}, args...)...)
	}
	if r := nobody("list"); r.code != 0 || !strings.Contains(r.out, "steam") {
		t.Errorf("nobody may not read: %+v", r)
	}
	s.requireFailure(nobody("remove", "steam"), 1, "uplane: remove steam: permission denied", "try: the same with sudo")
	s.requireFailure(nobody("up", "steam", "--uplink", "wlp6s0"), 1, "permission denied", "sudo")
	if r := s.try("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "uplaned"); r.code != 1 || !strings.Contains(r.err, "must run as root") {
		t.Errorf("the daemon as nobody: %+v", r)
	}
	if r := s.try("uplaned"); r.code != 1 || !strings.Contains(r.err, "another uplaned is running") {
		t.Errorf("a second daemon: %+v", r)
	}

	s.uplane.Kill()
	for _, args := range []string{"list", "status --json", "up steam --uplink wlp6s0", "reload"} {
		s.requireFailure(s.uplaneTry(strings.Fields(args)...), 1, "the daemon is not running", "try: ", "uplaned")
	}
	s.sh("mv /run/dbus/system_bus_socket /run/dbus/gone")
	s.requireFailure(s.uplaneTry("list"), 1, "the system bus can't be reached", "try: ")
	s.sh("mv /run/dbus/gone /run/dbus/system_bus_socket")
	s.start()
}
