package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Uplane is our own software in a world's host.
type Uplane struct {
	world  *World
	daemon service
	logged int // what earlier daemons logged, bytes
}

// LaneStatus is what "uplane status --json" says of a lane, as far as tests look.
type LaneStatus struct {
	Name, State, Reason string
	Uplink              struct{ Interface, Connection string }
	Profile             string
	Bridge, Subnet      string
	Table               int
	IPv4                struct {
		Addresses []string
		Gateway   string
	}
	DNS   []string
	Since string
}

// Build builds both binaries into dir, as the module's root has them in ./cmd.
func Build(dir string, flags ...string) error {
	args := append(append([]string{"build"}, flags...), "-o", dir+"/", "uplane/cmd/...")
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// BuildRelease puts the source of an earlier release, which is a commit, into dir, and its binaries into dir/bin.
func BuildRelease(dir, commit string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	source := filepath.Join(dir, "source.tar")
	archive := exec.Command("git", "archive", "--output="+source, commit)
	archive.Dir = root
	if out, err := archive.CombinedOutput(); err != nil {
		return fmt.Errorf("the release %s is not in the git history of %s: clone all of it, or run \"git fetch --unshallow\": %w: %s", commit, root, err, out)
	}
	for _, args := range [][]string{{"tar", "-xf", source}, {"go", "build", "-o", "bin/", "./cmd/..."}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build the release %s: %s: %w: %s", commit, strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// Install puts the binaries of a folder, and what comes with them, into the host by "make install",
// and has the bus and NetworkManager, on a [Machine] systemd too, read what is new to them.
func (w *World) Install(bin string) (*Uplane, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	return w.install(root, bin)
}

// InstallRelease is Install of what [BuildRelease] has put into a folder.
func (w *World) InstallRelease(dir string) (*Uplane, error) {
	return w.install(dir, filepath.Join(dir, "bin"))
}

func (w *World) install(root, bin string) (*Uplane, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	// As a package's build does, with the binaries that are there ("-o build").
	args := []string{"-o", "build", "-o", "install-manual", "install", "BIN=" + bin}
	if !w.booted {
		args = append(args, "-o", "install-dispatcher") // a test of the daemon should not have another that helps it
	}
	if err := w.make(root, args...); err != nil {
		return nil, err
	}
	if err := w.reload(); err != nil {
		return nil, err
	}
	return &Uplane{world: w, daemon: w.service("uplaned", "--verbose")}, nil
}

// InstallDispatcher puts our NetworkManager dispatcher scripts into the host, which Install does only on a [Machine].
func (u *Uplane) InstallDispatcher() error {
	return u.make("install-dispatcher")
}

// InstallManual puts manual pages and shell completions into the host, which are made in a folder.
func (u *Uplane) InstallManual(dir string) error {
	return u.make("install-manual", "BIN="+dir)
}

func (u *Uplane) make(args ...string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	return u.world.make(root, args...)
}

// make makes targets of the Makefile in root, with the host as the place for what is installed.
func (w *World) make(root string, args ...string) error {
	make := exec.Command("make", append([]string{"--silent", "DESTDIR=" + w.Host.Path("/")}, args...)...)
	make.Dir = root
	if out, err := make.CombinedOutput(); err != nil {
		return fmt.Errorf("make %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// moduleRoot is where our Makefile is.
func moduleRoot() (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "uplane").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(root)), nil
}

// reload has what runs in the host read the files that are new.
func (w *World) reload() error {
	if w.booted {
		if err := w.verbose(); err != nil {
			return err
		}
		for _, args := range [][]string{{"daemon-reload"}, {"reload", "dbus", "NetworkManager"}, {"enable", "uplaned"}} {
			if _, err := w.Host.Run("systemctl", args...); err != nil {
				return err
			}
		}
		return nil
	}
	conn, err := dbus.Connect(w.Host.DBusAddress())
	if err != nil {
		return fmt.Errorf("connect to the host's bus: %w", err)
	}
	defer conn.Close()
	if err := conn.BusObject().Call("org.freedesktop.DBus.ReloadConfig", 0).Err; err != nil {
		return fmt.Errorf("make the bus read its policy: %w", err)
	}
	_, err = w.Host.Run("nmcli", "general", "reload", "conf")
	return err
}

// verbose has a booted host's daemon log the operations that it carries out, which tests count.
func (w *World) verbose() error {
	const dir = "/etc/systemd/system/uplaned.service.d"
	const text = "[Service]\nExecStart=\nExecStart=/usr/sbin/uplaned --verbose\n"
	if err := os.MkdirAll(w.Host.Path(dir), 0o755); err != nil {
		return err
	}
	return os.WriteFile(w.Host.Path(dir+"/verbose.conf"), []byte(text), 0o644)
}

// RefuseNetlink has daemons that are started from now on run as by [RefuseNetlink]. Not for a [Machine].
func (u *Uplane) RefuseNetlink(family int, with unix.Errno) {
	u.daemon.(*process).prepare = func() error { return RefuseNetlink(family, with) }
}

// Start starts the daemon and waits until it answers on the bus.
func (u *Uplane) Start(ctx context.Context) error {
	u.logged = len(u.Log())
	if err := u.daemon.start(); err != nil {
		return err
	}
	for {
		if _, err := u.Run(ctx, "list"); err == nil {
			return nil
		}
		if ctx.Err() != nil || !u.daemon.running() {
			return fmt.Errorf("uplaned does not answer: %s", u.Log())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Kill ends the daemon as a crash does. On a [Machine] systemd starts it again.
func (u *Uplane) Kill() { u.daemon.kill() }

// Stop ends the daemon as a shutdown does.
func (u *Uplane) Stop() error { return u.daemon.stop() }

// Running tells whether the daemon runs.
func (u *Uplane) Running() bool { return u.daemon.running() }

// PID is the daemon's process ID outside of the world; 0 on a [Machine].
func (u *Uplane) PID() int {
	if p, ok := u.daemon.(*process); ok && p.cmd != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// Log is what the daemon has logged.
func (u *Uplane) Log() string { return u.daemon.log() }

// Applied counts the operations that the present daemon has carried out.
func (u *Uplane) Applied() int { return strings.Count(u.Log()[u.logged:], "msg=applied") }

// Run runs the command line tool and returns what it printed.
func (u *Uplane) Run(ctx context.Context, args ...string) (string, error) {
	return u.world.Host.RunContext(ctx, "uplane", args...)
}

// Lane returns how a lane is.
func (u *Uplane) Lane(ctx context.Context, name string) (LaneStatus, error) {
	out, err := u.Run(ctx, "status", name, "--json")
	if err != nil {
		return LaneStatus{}, err
	}
	var doc struct{ Lanes []LaneStatus }
	if err := json.Unmarshal([]byte(out), &doc); err != nil || len(doc.Lanes) != 1 {
		return LaneStatus{}, fmt.Errorf("status --json: %w: %s", err, out)
	}
	return doc.Lanes[0], nil
}

// Wait waits until a lane is as ok says, and returns how it is.
func (u *Uplane) Wait(ctx context.Context, name string, ok func(LaneStatus) bool) (LaneStatus, error) {
	for {
		lane, err := u.Lane(ctx, name)
		if err == nil && ok(lane) {
			return lane, nil
		}
		select {
		case <-ctx.Done():
			return lane, fmt.Errorf("lane %s stays %s (%s), %+v: %w\n%s", name, lane.State, lane.Reason, lane, errors.Join(err, ctx.Err()), u.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
