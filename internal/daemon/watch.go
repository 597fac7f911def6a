package daemon

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"uplane/internal/firewall"
)

// firewallWatch opens firewall backends, and tells of changes of the one that was opened last.
type firewallWatch struct {
	log     *slog.Logger
	changed func()
	opened  chan *firewall.Firewall // the last one that nobody follows yet
}

func (w *firewallWatch) open(mode string) (Firewall, error) {
	fw, err := firewall.Open(mode)
	if err != nil {
		return nil, err
	}
	select {
	case <-w.opened:
	default:
	}
	w.opened <- fw
	return &patient{backend{fw}, make(chan struct{}, 1), w.changed}, nil
}

// backend is a firewall as the loop sees it.
type backend struct{ *firewall.Firewall }

func (b backend) RemoveLeftovers(ctx context.Context) (removed []string, err error) {
	found, err := b.Leftovers(ctx)
	errs := []error{err}
	for _, it := range found {
		if err := it.Remove(ctx); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, it.Name)
	}
	return removed, errors.Join(errs...)
}

// run follows until ctx is done.
func (w *firewallWatch) run(ctx context.Context) {
	var cancel context.CancelFunc = func() {}
	for {
		select {
		case <-ctx.Done():
			cancel()
			return
		case fw := <-w.opened:
			cancel()
			var fctx context.Context
			fctx, cancel = context.WithCancel(ctx)
			go w.follow(fctx, fw)
		}
	}
}

// follow calls changed after every change of a firewall, until ctx is done.
func (w *firewallWatch) follow(ctx context.Context, fw *firewall.Firewall) {
	if !fw.Events() {
		w.log.Warn("legacy iptables sends no events: changes of our chains by others are noticed late", "backend", fw.Name())
		return
	}
	const longest = time.Minute
	for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, longest) {
		err := fw.Follow(ctx, w.changed)
		if ctx.Err() != nil {
			return
		}
		w.log.Error("firewall", "error", err, "retry", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}
