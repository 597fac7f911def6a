package lab

import (
	"context"
	"errors"
	"syscall"
	"time"
)

// service is a daemon of the host: a [process] that the lab starts, or a [unit] of a machine's systemd.
type service interface {
	start() error
	stop() error // as a shutdown does
	kill()       // as a crash does
	running() bool
	log() string
}

// service returns the service of a name.
func (w *World) service(name string, args ...string) service {
	if w.booted {
		return &unit{host: w.Host, name: name}
	}
	return &process{node: w.Host.Node, name: name, args: args}
}

// process is a service that runs as a child of this process.
type process struct {
	node *Node
	name string
	args []string
	// prepare prepares the thread that starts it; nil: nothing.
	prepare func() error

	cmd   *Cmd
	ended chan struct{} // nil before the first start
}

func (p *process) start() error {
	cmd := p.node.Command(p.name, p.args...)
	cmd.prepare = p.prepare
	if err := cmd.startLogged(p.name); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(ended)
	}()
	p.cmd, p.ended = cmd, ended
	return nil
}

func (p *process) stop() error {
	if !p.running() {
		return nil
	}
	err := p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.ended
	return err
}

func (p *process) kill() {
	if p.running() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

func (p *process) running() bool {
	if p.ended == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// while returns a context that ends when the process does, too.
func (p *process) while(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	ended := p.ended
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

func (p *process) log() string { return p.node.place.log(p.name) }

// unit is a service of a booted machine.
type unit struct {
	host *Host
	name string
}

func (u *unit) systemctl(args ...string) error {
	_, err := u.host.Run("systemctl", append(args, u.name)...)
	return err
}

func (u *unit) start() error  { return u.systemctl("start") }
func (u *unit) stop() error   { return u.systemctl("stop") }
func (u *unit) running() bool { return u.systemctl("is-active", "--quiet") == nil }

func (u *unit) kill() {
	pid := u.mainPID()
	_ = u.systemctl("kill", "--kill-who=main", "--signal=KILL")
	// Until systemd has seen it, it takes the service for running and a start for done.
	_ = poll(context.Background(), 5*time.Millisecond, func() error {
		if u.mainPID() == pid {
			return errors.New("not seen")
		}
		return nil
	})
}

func (u *unit) mainPID() string {
	pid, _ := u.host.Run("systemctl", "show", "--property=MainPID", "--value", u.name)
	return pid
}

func (u *unit) log() string {
	log, err := u.host.Run("journalctl", "--no-pager", "--output=short-precise", "--unit="+u.name)
	if err != nil {
		return err.Error()
	}
	return log
}
