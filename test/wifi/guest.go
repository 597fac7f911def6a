// Package wifi runs a Debian with real Wi-Fi: a guest of QEMU, without a network device of its own, whose kernel has five
// radios made of software (mac80211_hwsim). One is the host's; hostapd makes access points of the others. What is in the guest
// beside Debian and Uplane is in the folder root. The processor is emulated, so everything takes some ten times as long.
package wifi

import (
	"context"
	_ "embed"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"uplane/test/lab"
)

//go:embed image.sh
var recipe string

// Guest is a machine that QEMU emulates.
type Guest struct {
	agent   *peer // qemu-guest-agent, in the guest
	monitor *peer // QEMU itself
	console string
	end     func()
}

// Program is the emulator.
const Program = "qemu-system-x86_64"

// Boot starts a guest from the image of a release, which is made when there is none, with a tar file as its second disk. It
// ends with Close, and with this process. What it writes to its disk lasts as long as it does.
func Boot(ctx context.Context, release lab.Debian, tar, dir string) (*Guest, error) {
	image, err := release.Image(ctx, recipe)
	if err != nil {
		return nil, err
	}
	g := &Guest{console: filepath.Join(dir, "console")}
	agent, agentEnd, err := newPeer()
	if err != nil {
		return nil, err
	}
	defer agentEnd.Close()
	monitor, monitorEnd, err := newPeer()
	if err != nil {
		return nil, err
	}
	defer monitorEnd.Close()
	g.agent, g.monitor = agent, monitor

	qemu := exec.Command("nice", "-n", "5", Program,
		"-machine", "pc,usb=off", "-accel", "tcg,tb-size=256", "-cpu", "qemu64", "-smp", "1", "-m", "768",
		"-nodefaults", "-display", "none", "-serial", "file:"+g.console,
		"-kernel", filepath.Join(image, "kernel"), "-initrd", filepath.Join(image, "initrd"),
		"-append", "console=ttyS0 loglevel=4 mitigations=off quiet systemd.show_status=error",
		"-drive", "if=virtio,format=raw,snapshot=on,file="+filepath.Join(image, "disk"),
		"-drive", "if=virtio,format=raw,readonly=on,file="+tar,
		"-device", "virtio-rng-pci",
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=agent,fd=3", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
		"-chardev", "socket,id=monitor,fd=4", "-mon", "chardev=monitor,mode=control")
	qemu.ExtraFiles = []*os.File{agentEnd, monitorEnd}
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var complaint strings.Builder
	qemu.Stderr = &complaint
	started, ended := make(chan error), make(chan struct{})
	go func() {
		// The kernel takes the end of the thread that started it for the parent's.
		runtime.LockOSThread()
		err := qemu.Start()
		started <- err
		if err == nil {
			_ = qemu.Wait() // it is killed
		}
		agent.Close()
		monitor.Close()
		close(ended)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	g.end = func() {
		_ = qemu.Process.Kill()
		<-ended
	}
	err = g.monitor.call(ctx, "qmp_capabilities", nil, nil)
	if err == nil {
		err = g.WaitBoot(ctx)
	}
	if err != nil {
		g.Close()
		return nil, fmt.Errorf("boot a guest: %w: %s%s", err, complaint.String(), g.Console())
	}
	return g, nil
}

// Close ends the guest.
func (g *Guest) Close() { g.end() }

// Console is what the guest has written to its serial console.
func (g *Guest) Console() string {
	text, _ := os.ReadFile(g.console)
	return string(text)
}

// WaitBoot waits until all that the guest starts has started.
func (g *Guest) WaitBoot(ctx context.Context) error {
	if err := g.agent.call(ctx, "guest-ping", nil, nil); err != nil {
		return err
	}
	// A unit may have failed and be up by now: that was seen once, and then there is none in the list.
	failed, err := g.Run(ctx, "systemctl is-system-running --wait >/dev/null || systemctl list-units --failed --plain --no-legend")
	if err == nil && failed != "" {
		err = fmt.Errorf("units have failed:\n%s", failed)
	}
	return err
}

// Reboot boots the guest again, by itself.
func (g *Guest) Reboot(ctx context.Context) error {
	// Nobody waits for the answer, which the agent may not live to give.
	if err := g.agent.ask("guest-exec", map[string]any{"path": "/bin/systemctl", "arg": []string{"reboot"}}); err != nil {
		return err
	}
	if _, err := g.monitor.next(ctx, func(m message) bool { return m.Event == "RESET" }); err != nil {
		return fmt.Errorf("wait for the guest to reset: %w", err)
	}
	return g.WaitBoot(ctx)
}

// Suspend suspends the guest, as closing a lid does, and waits until it is awake again. All of it
// sleeps but the processor, for five seconds: from S3 this kernel does not return in QEMU's
// emulation, and from s2idle its clock does not wake it.
//
// Nothing is asked meanwhile: when the driver of the agent's channel suspends, it discards what the
// agent has not read, and that question is never answered. So the guest says on its console that it
// is awake.
func (g *Guest) Suspend(ctx context.Context) error {
	const awake = "awake again"
	script := `
		cd /sys/power
		echo platform >pm_test
		before=$(cat suspend_stats/success)
		systemctl suspend
		until [ $(cat suspend_stats/success) -gt $before ]; do sleep 0.5; done
		echo ` + awake + ` >/dev/ttyS0`
	seen := len(g.Console())
	err := g.agent.ask("guest-exec", map[string]any{"path": "/bin/sh", "arg": []string{"-ec", script}})
	if err != nil {
		return err
	}
	for !strings.Contains(g.Console()[seen:], awake) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the guest to wake up: %w", ctx.Err())
		case <-time.After(300 * time.Millisecond):
		}
	}
	return nil
}

// Run runs a shell script in the guest as root, and returns what it printed.
func (g *Guest) Run(ctx context.Context, script string) (string, error) {
	var started struct {
		PID int `json:"pid"`
	}
	err := g.agent.call(ctx, "guest-exec", map[string]any{
		"path": "/bin/sh", "arg": []string{"-ec", "exec 2>&1\n" + script}, "capture-output": true,
	}, &started)
	if err != nil {
		return "", fmt.Errorf("%s: %w", script, err)
	}
	var status struct {
		Exited           bool
		ExitCode, Signal int
		Out              string `json:"out-data"`
	}
	for !status.Exited {
		if err := g.agent.call(ctx, "guest-exec-status", started, &status); err != nil {
			return "", fmt.Errorf("%s: %w", script, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	data, err := base64.StdEncoding.DecodeString(status.Out)
	out := strings.TrimSpace(string(data))
	if status.ExitCode != 0 || status.Signal != 0 {
		err = fmt.Errorf("%s: exit code %d: %s", script, status.ExitCode, out)
	}
	return out, err
}
