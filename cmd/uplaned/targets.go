package main

import (
	"context"

	"uplane/internal/reconcile"
	"uplane/policy"
)

// upLanes lists the lanes whose systemd targets shall be started.
func upLanes(loop *reconcile.Loop) func(context.Context) ([]string, error) {
	return func(ctx context.Context) (lanes []string, err error) {
		statuses, err := loop.List(ctx)
		for _, s := range statuses {
			if s.State == policy.Up || s.State == policy.Degraded {
				lanes = append(lanes, s.Lane.Name)
			}
		}
		return lanes, err
	}
}
