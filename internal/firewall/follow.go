package firewall

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// follower counts transactions. While it runs, who looked since the last one need not look again; asking the kernel
// would be the greater part of the time in which a lane follows its gateway.
type follower struct {
	running atomic.Bool
	events  atomic.Uint64
}

// Follow calls changed once when it listens, so that nothing is missed between an earlier look and now, and then after
// every nftables transaction in this namespace, ours included (what changed is for Observe to say). It returns nil when
// ctx is done, and may run beside all other methods. Legacy iptables sends no events: see Events.
func (f *follower) Follow(ctx context.Context, changed func()) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("follow nftables: %w", err)
	}
	defer conn.Close()
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("follow nftables: %w", err)
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	tell := func() {
		f.events.Add(1)
		changed()
	}
	tell()
	f.running.Store(true)
	defer f.running.Store(false)
	for {
		events, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // events were lost: something did change
			tell()
		case err != nil:
			return fmt.Errorf("follow nftables: %w", err)
		case endsTransaction(events):
			tell()
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

// seen is something that was read, and when.
type seen[T any] struct {
	value      T
	generation uint32 // that it was read at; 0: never
	events     uint64 // that were counted by then
}

// look returns what was read last as long as that holds, or else what read returns.
func (s *seen[T]) look(f *follower, read func() (T, error)) (T, error) {
	events := f.events.Load() // before anything is read: what comes meanwhile makes the next call look again
	if s.generation != 0 {
		if f.running.Load() && events == s.events {
			return s.value, nil
		}
		now, err := generation()
		if err != nil {
			return s.value, err
		}
		if now == s.generation {
			s.events = events
			return s.value, nil
		}
	}
	var value T
	at, err := steady(func() (err error) {
		value, err = read()
		return err
	})
	if err != nil {
		s.generation = 0
		return value, err
	}
	*s = seen[T]{value, at, events}
	return value, nil
}
