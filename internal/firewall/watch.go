package firewall

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch calls changed once when it listens, so that nothing is missed between an earlier look and now, and then after
// every nftables transaction in this namespace, ours included (what changed is for Observe to say). It returns nil
// when ctx is done. Legacy iptables sends no events: see Events.
func Watch(ctx context.Context, changed func()) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	defer conn.Close()
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	changed()
	for {
		events, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // events were lost: something did change
			changed()
		case err != nil:
			return fmt.Errorf("watch nftables: %w", err)
		case endsTransaction(events):
			changed()
		}
	}
}

// endsTransaction finds the new generation, which the kernel announces once, after a transaction's other events.
func endsTransaction(events []netlink.Message) bool {
	for _, e := range events {
		if e.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
			return true
		}
	}
	return false
}
