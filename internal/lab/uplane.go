package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// Uplane is our own software in a world's host.
type Uplane struct {
	world  *World
	daemon *Cmd
	logged int // what earlier daemons logged, bytes
}

// LaneStatus is what "uplane status --json" says of a lane, as far as tests look.
type LaneStatus struct {
	Name, State, Reason string
	Uplink              struct{ Interface, Connection string }
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

// Install puts the binaries of a folder, and what comes with them, into the host.
func (w *World) Install(bin string) (*Uplane, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "uplane").Output()
	if err != nil {
		return nil, fmt.Errorf("find the module: %w", err)
	}
	packaging := filepath.Join(strings.TrimSpace(string(root)), "packaging")
	for from, to := range map[string]string{
		filepath.Join(bin, "uplane"):  "/usr/bin/uplane",
		filepath.Join(bin, "uplaned"): "/usr/sbin/uplaned",

		filepath.Join(packaging, "dbus/org.uplane.Uplane1.conf"):    "/usr/share/dbus-1/system.d/org.uplane.Uplane1.conf",
		filepath.Join(packaging, "dbus/org.uplane.Uplane1.service"): "/usr/share/dbus-1/system-services/org.uplane.Uplane1.service",
		filepath.Join(packaging, "polkit/org.uplane.policy"):        "/usr/share/polkit-1/actions/org.uplane.policy",
		filepath.Join(packaging, "networkmanager/90-uplane.conf"):   "/etc/NetworkManager/conf.d/90-uplane.conf",
		filepath.Join(packaging, "iproute2/uplane.conf"):            "/etc/iproute2/rt_protos.d/uplane.conf",
	} {
		if err := copyFile(from, w.Host.Path(to)); err != nil {
			return nil, err
		}
	}
	conn, err := dbus.Connect(w.Host.DBusAddress())
	if err != nil {
		return nil, fmt.Errorf("connect to the host's bus: %w", err)
	}
	defer conn.Close()
	if err := conn.BusObject().Call("org.freedesktop.DBus.ReloadConfig", 0).Err; err != nil {
		return nil, fmt.Errorf("make the bus read its policy: %w", err)
	}
	if out, err := w.Host.Run("nmcli", "general", "reload", "conf"); err != nil {
		return nil, fmt.Errorf("make NetworkManager read its configuration: %w: %s", err, out)
	}
	return &Uplane{world: w}, nil
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// Start starts the daemon and waits until it answers on the bus.
func (u *Uplane) Start(ctx context.Context) error {
	u.logged = len(u.Log())
	cmd, err := u.world.Host.Start("uplaned")
	if err != nil {
		return err
	}
	u.daemon = cmd
	for {
		if _, err := u.Run(ctx, "list"); err == nil {
			return nil
		}
		if ctx.Err() != nil || cmd.ProcessState != nil {
			return fmt.Errorf("uplaned does not answer: %s", u.Log())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Kill ends the daemon as a crash does.
func (u *Uplane) Kill() {
	_ = u.daemon.Process.Kill()
	_ = u.daemon.Wait()
}

// PID is the daemon's process ID outside of the world.
func (u *Uplane) PID() int { return u.daemon.Process.Pid }

// Log is what the daemon has logged.
func (u *Uplane) Log() string { return u.world.Host.Log("uplaned") }

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
