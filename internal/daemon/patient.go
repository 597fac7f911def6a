package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"uplane/policy"
)

// patience is how long the loop waits for a call of the firewall. Commands wait for the lock of iptables, or hang:
// meanwhile routes, rules and DNS of all lanes have to follow.
const patience = 2 * time.Second

// errBusy is what calls get while one that nobody waits for any more goes on.
var errBusy = errors.New("an earlier call of the firewall has not ended yet")

// patient is a firewall that can't hold up the loop: a call that takes too long is an error, though it goes on.
type patient struct {
	Firewall
	turn chan struct{} // has one while a call goes on
	late func()        // called when a call that nobody waits for any more has ended
}

// await makes a call of a patient firewall.
func await[T any](p *patient, call func() (T, error)) (value T, err error) {
	select {
	case p.turn <- struct{}{}:
	default:
		return value, errBusy
	}
	type result struct {
		value T
		err   error
	}
	done, left := make(chan result, 1), make(chan struct{})
	go func() {
		var r result
		defer func() {
			if problem := recover(); problem != nil {
				r.err = fmt.Errorf("internal error: %v", problem)
			}
			<-p.turn
			done <- r
			select {
			case <-left:
				p.late()
			default:
			}
		}()
		r.value, r.err = call()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.value, r.err
	case <-timer.C:
	}
	close(left)
	select {
	case r := <-done: // in the last moment
		return r.value, r.err
	default:
		return value, fmt.Errorf("the firewall has not answered for %v", patience)
	}
}

func (p *patient) Observe() (policy.State, error) { return await(p, p.Firewall.Observe) }

func (p *patient) Apply(ops []policy.Op, want policy.State) error {
	_, err := await(p, func() (struct{}, error) { return struct{}{}, p.Firewall.Apply(ops, want) })
	return err
}

func (p *patient) Doors() (map[string]bool, policy.State, error) {
	type doors struct {
		drops map[string]bool
		have  policy.State
	}
	d, err := await(p, func() (d doors, err error) {
		d.drops, d.have, err = p.Firewall.Doors()
		return d, err
	})
	return d.drops, d.have, err
}

func (p *patient) Missing(ops []policy.Op) ([]string, error) {
	return await(p, func() ([]string, error) { return p.Firewall.Missing(ops) })
}

func (p *patient) Sweep(created []string) ([]string, error) {
	left, err := await(p, func() ([]string, error) { return p.Firewall.Sweep(created) })
	if err != nil && left == nil {
		left = created // nobody knows
	}
	return left, err
}

func (p *patient) RemoveLeftovers(ctx context.Context) ([]string, error) {
	return await(p, func() ([]string, error) { return p.Firewall.RemoveLeftovers(ctx) })
}
