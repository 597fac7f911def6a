package engine

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"uplane/internal/firewall"
)

// openFirewall opens the backend that mode names, and takes away what an
// earlier daemon built with the other one.
func openFirewall(log *slog.Logger, mode string, created []string) (*firewall.Firewall, error) {
	fw, err := firewall.Open(mode, created)
	if err != nil {
		return nil, err
	}
	rest := "iptables"
	if fw.Name() != "nftables" {
		rest = "nftables"
	}
	other, err := firewall.Open(rest, created)
	if err != nil {
		return fw, nil // it is not there, so nothing of ours is
	}
	chains, err := other.Observe()
	if err != nil || len(chains) == 0 {
		return fw, nil
	}
	log.Info("removing the chains of another firewall backend", "backend", other.Name(), "now", fw.Name())
	if err := other.Apply(nil, chains); err != nil {
		return nil, fmt.Errorf("remove the chains of %s: %w", other.Name(), err)
	}
	return fw, nil
}

// watchFirewall calls changed after every change of the firewall, until ctx is done.
func watchFirewall(ctx context.Context, log *slog.Logger, fw *firewall.Firewall, changed func()) {
	if !fw.Events() {
		log.Warn("legacy iptables sends no events: changes of our chains by others are noticed late", "backend", fw.Name())
		return
	}
	const longest = time.Minute
	for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, longest) {
		err := fw.Follow(ctx, changed)
		if ctx.Err() != nil {
			return
		}
		log.Error("firewall", "error", err, "retry", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}
