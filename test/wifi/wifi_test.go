//go:build wifi

package wifi

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"uplane/test/lab"
)

// TestWiFi is a day in the life of a lane on Wi-Fi. Its steps follow upon each other; "make test-wifi" runs it.
func TestWiFi(t *testing.T) {
	lab.RequireRoot(t) // to make the image
	if _, err := exec.LookPath(Program); err != nil {
		lab.Lacks(t, err.Error()+": run \"make setup-wifi\"")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Minute)
	defer cancel()
	d := &day{T: t, ctx: ctx, start: time.Now()}
	tar := d.software()
	d.step("boot", func() { d.boot(tar) })
	defer d.guest.Close()
	for _, step := range []struct {
		name string
		run  func()
	}{
		{"connect", d.connect},
		{"clock jump", d.clockJumps},
		{"deauthenticate", d.deauthenticate},
		{"access point off", d.accessPointOff},
		{"roam at home", d.roamsAtHome},
		{"another gateway", d.renews},
		{"roam away", d.roamsAway},
		{"wrong network", d.wrongNetwork},
		{"airplane mode", d.airplaneMode},
		{"suspend", d.suspend},
		{"reboot", d.reboot},
	} {
		d.step(step.name, step.run)
	}
}

// day is the guest and how far the test is.
type day struct {
	*testing.T
	ctx   context.Context
	start time.Time
	guest *Guest
}

// step runs a step, and ends the test when it has failed: the next would only fail too.
func (d *day) step(name string, run func()) {
	outer, began := d.T, time.Now()
	d.say("%s ...", name)
	ok := outer.Run(name, func(t *testing.T) {
		d.T = t
		run()
	})
	d.T = outer
	if !ok && d.guest != nil {
		d.logs()
	}
	d.say("%s took %.1f s", name, time.Since(began).Seconds())
	if !ok {
		d.FailNow()
	}
}

// logs shows what the guest has to say, for a step that failed.
func (d *day) logs() {
	out, err := d.guest.Run(d.ctx, `
		uplane status || true
		nmcli device; nmcli device wifi
		ip rule; ip route show table all
		journalctl --boot --no-pager --output=short-monotonic --lines=150
		true`)
	d.Log(out, err)
}

// say shows a line of progress at once (the tests run with -v).
func (d *day) say(format string, args ...any) {
	d.Helper()
	d.Logf("%5.1f s  "+format, append([]any{time.Since(d.start).Seconds()}, args...)...)
}

// software makes a tar file of Uplane's package, and of what is around the host.
func (d *day) software() string {
	dir := d.TempDir()
	tar := filepath.Join(dir, "disk.tar")
	deb, err := lab.BuildPackage(dir, "1.0")
	if err != nil {
		d.Fatal(err)
	}
	script := `
		mkdir "$1/root"
		cp -R root/. "$1/root"
		mkdir -p "$1/root/root"
		mv "$2" "$1/root/root/uplane.deb"
		tar --create --file "$1/disk.tar" --directory "$1/root" --owner=0 --group=0 .`
	if out, err := exec.Command("sh", "-ec", script, "software", dir, deb).CombinedOutput(); err != nil {
		d.Fatalf("make what goes into the guest: %v: %s", err, out)
	}
	d.say("built Uplane")
	return tar
}

// boot boots the guest, with Uplane on its disk.
func (d *day) boot(tar string) {
	var err error
	if d.guest, err = Boot(d.ctx, lab.Bookworm, tar, filepath.Dir(tar)); err != nil {
		d.Fatal(err)
	}
	d.say("booted")
	if failed := d.sh("journalctl --boot --output=short-monotonic | grep 'Failed with result' || true"); failed != "" {
		d.say("units that failed and recovered: %s", failed)
	}
	d.sh("dpkg --install /root/uplane.deb && systemctl is-active uplaned")
	d.say("installed the package")
}

// sh runs a script in the guest, which must succeed.
func (d *day) sh(script string) string {
	d.Helper()
	out, err := d.guest.Run(d.ctx, script)
	if err != nil {
		d.Fatal(err)
	}
	return out
}

// Gateways, as their own servers call them, see root/usr/local/lib/outside/setup.
var gateways = []string{"wire", "home", "attic", "annex", "phone"}

// arrived is what has arrived at a gateway, in packets: of the lane's probes and other traffic, and of the host's.
type arrived struct{ lane, host int }

// look asks all gateways, and checks what always holds: by the wire nothing of the lane arrives, and by radio nothing of
// the host.
func (d *day) look() map[string]arrived {
	d.Helper()
	out := d.sh(`for name in ` + strings.Join(gateways, " ") + `; do
		ip netns exec $name nft list counters | awk -v name=$name '$1 == "counter" { what = $2 } $1 == "packets" { print name, what, $2 }'
	done`)
	seen := map[string]arrived{}
	for line := range strings.Lines(out) {
		var name, what string
		var count int
		if _, err := fmt.Sscan(line, &name, &what, &count); err != nil {
			d.Fatalf("%v: %s", err, out)
		}
		at := seen[name]
		if what == "lane" {
			at.lane = count
		} else {
			at.host = count
		}
		seen[name] = at
	}
	for _, name := range gateways {
		at, there := seen[name]
		if !there || name == "wire" && at.lane > 0 || name != "wire" && at.host > 0 {
			d.Errorf("what arrived at which gateway: %+v", seen)
		}
	}
	return seen
}

// lane waits until the lane is as ok says.
func (d *day) lane(what string, ok func(lab.LaneStatus) bool) lab.LaneStatus {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.ctx, patience)
	defer cancel()
	for last := ""; ; {
		out, err := d.guest.Run(ctx, "uplane status steam --json")
		if out != "" {
			last = out
		}
		var doc struct{ Lanes []lab.LaneStatus }
		if err == nil {
			err = json.Unmarshal([]byte(out), &doc)
		}
		if err == nil && len(doc.Lanes) == 1 && ok(doc.Lanes[0]) {
			d.say("the lane %s", what)
			return doc.Lanes[0]
		}
		if ctx.Err() != nil {
			d.Fatalf("the lane never %s: %v: %s", what, err, last)
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// patience is how long a state may take to come: the guest is slow, and scans for networks ever more seldom.
const patience = 3 * time.Minute

// leavesBy waits until the lane is up by an address of a router, and checks that it reaches the internet by this gateway while the
// host does by the wire.
func (d *day) leavesBy(gateway, router string) {
	d.Helper()
	d.lane("is up by "+router, func(l lab.LaneStatus) bool {
		return l.State == "up" && l.Uplink.Interface == "wlp6s0" && l.IPv4.Gateway == router
	})
	before := d.look()
	if got := d.sh("uplane run steam -- curl --silent --show-error --max-time 60 http://203.0.113.10/"); got != gateway {
		d.Errorf("the lane leaves by %s, want %s", got, gateway)
	}
	if got := d.sh("curl --silent --show-error --max-time 60 http://203.0.113.20/"); got != "wire" {
		d.Errorf("the host leaves by %s", got)
	}
	after := d.look()
	if after[gateway].lane <= before[gateway].lane || after["wire"].host <= before["wire"].host {
		d.Errorf("the gateways do not see what arrives: %+v, then %+v", before, after)
	}
}

// failsClosed waits until the lane waits, and checks that from then on nothing of it arrives anywhere, though its
// programs try.
func (d *day) failsClosed() {
	d.Helper()
	lane := d.lane("waits", func(l lab.LaneStatus) bool { return l.State == "waiting" })
	d.say("its reason: %s", lane.Reason)
	before := d.look()
	d.wait(`for n in 1 2 3 4 5 6 7 8 9 10; do
			if ip netns exec steam ping -c1 -W1 203.0.113.10 >/dev/null 2>&1; then echo "ping $n gets an answer"; exit 1; fi
		done`)
	for name, at := range d.look() {
		if at.lane != before[name].lane {
			d.Errorf("%d packets of a lane without an uplink arrived at %s", at.lane-before[name].lane, name)
		}
	}
}

// wait runs a script that may take its time.
func (d *day) wait(script string) {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.ctx, patience)
	defer cancel()
	if _, err := d.guest.Run(ctx, script); err != nil {
		d.Fatal(err)
	}
}

// connect: from a profile that connects by itself, and a file, there is a lane.
func (d *day) connect() {
	d.sh(`mkdir -p /etc/uplane/lanes.d
		echo 'uplink = "ssid:homewifi"' >/etc/uplane/lanes.d/steam.toml
		uplane reload
		nmcli connection add type ethernet ifname enp7s0 con-name wired
		nmcli connection add type wifi ifname wlp6s0 con-name homewifi ssid homewifi wifi-sec.key-mgmt wpa-psk wifi-sec.psk 'correct horse'`)
	d.leavesBy("home", "192.168.50.1")
}

// clockJumps: by days, in both directions. It is the guest's own clock, which no container has.
func (d *day) clockJumps() {
	since := d.lane("is up", func(l lab.LaneStatus) bool { return l.State == "up" }).Since
	for _, jump := range []string{"+3 days", "-7 days", "+4 days"} {
		d.sh("date --set '" + jump + "'; uplane reload")
		d.leavesBy("home", "192.168.50.1")
	}
	if got := d.lane("is up", func(l lab.LaneStatus) bool { return l.State == "up" }).Since; got != since {
		d.Errorf("up since %s, and since %s after the clock jumped", since, got)
	}
}

// joined runs a script, after which the host's radio joins an access point.
func (d *day) joined(point, script string) {
	d.Helper()
	d.wait(`joins() { journalctl -b -u ap@` + point + ` | grep -c AP-STA-CONNECTED || true; }
		before=$(joins)
		` + script + `
		until [ $(joins) -gt $before ]; do sleep 0.3; done`)
	d.say("joined %s", point)
}

// deauthenticate: the access point throws the radio out, which comes back.
func (d *day) deauthenticate() {
	d.joined("home", "hostapd_cli -i wlan1 deauthenticate $(cat /sys/class/net/wlp6s0/address)")
	d.leavesBy("home", "192.168.50.1")
}

// accessPointOff: the lane fails closed until it is back.
func (d *day) accessPointOff() {
	d.sh("systemctl stop ap@home")
	d.failsClosed()
	d.sh("systemctl start ap@home")
	d.leavesBy("home", "192.168.50.1")
}

// roam has the radio change to another access point of its network.
func (d *day) roam(point, card string) {
	d.Helper()
	d.joined(point, `systemctl start ap@`+point+`
		bssid=$(ip netns exec `+point+` cat /sys/class/net/`+card+`/address)
		until wpa_cli -i wlp6s0 scan_results | grep -q $bssid; do
			wpa_cli -i wlp6s0 scan >/dev/null
			sleep 1
		done
		wpa_cli -i wlp6s0 roam $bssid`)
}

// roamsAtHome: the gateway stays the same.
func (d *day) roamsAtHome() {
	d.roam("attic", "wlan2")
	d.leavesBy("home", "192.168.50.1")
}

// renews: DHCP hands out another gateway, and the first one again.
func (d *day) renews() {
	for _, gateway := range []struct{ name, router string }{{"attic", "192.168.50.2"}, {"home", "192.168.50.1"}} {
		d.sh(`echo option:router,` + gateway.router + ` >/run/outside/home/options
			systemctl kill -s HUP dhcp@home`)
		d.leavesBy(gateway.name, gateway.router)
	}
}

// roamsAway: behind the other access point there is another network.
func (d *day) roamsAway() {
	d.roam("annex", "wlan3")
	d.leavesBy("annex", "192.168.60.1")
}

// wrongNetwork: a phone's hotspot serves one lane only.
func (d *day) wrongNetwork() {
	d.sh(`nmcli connection add type wifi ifname wlp6s0 con-name hotspot ssid hotspot wifi-sec.key-mgmt sae wifi-sec.psk 'correct horse' autoconnect no
		uplane profile limit hotspot backup
		systemctl stop ap@home ap@attic ap@annex
		systemctl start ap@phone`)
	d.wait("nmcli --wait 170 connection up hotspot")
	d.say("on the hotspot")
	d.failsClosed()
	d.sh("uplane up backup --uplink type:wifi")
	if got := d.sh("uplane run backup -- curl --silent --show-error --max-time 60 http://192.168.70.1/"); got != "phone" {
		d.Errorf("lane backup leaves by %s", got)
	}
	out, err := d.guest.Run(d.ctx, "uplane up chat --uplink type:wifi")
	if err == nil || !strings.Contains(out, "hotspot on wlp6s0 serves only backup") {
		d.Errorf("a lane that the hotspot does not serve: %v: %s", err, out)
	}
	d.sh(`uplane remove backup
		uplane remove chat
		nmcli connection delete hotspot
		systemctl stop ap@phone
		systemctl start ap@home`)
	d.leavesBy("home", "192.168.50.1")
}

// airplaneMode, by NetworkManager and by the kernel's switch.
func (d *day) airplaneMode() {
	for _, radio := range []struct{ off, on string }{
		{"nmcli radio wifi off", "nmcli radio wifi on"},
		{"rfkill block wifi", "rfkill unblock wifi"},
	} {
		d.sh(radio.off)
		d.failsClosed()
		// The kernel's switch is for all radios of the guest, and hostapd does not come back by itself.
		d.sh(radio.on + "\nsystemctl restart ap@home")
		d.leavesBy("home", "192.168.50.1")
	}
}

// suspend: the lid is closed and opened. NetworkManager takes the radio down before, and the daemon
// looks at everything again after.
func (d *day) suspend() {
	up := func(l lab.LaneStatus) bool { return l.State == "up" }
	since := d.lane("is up", up).Since
	ctx, cancel := context.WithTimeout(d.ctx, patience)
	defer cancel()
	if err := d.guest.Suspend(ctx); err != nil {
		d.Fatal(err)
	}
	d.say("woke up")
	// The access point slept as well, and hostapd does not notice.
	d.sh("systemctl restart ap@home")
	d.lane("is up anew", func(l lab.LaneStatus) bool { return up(l) && l.Since != since })
	d.leavesBy("home", "192.168.50.1")
	if got := d.sh("journalctl --boot --unit=uplaned | grep -c 'woken up from sleep' || true"); got != "1" {
		d.Errorf("the daemon heard of waking up %s times, want once", got)
	}
}

// reboot: the lane is there again by itself.
func (d *day) reboot() {
	if err := d.guest.Reboot(d.ctx); err != nil {
		d.Fatal(err)
	}
	d.say("booted again")
	d.leavesBy("home", "192.168.50.1")
}
