package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"uplane/test/lab"
)

// machine is a booted Debian with the daemon and a lane, steam.
type machine struct {
	*lab.Machine
	*bench // at its place there
}

// benchPath is where the machine's users find this program.
const benchPath = "/usr/local/bin/bench"

// rule lets Alice have systemd start what she wants.
const rule = `polkit.addRule(function(action, subject) {
	if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == "alice")
		return polkit.Result.YES;
});`

// boot boots a machine. What users need of root to run programs by other means than Uplane, they have.
func (b *bench) boot(release lab.Debian) (*machine, error) {
	booted, err := lab.Boot(b.ctx, release, lab.Plain, lab.Options{NMLogLevel: "WARN", Packages: []string{"firejail", "passt"}})
	if err != nil {
		return nil, err
	}
	m := &machine{booted, &bench{b.ctx, b.bin, benchPath}}
	if err := m.prepare(b.self); err != nil {
		return nil, errors.Join(err, booted.Close())
	}
	return m, nil
}

// prepare takes the path of this program.
func (m *machine) prepare(self string) error {
	if err := m.Connect(m.ctx, quietWire, lab.WiFiProfile); err != nil {
		return err
	}
	uplane, err := m.Install(m.bin)
	if err != nil {
		return err
	}
	if err := uplane.Start(m.ctx); err != nil {
		return err
	}
	if _, err := uplane.Run(m.ctx, "up", "steam", "--uplink", lab.WiFi); err != nil {
		return err
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	err = errors.Join(
		os.WriteFile(m.Host.Path(benchPath), program, 0o755),
		os.WriteFile(m.Host.Path("/etc/polkit-1/rules.d/10-alice.rules"), []byte(rule), 0o644),
	)
	if err != nil {
		return err
	}
	_, err = m.Host.RunContext(m.ctx, "sed", "-i", "s/^restricted-network yes/restricted-network no/", "/etc/firejail/firejail.config")
	return err
}

// unitProperties are what systemd was told of the unit of a program of Alice's, as systemd-run takes it, but for how the
// program says that it is ready, which "true" does not.
func (m *machine) unitProperties() (args []string, err error) {
	text, err := m.Alice.Run("uplane", "run", "steam", "--", "sh", "-ec", "cat /run/systemd/transient/$(sed -n s,^0::.*/,,p /proc/self/cgroup)")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(text) {
		name, _, ok := strings.Cut(line, "=")
		if ok && !slices.Contains([]string{"Description", "ExecStart", "Type", "NotifyAccess"}, name) {
			args = append(args, "-p", strings.TrimSpace(line))
		}
	}
	if len(args) == 0 {
		return nil, fmt.Errorf("no properties in %q", text)
	}
	return args, nil
}

// askInternet is a program that prints as whom the internet sees it.
var askInternet = fmt.Sprintf(`import socket
s = socket.create_connection(("%v", %d), 5)
print(s.recv(64).decode().rsplit(":", 1)[0])`, lab.WhoamiAddr, lab.WhoamiPort)

// trialTime is for a runner that hangs.
const trialTime = 10 * time.Second

// leavesByWifi has a runner run a program that asks the internet. It returns why that did not leave by the Wi-Fi, or
// an empty text.
func (m *machine) leavesByWifi(c *runner) (why string) {
	// With all of its processes, and their ends of a pipe.
	command := slices.Concat([]string{"--signal=KILL", fmt.Sprint(trialTime.Seconds())}, c.prefix, []string{"python3", "-c", askInternet})
	cmd := c.node.CommandContext(m.ctx, "timeout", command...)
	cmd.WaitDelay = time.Second
	text, err := cmd.CombinedOutput()
	out := strings.Join(strings.Fields(string(text)), " ")
	if err != nil {
		return fmt.Sprintf("%v, at most %v: %.200s", err, trialTime, out)
	}
	if !strings.HasSuffix(out, m.Wifi.Public.String()) {
		return fmt.Sprintf("it leaves by another way: %q", out)
	}
	return ""
}
